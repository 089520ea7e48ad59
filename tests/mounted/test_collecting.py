"""`heliosfs gc` on a live mount: writers go on, what is live stays, the disk gives the rest back."""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore, heliosfs, wait_until

pytestmark = pytest.mark.mounted


def disk_bytes(store: Path) -> int:
    """Of packs and database."""
    return sum(
        entry.stat().st_blocks * 512
        for directory in (store / "packs", store / "db")
        for entry in os.scandir(directory)
    )


def collect(point: Path, *words: str) -> dict[str, object]:
    reply = json.loads(heliosfs("-C", point, "gc", *words, "--json").stdout)
    assert isinstance(reply, dict) and reply["ok"] and reply["verb"] == "gc"
    return reply


def persisted(point: Path) -> None:
    wait_until(lambda: json.loads((point / ".helios/status").read_bytes())["persisted"], "stored")


def test_writers_go_on_while_garbage_is_collected(fresh: MountedStore) -> None:
    point = fresh.point
    dice = random.Random(5)
    keep = {f"keep-{number}": dice.randbytes(150_000) for number in range(20)}
    for name, data in keep.items():
        (point / name).write_bytes(data)
    for number in range(60):
        (point / f"drop-{number}").write_bytes(dice.randbytes(150_000))
    (point / ".helios/snapshots/s").mkdir()
    persisted(point)
    full = disk_bytes(fresh.store)
    for number in range(60):
        (point / f"drop-{number}").unlink()
    assert collect(point)["freed_chunks"] == 0

    stop = threading.Event()
    wrong: list[str] = []
    written: dict[str, bytes] = {}

    def work(seed: int) -> None:
        """Creates, rewrites what was there before (garbage or not), renames, reads back."""
        own = random.Random(seed)
        before = random.Random(5)
        old = [before.randbytes(150_000) for _ in range(80)]
        number = 0
        while not stop.is_set():
            name = f"w{seed}-{number % 7}"
            data = own.choice(old) if number % 2 else own.randbytes(50_000)
            (point / (name + ".tmp")).write_bytes(data)
            (point / (name + ".tmp")).rename(point / name)
            written[name] = data
            if (point / name).read_bytes() != data:
                wrong.append(name)
            number += 1

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        (point / ".helios/snapshots/s").rmdir()
        dry = collect(point, "--dry-run")
        first = collect(point)
        for _ in range(3):
            collect(point)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert dry["freed_chunks"] and first["freed_chunks"]
    last = collect(point)
    live = last["live_bytes"]
    assert isinstance(live, int)
    assert disk_bytes(fresh.store) < live * 1.06 + (1 << 20) < full
    for name, data in {**keep, **written}.items():
        assert (point / name).read_bytes() == data, name
    fresh.unmount()
    assert fresh.check() == []


def test_who_may_and_what_is_said(fresh: MountedStore) -> None:
    point = fresh.point
    (point / "f").write_bytes(b"x" * 5000)
    persisted(point)
    (point / "f").unlink()
    text = heliosfs("-C", point, "gc", "--dry-run").stdout
    assert text.startswith("would free") and "1 chunks" in text
    assert heliosfs("-C", point, "gc").stdout.startswith("freed")
    with (point / ".helios/ctl").open("r+b", buffering=0) as ctl:
        ctl.write(b"gc\n")
        assert json.loads(ctl.read())["freed_chunks"] == 0
    assert heliosfs("-C", point, "gc", "now", check=False).returncode == 2
    fresh.unmount()
    offline = json.loads(heliosfs("gc", "--store", fresh.store, "--json").stdout)
    assert offline["ok"] and offline["live_chunks"] == 0
