"""Backing files: whole, verified, shared by content, within their budget, and gone when they should be."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from heliosfs.core.ids import NodeId
from heliosfs.filesystem import Caller, Filesystem, StoreOptions, open_filesystem
from heliosfs.storage import backing
from heliosfs.storage.backing import LEAST_BYTES
from heliosfs.storage.space import Disk

CALLER = Caller(0, 0)
_STEP = 1 << 20


@asynccontextmanager
async def opened(tmp_path: Path, budget: int = 64 << 20) -> AsyncIterator[Filesystem]:
    options = StoreOptions(backing=budget)
    async with open_filesystem(tmp_path / "store", options, create=True, background=False) as fs:
        yield fs


async def make(fs: Filesystem, name: bytes, content: bytes, parent: NodeId | None = None) -> NodeId:
    above = fs.branch_root(fs.find_branch(b"main").view).node if parent is None else parent
    node = (await fs.make(above, name, stat.S_IFREG | 0o644, CALLER)).node
    for at in range(0, len(content), _STEP):
        await fs.write(node, at, content[at : at + _STEP], CALLER)
    return node


def listed(fs: Filesystem) -> list[str]:
    directory = fs.layout.backing_dir
    return sorted(os.listdir(directory)) if directory.exists() else []


async def test_equal_content_shares_one_file_that_holds_it(tmp_path: Path) -> None:
    content = os.urandom(3 * LEAST_BYTES + 17)
    async with opened(tmp_path) as fs:
        first = await make(fs, b"first", content)
        await fs.wait_persisted()
        view = (await fs.fork(fs.find_branch(b"main").view, b"fork", CALLER)).extra["view"]
        assert isinstance(view, int)
        second = (await fs.lookup(fs.branch_root(fs.find_branch(b"main/fork").view).node, b"first")).node
        assert second != first
        one, two = await fs.backing(first), await fs.backing(second)
        assert one is not None and one is two and one.users == 2
        assert os.pread(one.fd, len(content) + 1, 0) == content
        assert len(listed(fs)) == 1


async def test_holes_stay_holes(tmp_path: Path) -> None:
    async with opened(tmp_path) as fs:
        node = await make(fs, b"sparse", b"")
        await fs.write(node, 40 << 20, b"end" * 1000, CALLER)
        await fs.wait_persisted()
        file = await fs.backing(node)
        assert file is not None
        assert os.pread(file.fd, 3000, 40 << 20) == b"end" * 1000
        assert os.fstat(file.fd).st_size == (40 << 20) + 3000
        assert file.blocks < 1 << 20


async def test_not_for_small_files_directories_or_what_is_not_stored_yet(tmp_path: Path) -> None:
    async with opened(tmp_path) as fs:
        small = await make(fs, b"small", b"x" * (LEAST_BYTES - 1))
        large = await make(fs, b"large", b"x" * LEAST_BYTES)
        assert await fs.backing(large) is None
        await fs.wait_persisted()
        assert await fs.backing(small) is None
        assert await fs.backing(fs.branch_root(fs.find_branch(b"main").view).node) is None
        assert await fs.backing(large) is not None


async def test_an_edit_is_another_content(tmp_path: Path) -> None:
    async with opened(tmp_path) as fs:
        node = await make(fs, b"file", b"a" * LEAST_BYTES)
        await fs.wait_persisted()
        before = await fs.backing(node)
        await fs.write(node, 0, b"b", CALLER)
        assert await fs.backing(node) is None
        await fs.wait_persisted()
        after = await fs.backing(node)
        assert before is not None and after is not None and after is not before
        assert os.pread(before.fd, 2, 0) == b"aa" and os.pread(after.fd, 2, 0) == b"ba"


async def test_many_askers_make_it_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as fs:
        node = await make(fs, b"file", os.urandom(4 * LEAST_BYTES))
        await fs.wait_persisted()
        found = []

        async def ask() -> None:
            found.append(await fs.backing(node))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert len({id(file) for file in found}) == 1 and found[0] is not None and found[0].users == 5


async def test_the_budget_removes_the_oldest_that_nobody_uses(tmp_path: Path) -> None:
    async with opened(tmp_path, budget=5 * LEAST_BYTES // 2) as fs:
        nodes = [await make(fs, b"%d" % number, os.urandom(LEAST_BYTES)) for number in range(4)]
        await fs.wait_persisted()
        files = [await fs.backing(node) for node in nodes[:2]]
        assert all(files)
        assert await fs.backing(nodes[2]) is None, "both are in use"
        assert files[0] is not None
        fs.backings.give_back(files[0])
        third = await fs.backing(nodes[2])
        assert third is not None and len(listed(fs)) == 2
        assert fs.backings.stats()["bytes"] <= 5 * LEAST_BYTES // 2
        assert files[0].key.hex() not in listed(fs)


async def test_a_large_content_is_copied_when_it_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backing, "AT_ONCE_BYTES", LEAST_BYTES)
    async with opened(tmp_path) as fs:
        node = await make(fs, b"file", b"z" * 2 * LEAST_BYTES)
        await fs.wait_persisted()
        assert await fs.backing(node) is None
        assert await fs.backing(node) is not None


async def test_damage_makes_no_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as fs:
        node = await make(fs, b"file", os.urandom(4 * LEAST_BYTES))
        await fs.wait_persisted()
        for pack in fs.layout.packs_dir.iterdir():
            content = bytearray(pack.read_bytes())
            # Of each chunk something: one byte may lie in a header, which reading needs nothing of.
            for at in range(0, len(content), LEAST_BYTES // 64):
                content[at] ^= 1
            pack.write_bytes(content)
        assert await fs.backing(node) is None
        assert listed(fs) == []


async def test_a_content_larger_than_the_budget_has_no_file(tmp_path: Path) -> None:
    async with opened(tmp_path, budget=3 * LEAST_BYTES) as fs:
        fits = await make(fs, b"fits", os.urandom(3 * LEAST_BYTES))
        large = await make(fs, b"large", os.urandom(3 * LEAST_BYTES + 1))
        await fs.wait_persisted()
        assert await fs.backing(large) is None
        file = await fs.backing(fits)
        assert file is not None
        # What is in use is not removed for another one, which is read through the filesystem then.
        other = await make(fs, b"other", os.urandom(2 * LEAST_BYTES))
        await fs.wait_persisted()
        assert await fs.backing(other) is None
        assert len(listed(fs)) == 1
        fs.backings.give_back(file)
        assert await fs.backing(other) is not None
        assert len(listed(fs)) == 1


async def test_they_give_way_to_what_is_written(tmp_path: Path) -> None:
    """A disk that has no room but what backing files take: those that nobody reads go, and none is made."""
    async with opened(tmp_path) as fs:
        nodes = [await make(fs, b"%d" % number, os.urandom(2 * LEAST_BYTES)) for number in range(4)]
        await fs.wait_persisted()
        used, unused, other = [await fs.backing(node) for node in nodes[:3]]
        assert used is not None and unused is not None and other is not None
        for file in (unused, other):
            fs.backings.give_back(file)
        taken = fs.space.taken(fs.persister.unstored)
        fs.space._disk = lambda _: Disk(1 << 40, taken + (1 << 20) * (3 - len(listed(fs))))
        fs._granted = 0
        await fs.write(nodes[3], 0, b"changed", CALLER)
        assert listed(fs) == [used.key.hex()]
        assert fs.backings.stats()["bytes"] == used.blocks
        fs.space._disk = lambda _: Disk(1 << 40, taken)
        assert await fs.backing(nodes[1]) is None
        assert listed(fs) == [used.key.hex()]
        fs._granted = 0
        with pytest.raises(OSError, match="no space left"):
            await fs.write(nodes[3], 0, b"again", CALLER)


@pytest.mark.parametrize("step", ["open", "pwrite", "ftruncate"])
async def test_a_full_disk_makes_no_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with opened(tmp_path) as fs:
        content = os.urandom(2 * LEAST_BYTES)
        node = await make(fs, b"f", content)
        await fs.wait_persisted()
        actual = getattr(os, step)

        def full(target: object, *args: object) -> object:
            name = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)  # type: ignore[call-overload]
            if "/backing/" in name:
                raise OSError(errno.ENOSPC, "no space left on device")
            return actual(target, *args)

        with monkeypatch.context() as patched:
            patched.setattr(backing.os, step, full)
            assert await fs.backing(node) is None
        assert listed(fs) == [] and fs.backings.stats()["bytes"] == 0
        assert await fs.read(node, 0, len(content)) == content
        file = await fs.backing(node)
        assert file is not None and os.pread(file.fd, len(content), 0) == content


async def test_nothing_is_left_of_an_earlier_process(tmp_path: Path) -> None:
    async with opened(tmp_path) as fs:
        await make(fs, b"file", b"")
        left = fs.layout.backing_dir
    left.mkdir(exist_ok=True)
    (left / "stale").write_bytes(b"stale")
    async with opened(tmp_path) as fs:
        assert listed(fs) == []
