"""A check names every damaged object with the versions, paths and bytes that it holds, and changes nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import trio

from cas.database import open_database
from cas.index import ChunkIndex
from cas.packfile import pack_path
from heliosfs.core import radix
from heliosfs.core.errors import FsError
from heliosfs.core.extent import ChunkRef
from heliosfs.core.ids import ROOT_INO, Ino, PageId, node_id
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Leaf
from heliosfs.filesystem import Caller, open_filesystem
from heliosfs.storage.checking.findings import Kind, Report
from heliosfs.storage.checking.verify import verify
from heliosfs.storage.reachable import kids_of
from tests.support.damage import BIG, fill, flip, main_view

ME = Caller(0, 0)


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        await fill(fs)
    return tmp_path / "store"


def state_of(directory: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            stat = os.stat(os.path.join(parent, name))
            found[os.path.join(parent, name)] = (stat.st_mtime_ns, stat.st_size)
    return found


def touched(report: Report) -> set[tuple[str, str | None, str, tuple[tuple[int, int], ...] | None, bool]]:
    return {(t.branch, t.snapshot, t.path, t.ranges, t.names) for f in report.findings for t in f.touches}


VERSIONS = (("main", None), ("main", "one"), ("main", "two"))


async def test_a_whole_store_is_clean_and_stays_as_it_is(store: Path) -> None:
    before = state_of(store)
    report = verify(store).report
    assert report.clean, report
    assert state_of(store) == before
    assert report.counts["branches"] == 1 and report.counts["snapshots"] == 2
    assert report.counts["pages"] > 5 and report.counts["chunks"] > 200
    assert report.notes == []


async def test_a_damaged_chunk_names_the_bytes_of_every_version_that_has_it(store: Path) -> None:
    async with open_filesystem(store, background=False) as fs:
        with fs.cache.blocking():
            big = next(i for _, i in radix.items(fs.engine.main.head.base, fs.cache) if i.size == len(BIG))  # type: ignore[union-attr]
            extents = list(radix.items(big.tree, fs.cache))
        start, extent = extents[3]
        assert isinstance(extent.source, ChunkRef)
        place = fs.index.place(extent.source.id)
        assert place is not None
        node = node_id(main_view(fs), big.ino)
    flip(pack_path(store / "packs", place.pack), place.offset + 500)
    report = verify(store).report
    (finding,) = report.findings
    assert (finding.kind, finding.object_id) == (Kind.CHUNK, extent.source.id.hex())
    end = start + extent.length
    assert touched(report) == {(*version, "big", ((start, end),), False) for version in VERSIONS}
    async with open_filesystem(store, background=False) as fs:
        assert await fs.read(node, 0, start) == BIG[:start]
        assert await fs.read(node, end, len(BIG)) == BIG[end:]
        for at in (start, end - 1):
            with pytest.raises(FsError):
                await fs.read(node, at, 1)
        # What is written again is stored again, and heals every version.
        other = await fs.make(node_id(main_view(fs), ROOT_INO), b"again", 0o100644, ME)
        await fs.write(other.node, 0, BIG, ME)
        await fs.wait_persisted()
        assert await fs.read(node, 0, len(BIG)) == BIG
    assert verify(store).report.clean


async def test_a_lost_index_record_is_a_chunk_of_which_a_copy_is_whole(store: Path) -> None:
    db = open_database(store / "db")
    index = ChunkIndex(db)
    victim = next(entry for entry in index.entries() if entry.raw_length == len(b"content 17"))
    index.delete_batch([victim.id])
    db.close()
    report = verify(store).report
    (finding,) = report.findings
    assert finding.kind is Kind.CHUNK and "another copy of it is whole" in finding.reason
    assert len(finding.touches) == 3


async def test_a_lost_page_of_inodes_names_the_files_in_it_and_a_lost_directory_itself(store: Path) -> None:
    async with open_filesystem(store, background=False) as fs:
        with fs.cache.blocking():
            assert fs.engine.main is not None and isinstance(fs.engine.main.head.base, bytes)
            table = fs.cache.node(PageId(fs.engine.main.head.base))
            leaf = kids_of(table)[-1]
            while not isinstance(fs.cache.node(leaf), Leaf):
                leaf = kids_of(fs.cache.node(leaf))[-1]
            lost = [inode for inode in fs.cache.node(leaf).values if isinstance(inode, Inode)]  # type: ignore[union-attr]
            directory = next(i for _, i in radix.items(table, fs.cache) if i.is_dir() and i.ino != ROOT_INO)
            names = directory.tree
        assert isinstance(names, bytes)
        fs.db.delete(b"p" + leaf)
    report = verify(store).report
    (finding,) = report.findings
    assert (finding.kind, finding.object_id) == (Kind.PAGE, leaf.hex())
    assert touched(report) == {
        (*version, f"dir/file-{inode.ino - lost[-1].ino + 199:03d}", None, False)
        for version in VERSIONS
        for inode in lost
    }
    db = open_database(store / "db")
    db.delete(b"p" + names)
    db.close()
    report = verify(store).report
    assert {finding.object_id for finding in report.findings} == {leaf.hex(), names.hex()}
    found = touched(report)
    assert {(*version, "dir", None, True) for version in VERSIONS} <= found


async def test_a_damaged_payload_in_the_log_names_its_blocks(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_filesystem(path, create=True, background=False) as fs:
        await fill(fs)
        view = main_view(fs)
        file = await fs.make(node_id(view, ROOT_INO), b"late", 0o100644, ME)
        await fs.write(file.node, 0, BIG[:50_000], ME)
        await fs.fsync(file.node)
        # A record that says how far the log was durable: without one, damage is taken for a torn tail.
        await fs.make(node_id(view, ROOT_INO), b"later", 0o100644, ME)
        inode = fs.engine.inode(view, Ino(file.node & 0xFF_FFFF_FFFF))
        ((_, extent),) = radix.items(inode.tree, fs.cache)
        segment, _ = fs.log.locate(extent.source.life)
        at = extent.source.offset + 20_000
        # The log of a store that was closed is empty.
        copy = tmp_path / "copy"
        shutil.copytree(path, copy, ignore=shutil.ignore_patterns("socket"))
    flip(copy / "log" / segment.name, at)
    report = verify(copy).report
    (finding,) = report.findings
    assert finding.kind is Kind.LOG_DATA
    assert touched(report) == {("main", None, "late", ((16384, 32768),), False)}


async def test_a_live_store_is_checked_beside_its_work(store: Path) -> None:
    async with open_filesystem(store, background=False) as fs:
        root = node_id(main_view(fs), ROOT_INO)
        file = await fs.make(root, b"unstored", 0o100644, ME)
        await fs.write(file.node, 0, b"x" * 5000, ME)
        steps: list[str] = []
        report = await fs.scrubber.check(tell=lambda stage, _done, _of: steps.append(stage))
        assert report.clean, report
        assert report.counts["log_records"] == 2 and {"pages", "packs", "trees"} <= set(steps)


async def test_a_scrub_is_told_in_status_goes_on_after_a_restart_and_keeps_its_result(store: Path) -> None:
    (pack,) = sorted((store / "packs").iterdir())[:1]
    flip(pack, 32 + 44 + 100)
    async with open_filesystem(store, background=False) as fs:
        assert fs.scrubber.status()["last"] is None
        assert fs.scrubber.start(0)
        assert not fs.scrubber.start(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.scrubber.run)
            while fs.scrubber.running is None:
                await trio.sleep(0)
            # As the daemon's end does.
            nursery.cancel_scope.cancel()
    async with open_filesystem(store) as fs:
        while fs.scrubber.status()["last"] is None:
            await trio.sleep(0.01)
        last = fs.scrubber.status()["last"]
        assert isinstance(last, dict) and last["damaged"] == 1 and last["complete"]
    async with open_filesystem(store) as fs:
        assert fs.scrubber.result() is not None and fs.scrubber.running is None
