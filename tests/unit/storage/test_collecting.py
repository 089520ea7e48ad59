"""Garbage collection: what nothing reaches goes, all else stays, and disk use falls to what is live."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from cas.digest import chunk_id
from cas.packfile import pack_path
from heliosfs.core.check import check
from heliosfs.core.errors import Damaged
from heliosfs.core.ids import ROOT_INO, NodeId, ViewNo, node_id
from heliosfs.core.imported import ImportedNode
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.storage.collecting.report import disk_bytes
from heliosfs.storage.importing import import_tree

ME = Caller(0, 0)
MIB = 1 << 20


def main_view(fs: Filesystem) -> ViewNo:
    assert fs.engine.main is not None
    return fs.engine.main.view


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def put(fs: Filesystem, name: bytes, data: bytes, view: ViewNo | None = None) -> NodeId:
    """A new file with this content."""
    root = node_id(main_view(fs) if view is None else view, ROOT_INO)
    file = await fs.make(root, name, 0o100644, ME)
    for at in range(0, len(data), MIB):
        await fs.write(file.node, at, data[at : at + MIB], ME)
    return file.node


async def content(fs: Filesystem, name: bytes, view: ViewNo | None = None) -> bytes:
    found = await fs.lookup(node_id(main_view(fs) if view is None else view, ROOT_INO), name)
    fs.chunks.clear()
    parts = []
    for at in range(0, found.attr.size, MIB):
        parts.append(await fs.read(found.node, at, MIB))
    return b"".join(parts)


async def remove(fs: Filesystem, name: bytes) -> None:
    node = node_id(main_view(fs), ROOT_INO)
    found = await fs.lookup(node, name)
    await fs.unlink(node, name, ME)
    fs.forget(found.node)


def whole(fs: Filesystem) -> None:
    with fs.cache.blocking():
        assert check(fs.engine) == []


def packs_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "packs").iterdir())


async def test_a_removed_file_gives_its_room_back_and_the_others_stay(tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with open_filesystem(store, create=True, background=False) as fs:
        await put(fs, b"keep", noise(1, 3 * MIB))
        await put(fs, b"drop", noise(2, 9 * MIB))
        await fs.wait_persisted()
        before = packs_bytes(store)
        assert before > 12 * MIB
        await remove(fs, b"drop")
        dry = await fs.collect(dry_run=True)
        assert packs_bytes(store) == before
        report = await fs.collect()
        assert dry.freed_chunks == report.freed_chunks > 9
        assert dry.freed_chunk_bytes == report.freed_chunk_bytes >= 9 * MIB
        assert report.stopped is None and report.waste_bytes < 64 << 10
        assert packs_bytes(store) < 3 * MIB * 1.01
        assert report.disk_after_bytes == disk_bytes(store / "packs", store / "db")
        assert fs.index.stats().chunks == report.live_chunks == len(list(fs.index.entries()))
        assert await content(fs, b"keep") == noise(1, 3 * MIB)
        whole(fs)
        again = await fs.collect()
        assert (again.freed_chunks, again.freed_pages, again.packs_removed, again.packs_rewritten) == (0, 0, 0, 0)
    async with open_filesystem(store) as fs:
        assert await content(fs, b"keep") == noise(1, 3 * MIB)
        whole(fs)


async def test_snapshots_forks_and_open_files_are_reached(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        view = main_view(fs)
        root = node_id(view, ROOT_INO)
        await put(fs, b"in-snapshot", noise(1, MIB))
        await fs.checkpoint(view, b"s", ME)
        await fs.fork(view, b"fork", ME)
        await remove(fs, b"in-snapshot")
        open_file = await put(fs, b"open", noise(2, MIB))
        await fs.wait_persisted()
        await fs.unlink(root, b"open", ME)
        await fs.wait_persisted()
        report = await fs.collect()
        assert report.freed_chunks == 0
        fs.chunks.clear()
        assert await fs.read(open_file, 0, MIB) == noise(2, MIB)
        snapshot = await fs.snapshot_root(view, b"s")
        file = await fs.lookup(snapshot.node, b"in-snapshot")
        assert await fs.read(file.node, 0, MIB) == noise(1, MIB)
        fs.forget(open_file)
        await fs.wait_persisted()
        assert (await fs.collect()).freed_chunk_bytes >= MIB
        await fs.forget_snapshot(view, b"s", ME)
        assert (await fs.collect()).freed_chunks == 0
        await fs.discard(fs.find_branch(b"main/fork").view, ME)
        assert (await fs.collect()).freed_chunk_bytes >= MIB
        assert fs.index.stats().chunks == 0
        whole(fs)


async def test_a_file_that_was_open_when_the_store_was_closed_goes(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        await put(fs, b"open", noise(2, MIB))
        await fs.unlink(node_id(main_view(fs), ROOT_INO), b"open", ME)
        await fs.wait_persisted()
    async with open_filesystem(tmp_path / "store", background=False) as fs:
        assert (await fs.collect()).freed_chunk_bytes >= MIB
        assert fs.index.stats().chunks == 0


async def test_parts_of_old_chunks_that_only_live_trees_hold_stay(tmp_path: Path) -> None:
    """A cut stores new chunks for an edited file; the live file still reads parts of the old ones."""
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        old = noise(3, 2 * MIB)
        node = await put(fs, b"f", old)
        await fs.wait_persisted()
        await fs.write(node, 5000, b"edit", ME)
        cut_running = trio.Event()

        async def edit_during_the_cut() -> None:
            await cut_running.wait()
            await fs.write(node, MIB, b"again", ME)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(edit_during_the_cut)
            fs.collector.on_step = None
            nursery.start_soon(fs.persister.persist)
            await trio.sleep(0)
            cut_running.set()
        # No further cut: live extents are those of before.
        fs.persister.dirty = lambda: False  # type: ignore[method-assign]
        await fs.collect()
        wanted = bytearray(old)
        wanted[5000:5004] = b"edit"
        wanted[MIB : MIB + 5] = b"again"
        assert await content(fs, b"f") == bytes(wanted)


async def test_a_damaged_page_stops_a_collection_before_it_deletes(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        for number in range(200):
            await put(fs, b"%d" % number, b"x" * 100)
        await put(fs, b"gone", noise(4, MIB))
        await fs.wait_persisted()
        await remove(fs, b"gone")
        await fs.wait_persisted()
        head = fs.engine.main
        assert head is not None and head.head.parent.root is not None
        fs.db.delete(b"p" + head.head.parent.root)
        before = fs.index.stats()
        with pytest.raises(Damaged):
            await fs.collect()
        assert fs.index.stats() == before


async def test_killed_at_any_step_nothing_is_lost_and_the_next_collection_ends_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    steps: list[str] = []
    wanted = {b"f%d" % number: noise(number, 90_000) for number in range(0, 40, 4)}

    def kill(step: str) -> None:
        """What SIGKILL leaves: the store as it lies on the disk now."""
        steps.append(step)
        copy = tmp_path / f"killed-{len(steps)}-{step}"
        shutil.copytree(store, copy, ignore=shutil.ignore_patterns("lock", "socket"))

    async with open_filesystem(store, create=True, background=False) as fs:
        for number in range(40):
            await put(fs, b"f%d" % number, noise(number, 90_000))
            if number in (9, 19, 29, 39):
                # Packs of three kinds: all dead, partly dead, all alive.
                await fs.wait_persisted()
                await fs.pool.roll()
        for number in range(40, 60):
            await put(fs, b"f%d" % number, noise(number, 90_000))
        await fs.wait_persisted()
        await fs.pool.roll()
        for number in range(60):
            if number % 4 or number >= 40:
                await remove(fs, b"f%d" % number)
        await fs.checkpoint(main_view(fs), b"s", ME)
        fs.collector.on_step = kill
        report = await fs.collect()
        assert report.packs_removed and report.packs_rewritten
        live = report.live_bytes
    assert {"roots-taken", "marked", "chunks-swept", "pages-swept", "sweep-synced", "pack-removed"} <= set(steps)
    assert {"copied", "repointed", "repoint-synced"} <= set(steps)
    for number, step in enumerate(steps, 1):
        killed = tmp_path / f"killed-{number}-{step}"
        async with open_filesystem(killed, background=False) as fs:
            whole(fs)
            for name, data in wanted.items():
                assert await content(fs, name) == data, step
            await fs.collect()
            for name, data in wanted.items():
                assert await content(fs, name) == data, step
            assert fs.index.stats().stored_bytes == live
            assert packs_bytes(killed) < live * 1.06 + 4096, step


async def test_a_worker_that_was_told_of_a_chunk_can_count_on_it(tmp_path: Path) -> None:
    """The race: the index has a chunk that nothing reaches, a cut is told so, a collection wants to delete it."""
    data = noise(7, 60_000)
    for step in ("roots-taken", "marked", "chunks-swept", "pages-swept"):
        async with open_filesystem(tmp_path / step, create=True, background=False) as fs:
            await put(fs, b"first", data)
            await fs.wait_persisted()
            await remove(fs, b"first")
            await fs.wait_persisted()
            asked = fs.pool.stats().chunks_new
            going = trio.Event()

            def at(reached: str, step: str = step, going: trio.Event = going) -> None:
                if reached == step:
                    going.set()

            async def write_it_again(fs: Filesystem = fs, going: trio.Event = going) -> None:
                await going.wait()
                await put(fs, b"second", data)
                await fs.wait_persisted()

            fs.collector.on_step = at
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_it_again)
                await fs.collect()
            assert await content(fs, b"second") == data
            assert fs.pool.stats().chunks_new in (asked, asked + 1)
            report = await fs.collect()
            assert (report.live_chunks, report.freed_chunks) == (1, 0)
            whole(fs)


async def test_a_long_import_keeps_what_it_was_told_of_and_what_it_stored(tmp_path: Path) -> None:
    """Two collections while an import runs: it was told of garbage before the first one began."""
    source = tmp_path / "source"
    source.mkdir()
    files = {f"f{number}": noise(number, 70_000) for number in range(30)}
    for name, data in files.items():
        (source / name).write_bytes(data)
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        for number in range(15):
            await put(fs, b"f%d" % number, noise(number, 70_000))
        await fs.wait_persisted()
        for number in range(15):
            await remove(fs, b"f%d" % number)
        await fs.wait_persisted()
        adopt = fs.adopt
        reports = []

        async def late(*arguments: Any, **more: Any) -> Any:
            # All files are stored, or were found stored; no ref names them yet.
            for _ in range(2):
                reports.append(await fs.collect())
            return await adopt(*arguments, **more)

        fs.adopt = late  # type: ignore[method-assign]
        await import_tree(fs, os.fsencode(source), b"main", lambda _files, _bytes: None, ME)
        assert [report.freed_chunks for report in reports] == [0, 0]
        assert reports[0].claimed_chunks >= 30
        for name, data in files.items():
            assert await content(fs, name.encode()) == data
        report = await fs.collect()
        assert report.claimed_chunks == 0
        await fs.forget_snapshot(main_view(fs), b"latest", ME)
        whole(fs)


async def test_a_collection_during_an_adoption_keeps_its_pages(tmp_path: Path) -> None:
    nodes = [ImportedNode(-1, b"", 0o40755, 0, 0, 0, 5, 0)]
    nodes += [ImportedNode(0, b"%d" % n, 0o100644, 0, 0, 0, 5, 0, extents=[]) for n in range(1000)]
    for turns in (1, 5, 20):
        async with open_filesystem(tmp_path / f"store-{turns}", create=True, background=False) as fs:
            await put(fs, b"x", b"before")
            await fs.wait_persisted()

            async def collect(fs: Filesystem = fs, turns: int = turns) -> None:
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                await fs.collect()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(collect)
                await fs.adopt(main_view(fs), nodes, ME)
            # The record alone names the tree: a replay needs it, though it was undone since.
            view = main_view(fs)
            await fs.restore(view, fs.snapshots(view)[0].name, ME)
            for snapshot in fs.snapshots(view):
                await fs.forget_snapshot(view, snapshot.name, ME)
            assert await content(fs, b"x") == b"before"
            fs.persister.dirty = lambda: False  # type: ignore[method-assign]
            await fs.collect()
            shutil.copytree(fs.store_path, tmp_path / f"killed-{turns}", ignore=shutil.ignore_patterns("lock"))
            whole(fs)
        async with open_filesystem(tmp_path / f"killed-{turns}") as fs:
            assert fs.log.recovery.records
            whole(fs)
            assert await content(fs, b"x") == b"before"


async def test_reads_under_way_are_waited_for(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        await put(fs, b"f", noise(1, MIB))
        await fs.wait_persisted()
        await remove(fs, b"f")
        marked = trio.Event()
        fs.collector.on_step = lambda step: marked.set() if step == "marked" else None
        open_at: list[bool] = []
        roll = fs.pool.roll
        reading = True

        async def observed() -> None:
            # What follows the wait for reads.
            open_at.append(reading)
            await roll()

        fs.pool.roll = observed  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            with fs.reads.read():
                nursery.start_soon(fs.collect)
                await marked.wait()
                await trio.lowlevel.checkpoint()
                reading = False
        assert open_at == [False] and not fs.index.stats().chunks


async def test_a_damaged_chunk_keeps_its_pack(tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with open_filesystem(store, create=True, background=False) as fs:
        for number in range(10):
            await put(fs, b"f%d" % number, noise(number, 60_000))
        await fs.wait_persisted()
        victim = next(entry for entry in fs.index.entries())
        for number in range(10):
            found = await content(fs, b"f%d" % number)
            if chunk_id(found) == victim.id:
                damaged = b"f%d" % number
        for number in range(6):
            if b"f%d" % number != damaged:
                await remove(fs, b"f%d" % number)
        path = pack_path(store / "packs", victim.place.pack)
        data = bytearray(path.read_bytes())
        data[victim.place.offset + 100] ^= 1
        path.write_bytes(data)
        report = await fs.collect()
        assert report.damaged_chunks == 1
        assert path.exists() and fs.index.place(victim.id) == victim.place
        for number in range(6, 10):
            if b"f%d" % number != damaged:
                assert await content(fs, b"f%d" % number) == noise(number, 60_000)


async def test_a_full_disk_ends_rewriting_and_leaves_nothing_behind(tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with open_filesystem(store, create=True, background=False) as fs:
        for number in range(20):
            await put(fs, b"f%d" % number, noise(number, 60_000))
        await fs.wait_persisted()
        for number in range(15):
            await remove(fs, b"f%d" % number)
        copy_chunks = fs.pool.copy_chunks

        async def full(_entries: object) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        fs.pool.copy_chunks = full  # type: ignore[method-assign]
        report = await fs.collect()
        assert report.stopped is not None and report.freed_chunks == 15
        fs.pool.copy_chunks = copy_chunks  # type: ignore[method-assign]
        report = await fs.collect()
        assert report.stopped is None and report.packs_rewritten
        for number in range(15, 20):
            assert await content(fs, b"f%d" % number) == noise(number, 60_000)
