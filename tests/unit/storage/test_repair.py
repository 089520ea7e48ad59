"""A repair leaves a store that mounts, agrees with itself and lost only what only the damaged objects held."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cas.database import open_database
from cas.index import ChunkIndex
from cas.packfile import pack_numbers, pack_path
from heliosfs.core import radix
from heliosfs.core.check import check
from heliosfs.core.errors import FsError
from heliosfs.core.extent import ChunkRef
from heliosfs.core.ids import ROOT_INO, PageId, ino_of, node_id
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Branch, Leaf
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.storage.checking.findings import Kind
from heliosfs.storage.checking.quarantine import NAME
from heliosfs.storage.checking.repair import repair
from heliosfs.storage.reachable import kids_of
from tests.support.damage import BIG, fill, flip, main_view

ME = Caller(0, 0)


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        await fill(fs)
    return tmp_path / "store"


async def names(fs: Filesystem, path: bytes = b"") -> set[bytes]:
    view = main_view(fs)
    node = (await fs.resolve(view, path)).node if path else node_id(view, ROOT_INO)
    return {name for name, _, _ in await fs.readdir(node, 0, 10_000)}


async def content(fs: Filesystem, path: bytes) -> bytes:
    return await fs.read((await fs.resolve(main_view(fs), path)).node, 0, 1 << 22)


def checked(fs: Filesystem) -> None:
    with fs.cache.blocking():
        assert check(fs.engine) == []


async def works(fs: Filesystem) -> None:
    """New work is done and stored."""
    view = main_view(fs)
    file = await fs.make(node_id(view, ROOT_INO), b"new work", 0o100644, ME)
    await fs.write(file.node, 0, b"after the repair", ME)
    await fs.checkpoint(view, b"after", ME)
    await fs.wait_persisted()
    checked(fs)


def inode_leaves(fs: Filesystem) -> list[PageId]:
    """Pages of the inode table of main that hold inodes, in order."""
    assert fs.engine.main is not None
    found: list[PageId] = []

    def walk(page: PageId) -> None:
        node = fs.cache.node(page)
        if isinstance(node, Leaf):
            found.append(page)
        else:
            for kid in kids_of(node):
                walk(kid)

    with fs.cache.blocking():
        base = fs.engine.main.head.base
        assert isinstance(base, bytes)
        walk(PageId(base))
    return found


async def test_nothing_is_done_to_a_whole_store(store: Path) -> None:
    actions, report = repair(store)
    assert actions == [] and report.clean and not (store / NAME).exists()


async def test_a_chunk_with_another_copy_is_mended_from_it(store: Path) -> None:
    db = open_database(store / "db")
    index = ChunkIndex(db)
    victim = next(entry for entry in index.entries() if entry.raw_length == len(b"content 17"))
    index.delete_batch([victim.id])
    db.close()
    actions, report = repair(store)
    assert report.clean and any("mended from other copies" in line for line in actions)
    async with open_filesystem(store) as fs:
        assert await content(fs, b"dir/file-017") == b"content 17"
        assert fs.index.stats().chunks == sum(1 for _ in fs.index.entries())


async def test_a_pack_with_a_damaged_header_is_written_anew(store: Path) -> None:
    (number, *_) = pack_numbers(store / "packs")
    flip(pack_path(store / "packs", number), 20)
    _, report = repair(store)
    assert report.clean
    assert not pack_path(store / "packs", number).exists()
    assert list((store / NAME).glob(f"*/packs/pack-{number:08d}"))
    async with open_filesystem(store) as fs:
        assert await content(fs, b"big") == BIG
        await works(fs)


async def test_a_chunk_without_a_copy_stays_eio_for_its_range_until_it_is_written_again(store: Path) -> None:
    async with open_filesystem(store, background=False) as fs:
        with fs.cache.blocking():
            assert fs.engine.main is not None
            big = next(i for _, i in radix.items(fs.engine.main.head.base, fs.cache) if i.size == len(BIG))
            start, extent = list(radix.items(big.tree, fs.cache))[2]
        assert isinstance(extent.source, ChunkRef)
        place = fs.index.place(extent.source.id)
    assert place is not None
    flip(pack_path(store / "packs", place.pack), place.offset + 77)
    actions, report = repair(store)
    (finding,) = report.findings
    assert finding.kind is Kind.CHUNK and finding.object_id == extent.source.id.hex()
    assert any("can't be mended" in line for line in actions)
    assert list((store / NAME).glob(f"*/chunk-{extent.source.id.hex()}"))
    assert repair(store)[0] == [], "a second repair has nothing to do"
    async with open_filesystem(store) as fs:
        node = (await fs.resolve(main_view(fs), b"big")).node
        assert await fs.read(node, 0, start) == BIG[:start]
        with pytest.raises(FsError):
            await fs.read(node, start, 1)
        again = await fs.make(node_id(main_view(fs), ROOT_INO), b"again", 0o100644, ME)
        await fs.write(again.node, 0, BIG, ME)
        await fs.wait_persisted()
        assert await content(fs, b"big") == BIG
    assert repair(store)[1].clean


async def test_a_lost_page_of_inodes_takes_the_files_in_it_alone(store: Path) -> None:
    async with open_filesystem(store, background=False) as fs:
        leaf = inode_leaves(fs)[-1]
        with fs.cache.blocking():
            node = fs.cache.node(leaf)
        assert isinstance(node, Leaf) and all(isinstance(inode, Inode) for inode in node.values)
        lost = len(node.values)
        fs.db.delete(b"p" + leaf)
    actions, report = repair(store)
    assert report.clean, (actions, report)
    async with open_filesystem(store) as fs:
        assert await names(fs, b"dir") == {b"file-%03d" % number for number in range(200 - lost)}
        assert await content(fs, b"big") == BIG and await content(fs, b"dir/file-003") == b"content 3"
        checked(fs)
        await works(fs)
        await fs.restore(main_view(fs), b"one", ME)
        assert await content(fs, b"small") == b"small content"
        checked(fs)


async def test_a_lost_page_of_names_leaves_the_files_in_lost_and_found(store: Path) -> None:
    async with open_filesystem(store, background=False) as fs:
        directory = ino_of((await fs.resolve(main_view(fs), b"dir")).node)
        with fs.cache.blocking():
            tree = fs.engine.inode(main_view(fs), directory).tree
            assert isinstance(tree, bytes)
            branch = fs.cache.node(PageId(tree))
            assert isinstance(branch, Branch)
            fs.db.delete(b"p" + kids_of(branch)[0])
    _, report = repair(store)
    assert report.clean, report
    async with open_filesystem(store) as fs:
        left, found = await names(fs, b"dir"), await names(fs, b"lost+found")
        assert found and len(left) + len(found) == 200
        contents = {await content(fs, b"lost+found/" + name) for name in found}
        contents |= {await content(fs, b"dir/" + name) for name in left}
        assert contents == {b"content %d" % number for number in range(200)}
        await works(fs)


async def test_a_lost_page_of_extents_is_eio_and_never_zeros(tmp_path: Path) -> None:
    path = tmp_path / "store"
    pieces = 80
    async with open_filesystem(path, create=True, background=False) as fs:
        file = await fs.make(node_id(main_view(fs), ROOT_INO), b"holey", 0o100644, ME)
        for number in range(pieces):
            await fs.write(file.node, number * 8192, b"%4096d" % number, ME)
        await fs.wait_persisted()
        with fs.cache.blocking():
            tree = fs.engine.inode(main_view(fs), ino_of(file.node)).tree
            assert isinstance(tree, bytes)
            fs.db.delete(b"p" + kids_of(fs.cache.node(PageId(tree)))[0])
    _, report = repair(path)
    assert {finding.kind for finding in report.findings} == {Kind.CHUNK}, report
    assert all(touched.path == "holey" for finding in report.findings for touched in finding.touches)
    async with open_filesystem(path) as fs:
        checked(fs)
        node = (await fs.resolve(main_view(fs), b"holey")).node
        read = lost = 0
        for number in range(pieces):
            try:
                assert await fs.read(node, number * 8192, 4096) == b"%4096d" % number
                read += 1
            except FsError:
                lost += 1
        assert read and lost
        await works(fs)


async def test_a_log_that_cannot_be_read_ends_there_and_the_rest_is_kept(tmp_path: Path) -> None:
    path, copy = tmp_path / "store", tmp_path / "copy"
    async with open_filesystem(path, create=True, background=False) as fs:
        await fill(fs)
        root = node_id(main_view(fs), ROOT_INO)
        for number in range(20):
            file = await fs.make(root, b"late-%02d" % number, 0o100644, ME)
            await fs.write(file.node, 0, b"late content %d" % number, ME)
            if number == 10:
                segment, _ = fs.log.locate(fs.log.current_life)
                at = fs.log.end - fs.log._base
        await fs.fsync(file.node)
        await fs.make(root, b"claim", 0o100644, ME)
        shutil.copytree(path, copy)
    flip(copy / "log" / segment.name, at + 60)
    with pytest.raises(FsError):
        async with open_filesystem(copy):
            raise AssertionError("not reached")
    actions, report = repair(copy)
    assert report.clean and any("log ended at position" in line for line in actions), (actions, report)
    assert list((copy / NAME).glob("*/log/seg-*"))
    async with open_filesystem(copy) as fs:
        left = {name for name in await names(fs) if name.startswith(b"late")}
        assert left == {b"late-%02d" % number for number in range(11)}
        assert await content(fs, b"late-10") == b"late content 10"
        await works(fs)
    async with open_filesystem(copy) as fs:
        assert await content(fs, b"new work") == b"after the repair"


async def test_a_record_that_needs_a_lost_page_is_left_out_alone(tmp_path: Path) -> None:
    path, copy = tmp_path / "store", tmp_path / "copy"
    async with open_filesystem(path, create=True, background=False) as fs:
        await fill(fs)
        leaf = inode_leaves(fs)[-1]
        view = main_view(fs)
        lost = (await fs.resolve(view, b"dir/file-199")).node
        await fs.write(lost, 0, b"changed", ME)
        await fs.make(node_id(view, ROOT_INO), b"later", 0o100644, ME)
        await fs.fsync(lost)
        await fs.make(node_id(view, ROOT_INO), b"claim", 0o100644, ME)
        fs.db.delete(b"p" + leaf)
        shutil.copytree(path, copy)
    actions, report = repair(copy)
    assert report.clean, (actions, report)
    assert sum("left out" in line for line in actions) == 1
    async with open_filesystem(copy) as fs:
        assert {b"later", b"claim"} <= await names(fs)
        assert b"file-199" not in await names(fs, b"dir")
        await works(fs)


@pytest.mark.parametrize("file", ["CURRENT", "MANIFEST-*"])
async def test_a_database_that_cannot_be_opened_is_made_anew(store: Path, file: str) -> None:
    (victim,) = (store / "db").glob(file)
    flip(victim, victim.stat().st_size // 2)
    actions, report = repair(store)
    assert report.clean and any("database made anew" in line for line in actions), (actions, report)
    async with open_filesystem(store) as fs:
        assert await content(fs, b"big") == BIG
        assert await names(fs, b"dir") == {b"file-%03d" % number for number in range(200)}
        await works(fs)


async def test_a_format_file_is_written_anew(store: Path) -> None:
    flip(store / "format", 3)
    actions, report = repair(store)
    assert report.clean and actions
    async with open_filesystem(store) as fs:
        await works(fs)
