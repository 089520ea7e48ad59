"""Copies, holes and unnamed files in a real store: what they cost, and that they survive SIGKILL and storing."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

import pytest

from heliosfs.core.check import check
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ROOT_INO, NodeId, node_id
from heliosfs.core.ranges import KEEP_SIZE, PUNCH_HOLE
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.filesystem.ranges import WHOLE_FILE

ME = Caller(0, 0)
MIB = 1 << 20


def root_of(fs: Filesystem) -> NodeId:
    assert fs.engine.main is not None
    return node_id(fs.engine.main.view, ROOT_INO)


def checked(fs: Filesystem) -> None:
    with fs.cache.blocking():
        assert check(fs.engine) == []


async def test_a_copy_of_a_gibibyte_writes_only_its_record(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        root = root_of(fs)
        small = await fs.make(root, b"small", 0o100644, ME)
        data = random.Random(1).randbytes(MIB)
        await fs.write(small.node, 0, data, ME)
        big = await fs.make(root, b"big", 0o100644, ME)
        for at in range(0, 1 << 30, MIB):
            assert await fs.copy_range(small.node, 0, big.node, at, MIB, 0, ME) == MIB
        copy = await fs.make(root, b"copy", 0o100644, ME)
        before = fs.log.end
        assert await fs.copy_range(big.node, 5, copy.node, 0, WHOLE_FILE, 0, ME) == (1 << 30) - 5
        assert fs.log.end - before < 200
        assert copy.attr.size == (1 << 30) - 5
        at = 700 * MIB - 5
        assert await fs.read(copy.node, at, MIB) == data
        checked(fs)
        for name, node in ((b"big", big.node), (b"copy", copy.node)):
            await fs.unlink(root, name, ME)
            fs.forget(node)


async def test_copies_between_branches_survive_sigkill_and_storing(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(3 * MIB)
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        root = root_of(fs)
        assert fs.engine.main is not None
        view = fs.engine.main.view
        file = await fs.make(root, b"f", 0o100644, ME)
        for at in range(0, len(data), MIB):
            await fs.write(file.node, at, data[at : at + MIB], ME)
        await fs.checkpoint(view, b"s", ME)
        await fs.wait_persisted()
        frozen = (await fs.lookup((await fs.snapshot_root(view, b"s")).node, b"f")).node
        await fs.write(file.node, MIB, b"changed", ME)
        await fs.fork(view, b"c", ME)
        child = fs.find_branch(b"main/c").view
        target = await fs.make(node_id(child, ROOT_INO), b"t", 0o100644, ME)
        await fs.copy_range(frozen, 1000, target.node, 77, WHOLE_FILE, 0, ME)
        await fs.copy_range(file.node, MIB, target.node, 2 * MIB, 100, 0, ME)
        await fs.fallocate(target.node, PUNCH_HOLE | KEEP_SIZE, MIB, 4096, ME)
        expected = bytearray(bytes(77) + data[1000:])
        expected[2 * MIB : 2 * MIB + 100] = b"changed" + data[MIB + 7 : MIB + 100]
        expected[MIB : MIB + 4096] = bytes(4096)
        # The source goes, the copy stays.
        await fs.unlink(root, b"f", ME)
        await fs.forget_snapshot(view, b"s", ME)
        shutil.copytree(tmp_path / "store", tmp_path / "killed", ignore=shutil.ignore_patterns("lock", "socket"))
    for store in ("killed", "store", "killed"):
        async with open_filesystem(tmp_path / store) as fs:
            node = (await fs.resolve(fs.find_branch(b"main/c").view, b"t")).node
            got = b"".join([await fs.read(node, at, MIB) for at in range(0, len(expected), MIB)])
            assert got == bytes(expected)
            checked(fs)


async def test_a_file_without_a_name_goes_with_its_daemon_unless_it_was_linked(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        root = root_of(fs)
        kept = await fs.tmpfile(root, 0o100600, ME)
        lost = await fs.tmpfile(root, 0o100600, ME)
        for entry in (kept, lost):
            await fs.write(entry.node, 0, b"content", ME)
            assert entry.attr.nlink == 0
        # Stored as unlinked, then linked by a record behind the cut.
        await fs.wait_persisted()
        await fs.link(kept.node, root, b"named", ME)
        assert kept.attr.nlink <= 1
        assert (await fs.getattr(kept.node)).nlink == 1
        checked(fs)
        shutil.copytree(tmp_path / "store", tmp_path / "killed", ignore=shutil.ignore_patterns("lock", "socket"))
    async with open_filesystem(tmp_path / "killed") as fs:
        entry = await fs.lookup(root_of(fs), b"named")
        assert await fs.read(entry.node, 0, 99) == b"content"
        assert entry.attr.btime_ns <= entry.attr.mtime_ns
        assert fs.engine.main is not None
        assert fs.engine.main.head.files == 2
        checked(fs)


async def test_an_allocation_beyond_the_disk_is_enospc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        file = await fs.make(root_of(fs), b"f", 0o100644, ME)
        monkeypatch.setattr(fs.space, "room", lambda unstored: 40960)
        with pytest.raises(FsError) as caught:
            await fs.fallocate(file.node, 0, 0, 40961, ME)
        assert caught.value.errno == errno.ENOSPC
        assert file.attr.size == 0
        await fs.fallocate(file.node, 0, 0, 40960, ME)
        assert (await fs.getattr(file.node)).size == 40960


async def test_holes_are_found_in_what_is_stored(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        file = await fs.make(root_of(fs), b"f", 0o100644, ME)
        await fs.write(file.node, 50 * MIB, b"x" * 5000, ME)
    async with open_filesystem(tmp_path / "store") as fs:
        file = await fs.lookup(root_of(fs), b"f")
        assert await fs.seek(file.node, 0, os.SEEK_DATA) == 50 * MIB
        assert await fs.seek(file.node, 50 * MIB, os.SEEK_HOLE) == 50 * MIB + 5000
        with pytest.raises(FsError) as caught:
            await fs.seek(file.node, 50 * MIB + 5000, os.SEEK_HOLE)
        assert caught.value.errno == errno.ENXIO
