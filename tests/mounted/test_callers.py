"""Many callers at once: each gets its own reply, and a checkpoint holds every write(2) that had returned."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import shell
from tests.support.otherprocess import OtherProcess
from tests.support.versions import ask, control, snapshots

pytestmark = pytest.mark.mounted


def test_concurrent_callers_each_get_their_own_id(
    branch: Path, other: Callable[..., OtherProcess], local: Path
) -> None:
    """Ten processes, each its own replies: none wrong, all ids different."""
    callers = [other() for _ in range(10)]
    for number, caller in enumerate(callers):
        names = [b"c%d-%d" % (number, turn) for turn in range(40)]
        caller.send("burst", os.fspath(control(branch, "checkpoint")), names)
    ids = set()
    for caller in callers:
        for name, line in caller.result():
            reply = json.loads(line)
            assert reply["ok"] and reply["name"] == name.decode()
            ids.add(reply["id"])
    assert len(ids) == 400
    assert len(snapshots(branch)) == 401


def test_concurrent_touches_make_exactly_one_each(branch: Path) -> None:
    """Programs that end at once, started together."""
    script = "for i in $(seq 8); do (for j in $(seq 5); do touch .helios/checkpoint; done) & done; wait"
    shell(script, branch)
    assert len(snapshots(branch)) == 41


def test_nobody_elses_reply_in_the_page_cache(branch: Path, other: Callable[..., OtherProcess]) -> None:
    """One process asks and reads while another writes the same file all the time."""
    noisy = other()
    names = [b"n%d" % number for number in range(200)]
    noisy.send("burst", os.fspath(control(branch, "checkpoint")), names)
    for number in range(200):
        assert ask(control(branch, "checkpoint"), b"mine%d" % number)["name"] == f"mine{number}"
    assert all(json.loads(line)["name"] == name.decode() for name, line in noisy.result())


def test_a_checkpoint_holds_every_write_that_returned(branch: Path, other: Callable[..., OtherProcess]) -> None:
    """Writers count up; each says what it had written before the checkpoint, and the snapshot has at least that."""
    flag = branch / "stop"
    writers = [other() for _ in range(3)]
    for number, writer in enumerate(writers):
        writer.send("writes", branch / f"log{number}", b"w%d" % number, 100_000, flag)
    counter = other()
    counter.send("overwrites", branch / "counter", 100_000, flag)
    seen = []
    for number in range(30):
        sizes = []
        for writer in range(3):
            try:
                sizes.append(os.stat(branch / f"log{writer}").st_size)
            except FileNotFoundError:
                sizes.append(0)
        value = (branch / "counter").read_bytes() if (branch / "counter").exists() else b""
        control(branch, "checkpoint").write_bytes(b"s%d" % number)
        seen.append((sizes, value))
    flag.touch()
    for writer in (*writers, counter):
        writer.result()
    for number, (sizes, value) in enumerate(seen):
        held = control(branch, "snapshots") / f"s{number}"
        for writer, size in enumerate(sizes):
            path = held / f"log{writer}"
            text = path.read_bytes() if path.exists() else b""
            assert len(text) >= size
            lines = text.splitlines()
            assert lines == [b"w%d %08d" % (writer, line) for line in range(len(lines))]
        if value:
            assert int((held / "counter").read_bytes()) >= int(value)


def test_a_write_then_a_checkpoint_in_one_process(branch: Path) -> None:
    """What write(2) has returned for is in it, through a descriptor that stays open."""
    descriptor = os.open(branch / "f", os.O_CREAT | os.O_WRONLY)
    for number in range(50):
        os.pwrite(descriptor, b"%08d" % number, 0)
        control(branch, "checkpoint").write_bytes(b"s%d" % number)
    os.close(descriptor)
    for number in range(50):
        assert (control(branch, "snapshots") / f"s{number}/f").read_bytes() == b"%08d" % number
