"""Damage under a mount: EIO for its range alone, named by fsck and scrub beside the mount, healed by a write."""

from __future__ import annotations

import errno
import json
import os
import random
from typing import Any

import pytest

from cas.packfile import pack_numbers, pack_path
from cas.scrub import Entry, scrub_pack
from tests.support.damage import flip
from tests.support.mounts import MountedStore, heliosfs, wait_until

pytestmark = pytest.mark.mounted


def ask(*words: object, code: int = 0) -> dict[str, Any]:
    done = heliosfs(*(str(word) for word in words), "--json", check=False)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    reply = json.loads(done.stdout)
    assert isinstance(reply, dict)
    return reply


def readable(path: os.PathLike[str], size: int) -> dict[int, bytes | int]:
    """Every 4 KiB of a file, or the errno of reading it; the kernel's cache is passed by."""
    found: dict[int, bytes | int] = {}
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for at in range(0, size, 4096):
            try:
                found[at] = os.pread(descriptor, 4096, at)
            except OSError as error:
                found[at] = error.errno or 0
    finally:
        os.close(descriptor)
    return found


def test_a_damaged_chunk_under_a_mount(fresh: MountedStore) -> None:
    noise = random.Random(5)
    content = noise.randbytes(600_000)
    (fresh.point / "whole").write_bytes(b"nothing happened to me")
    (fresh.point / "hurt").write_bytes(content)
    ask("checkpoint", "before", "-C", fresh.point)
    assert ask("fsck", fresh.store)["report"]["clean"]
    fresh.unmount()
    packs = fresh.store / "packs"
    entries = [
        found
        for number in pack_numbers(packs)
        for found in scrub_pack(packs, number, lambda _: None)
        if isinstance(found, Entry) and found.raw_length > 16_384
    ]
    victim = entries[len(entries) // 2]
    flip(pack_path(packs, victim.place.pack), victim.place.offset + 1000)

    (finding,) = ask("fsck", fresh.store, code=12)["report"]["findings"]
    assert finding["object"] == victim.id.hex()
    touched = {(each["branch"], each["snapshot"], each["path"]) for each in finding["touches"]}
    assert touched == {("main", None, "hurt"), ("main", "before", "hurt")}
    ((start, end),) = finding["touches"][0]["ranges"]

    fresh.mount()
    for path in (fresh.point / "hurt", fresh.point / ".helios/snapshots/before/hurt"):
        for at, found in readable(path, len(content)).items():
            if at < end and at + 4096 > start:
                assert found == errno.EIO, at
            else:
                assert found == content[at : at + 4096], at
    assert (fresh.point / "whole").read_bytes() == b"nothing happened to me"
    (again,) = ask("fsck", fresh.store, code=12)["report"]["findings"]
    assert again == finding
    assert heliosfs("fsck", "--repair", str(fresh.store), check=False).returncode == 11

    assert ask("scrub", "start", "-C", fresh.point)["ok"]
    wait_until(lambda: ask("status", "-C", fresh.point)["scrub"]["last"], "the scrub")
    assert ask("status", "-C", fresh.point)["scrub"]["last"]["damaged"] == 1
    assert [each["object"] for each in ask("scrub", "status", "-C", fresh.point)["last"]["findings"]] == [
        victim.id.hex()
    ]

    # The same content, written again anywhere, is stored again: every version that has it is whole.
    (fresh.point / "copy").write_bytes(content)
    os.getxattr(fresh.point, "user.helios.root")
    assert (fresh.point / ".helios/snapshots/before/hurt").read_bytes() == content
    assert ask("fsck", fresh.store)["report"]["clean"]
