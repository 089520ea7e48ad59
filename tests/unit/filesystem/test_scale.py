"""What costs must not grow with: counted in pages, records, inodes and turns of others, never in time."""

from __future__ import annotations

import random
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from heliosfs.core import diff
from heliosfs.core.check import check
from heliosfs.core.ids import ROOT_INO, NodeId, ViewNo, node_id
from heliosfs.core.imported import ImportedNode
from heliosfs.core.inode import Inode
from heliosfs.filesystem import Caller, Filesystem, StoreOptions, adopting, open_filesystem

ME = Caller(0, 0)
DIRECTORY, REGULAR = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644


def tree(files: int, *, in_a_directory: int = 100, mtime: int = 5) -> list[ImportedNode]:
    nodes = [ImportedNode(-1, b"", DIRECTORY, 0, 0, 0, 1, 0)]
    for first in range(0, files, in_a_directory):
        directory = len(nodes)
        nodes.append(ImportedNode(0, b"d%05d" % (first // in_a_directory), DIRECTORY, 0, 0, 0, 1, 0))
        for number in range(first, min(first + in_a_directory, files)):
            nodes.append(ImportedNode(directory, b"f%06d" % number, REGULAR, 0, 0, 0, mtime, 0, extents=[]))
    return nodes


@asynccontextmanager
async def store(path: Path, memory: int = 64 << 20) -> AsyncIterator[tuple[Filesystem, ViewNo]]:
    async with open_filesystem(path, StoreOptions(memory=memory), create=True, background=False) as fs:
        yield fs, fs.find_branch(b"main").view


async def paths(fs: Filesystem, node: NodeId, at: bytes = b"") -> set[bytes]:
    found: set[bytes] = set()
    cookie = 0
    while part := await fs.readdir(node, cookie, 100):
        cookie = part[-1][2]
        for name, entry, _ in part:
            found.add(at + name)
            if stat.S_ISDIR(entry.attr.mode):
                found |= await paths(fs, entry.node, at + name + b"/")
    return found


# --- imports -------------------------------------------------------------------------------------------


async def test_an_import_keeps_a_part_of_its_inodes_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many files: as many as one part has, and those of one directory."""
    monkeypatch.setattr(adopting, "_PART", 200)
    most = 0
    drain = adopting.TreeBuilder.drain

    def counted(builder: adopting.TreeBuilder) -> object:
        nonlocal most
        drained = drain(builder)
        most = max(most, len(drained))
        return drained

    monkeypatch.setattr(adopting.TreeBuilder, "drain", counted)
    async with store(tmp_path / "store") as (fs, main):
        outcome = await fs.adopt(main, tree(3000), ME)
        assert outcome.extra["files"] == outcome.extra["changed"] == 3000 + 30 + 1
        assert 0 < most <= 200 + 101
        assert len(await paths(fs, node_id(main, ROOT_INO))) == 3030
        # Numbers that no kernel ever knew need no generation; each would be kept in the branch's ref for good.
        assert fs.engine.branches[main].generations == {}
        assert len(outcome.changes) == 1


@pytest.mark.parametrize("part", [1, 7, 10_000])
async def test_an_import_in_parts_is_the_same_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """Files that move, vanish, change type, have other names: wherever a part ends."""
    monkeypatch.setattr(adopting, "_PART", part)
    dice = random.Random(11)
    async with store(tmp_path / "store") as (fs, main):
        for round_ in range(6):
            nodes = [ImportedNode(-1, b"", DIRECTORY, 0, 0, 0, 1, 0)]
            wanted = set()
            names = {0: b""}
            files: list[int] = []
            for number in range(60):
                parent = dice.choice(list(names))
                name = b"n%d" % dice.randrange(40)
                path = names[parent] + name
                if path in wanted:
                    continue
                wanted.add(path)
                kind = dice.random()
                index = len(nodes)
                if kind < 0.3:
                    names[index] = path + b"/"
                    nodes.append(ImportedNode(parent, name, DIRECTORY, 0, 0, 0, number, 0))
                elif kind < 0.4 and files:
                    link = dice.choice(files)
                    nodes.append(ImportedNode(parent, name, REGULAR, 0, 0, 0, 5, 0, extents=[], link_to=link))
                else:
                    files.append(index)
                    nodes.append(ImportedNode(parent, name, REGULAR, 0, 0, 0, 5 + number, 0, extents=[]))
            before = fs.engine.branches[main].head.freeze(fs.engine.applied)
            outcome = await fs.adopt(main, nodes, ME)
            assert await paths(fs, node_id(main, ROOT_INO)) == wanted
            with fs.cache.blocking():
                assert check(fs.engine) == []
                after = fs.engine.branches[main].head
                assert outcome.extra["changed"] == len(list(diff.differences(before, after, fs.cache))), round_


async def test_an_imports_replay_tells_the_same(tmp_path: Path) -> None:
    """Its line in the operation log, and the generations of directories that come back."""
    async with store(tmp_path / "store") as (fs, main):
        await fs.adopt(main, tree(300), ME)
        first = fs.oplog(None, 9)
        kept = dict(fs.engine.branches[main].generations)
        fs.persister.dirty = lambda: False  # type: ignore[method-assign]
    async with store(tmp_path / "store") as (fs, main):
        assert fs.log.recovery.records
        assert fs.oplog(None, 9) == first
        assert fs.engine.branches[main].generations == kept


# --- restores ------------------------------------------------------------------------------------------


async def test_a_restore_of_many_files_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits until all of them have been compared; what is changed meanwhile is taken along."""
    looked: list[int] = []
    in_a_row = 0
    same = diff.same_record

    def counted(a: Inode | None, b: Inode | None) -> bool:
        nonlocal in_a_row
        in_a_row += 1
        return same(a, b)

    monkeypatch.setattr(diff, "same_record", counted)
    async with store(tmp_path / "store") as (fs, main):
        nodes = []
        root = node_id(main, ROOT_INO)
        for number in range(3000):
            nodes.append((await fs.make(root, b"f%d" % number, REGULAR, ME)).node)
        await fs.checkpoint(main, b"good", ME)
        for node in nodes:
            await fs.write(node, 0, b"wrecked", ME)
        done = trio.Event()
        outcomes = []

        async def restore() -> None:
            outcomes.append(await fs.restore(main, b"good", ME))
            done.set()

        late = b"late"
        async with trio.open_nursery() as nursery:
            in_a_row = 0
            nursery.start_soon(restore)
            while not done.is_set():
                await trio.lowlevel.checkpoint()
                looked.append(in_a_row)
                in_a_row = 0
                if len(looked) == 2:
                    await fs.make(root, late, REGULAR, ME)
                    await fs.unlink(root, b"f7", ME)
        assert len([count for count in looked if count]) > 3
        assert outcomes[0].extra["changed"] == 3000 + 2
        assert late not in await paths(fs, root)
        assert (await fs.getattr((await fs.lookup(root, b"f7")).node)).size == 0
        with fs.cache.blocking():
            assert check(fs.engine) == []


# --- listings ------------------------------------------------------------------------------------------


async def test_a_cold_listing_asks_for_its_pages_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries come by the hash of their names, their inodes from everywhere: one load for all of them."""
    async with store(tmp_path / "store") as (fs, main):
        await fs.adopt(main, tree(6000, in_a_directory=6000), ME)
    loads: list[int] = []
    async with store(tmp_path / "store") as (fs, main):
        directory = (await fs.lookup(node_id(main, ROOT_INO), b"d00000")).node
        read = fs._read
        monkeypatch.setattr(fs, "_read", lambda ids: loads.append(len(ids)) or read(ids))
        part = await fs.readdir(directory, 0, 200)
        assert len(part) >= 200
        assert len(loads) <= 16 and max(loads) > 20
        read_before = fs.cache.misses
        await fs.readdir(directory, 0, 200)
        assert fs.cache.misses == read_before


async def test_a_file_in_a_large_tree_finds_its_path_in_slices(tmp_path: Path) -> None:
    """What `setfattr user.helios.restore` on a file needs: the whole tree is looked through, others go on."""
    async with store(tmp_path / "store") as (fs, main):
        await fs.adopt(main, tree(20_000), ME)
        node = (await fs.resolve(main, b"d00003/f000333")).node
        directory = (await fs.resolve(main, b"d00100")).node
        turns = 0
        found: list[bytes] = []
        done = trio.Event()

        async def find() -> None:
            found.append(await fs.path_of(node))
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(find)
            while not done.is_set():
                await trio.lowlevel.checkpoint()
                turns += 1
        assert found == [b"d00003/f000333"]
        assert turns > 3
        assert await fs.path_of(directory) == b"d00100"


async def test_what_a_cut_is_storing_is_not_stored_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for `persisted` in status waits for the commit, not for the beginning of the cut."""
    async with store(tmp_path / "store") as (fs, main):
        await fs.make(node_id(main, ROOT_INO), b"f", REGULAR, ME)
        seen: list[object] = []
        sync = fs.pool.sync

        async def watched(*arguments: Any) -> None:
            seen.append(fs.status(main)["persisted"])
            await sync(*arguments)

        monkeypatch.setattr(fs.pool, "sync", watched)
        await fs.wait_persisted()
        assert seen == [False]
        assert fs.status(main)["persisted"] is True
