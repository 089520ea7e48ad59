"""A store that is closed and opened again is as it was, and goes on from there."""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
from pathlib import Path

import pytest
import trio

from cas.index import ChunkIndex
from cas.lock import left_in_order
from heliosfs.core.check import check
from heliosfs.core.errors import Damaged, StaleHandle
from heliosfs.core.ids import ROOT_INO, Ino, ViewNo, node_id
from heliosfs.core.imported import ImportedNode
from heliosfs.core.inode import MAX_SIZE
from heliosfs.core.oplog import Unlink
from heliosfs.filesystem import Caller, Filesystem, SetAttr, StoreOptions, open_filesystem
from heliosfs.filesystem.observing import UNSERVED

ME = Caller(0, 0)


async def names(fs: Filesystem) -> set[bytes]:
    assert fs.engine.main is not None
    root = node_id(fs.engine.main.view, ROOT_INO)
    with fs.cache.blocking():
        assert check(fs.engine) == []
    return {name for name, _, _ in await fs.readdir(root, 0, 10_000)}


async def test_names_added_after_a_reopening_are_kept(tmp_path: Path) -> None:
    wanted: set[bytes] = set()
    for round_ in range(3):
        async with open_filesystem(tmp_path / "store", create=True) as fs:
            assert fs.engine.main is not None
            assert await names(fs) == wanted
            root = node_id(fs.engine.main.view, ROOT_INO)
            for number in range(150 if round_ == 0 else 2):
                name = b"%d-%d" % (round_, number)
                await fs.make(root, name, 0o100644, ME)
                wanted.add(name)


async def test_a_reopened_store_does_not_replay_what_was_stored(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        assert fs.engine.main is not None
        await fs.make(node_id(fs.engine.main.view, ROOT_INO), b"x", 0o100644, ME)
    async with open_filesystem(tmp_path / "store") as fs:
        assert fs.log.recovery.records == 0
        assert await names(fs) == {b"x"}


async def test_a_last_cut_that_fails_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for the end finds in the lock's file whether the log has to be replayed."""
    store = tmp_path / "store"
    async with open_filesystem(store, create=True) as fs:
        assert fs.engine.main is not None
        root = node_id(fs.engine.main.view, ROOT_INO)
        await fs.make(root, b"x", 0o100644, ME)
        assert not left_in_order(store / "lock")
    assert left_in_order(store / "lock")

    async def refuse() -> None:
        raise OSError(errno.EIO, "no cut today")

    async with open_filesystem(store, background=False) as fs:
        monkeypatch.setattr(fs.persister, "persist", refuse)
        await fs.make(root, b"y", 0o100644, ME)
    assert not left_in_order(store / "lock")
    with pytest.raises(ExceptionGroup):
        async with open_filesystem(store, background=False) as fs:
            assert await names(fs) == {b"x", b"y"}
            raise ZeroDivisionError  # What it was opened for has failed, not its end.
    assert left_in_order(store / "lock")


async def test_a_store_that_no_daemon_serves_names_no_process(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        told = fs.status(None)
        assert {key: told[key] for key in UNSERVED} == UNSERVED
        assert told["worker_pid"] is None and told["restarts"] is None


async def test_content_survives_with_its_snapshots_and_branches(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        assert fs.engine.main is not None
        view = fs.engine.main.view
        file = await fs.make(node_id(view, ROOT_INO), b"f", 0o100644, ME)
        await fs.write(file.node, 0, b"one", ME)
        await fs.checkpoint(view, b"s", ME)
        await fs.wait_persisted()
        await fs.write(file.node, 0, b"two", ME)
        await fs.fork(view, b"c", ME)
        await fs.write(file.node, 0, b"three", ME)
    async with open_filesystem(tmp_path / "store") as fs:
        assert fs.engine.main is not None
        view = fs.engine.main.view
        child = fs.find_branch(b"main/c")
        assert await fs.read((await fs.resolve(view, b"f")).node, 0, 99) == b"three"
        assert await fs.read((await fs.resolve(child.view, b"f")).node, 0, 99) == b"two"
        root = await fs.snapshot_root(view, b"s")
        assert await fs.read((await fs.lookup(root.node, b"f")).node, 0, 99) == b"one"
        assert [s.name for s in fs.snapshots(child.view)] == [b"base"]
        assert fs.latest(view) == b"s"
        assert [line["verb"] for line in fs.oplog(view, 9)] == ["checkpoint", "branch"]
        await names(fs)


async def test_what_was_done_to_an_unlinked_file_behind_a_cut_is_replayed(tmp_path: Path) -> None:
    """A file unlinked and open at the cut, written to afterwards, and then SIGKILL: the store opens."""
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        assert fs.engine.main is not None
        root = node_id(fs.engine.main.view, ROOT_INO)
        file = await fs.make(root, b"f", 0o100644, ME)
        await fs.write(file.node, 0, b"before", ME)
        await fs.unlink(root, b"f", ME)
        await fs.wait_persisted()
        await fs.write(file.node, 3, b"after", ME)
        await fs.setattr(file.node, SetAttr(size=2, mode=0o600), ME)
        await fs.make(root, b"g", 0o100644, ME)
        kill(tmp_path / "store", tmp_path / "killed")
    async with open_filesystem(tmp_path / "killed") as fs:
        assert fs.log.recovery.records == 3
        assert await names(fs) == {b"g"}


async def test_a_branch_discarded_during_an_import_leaves_a_store_that_opens(tmp_path: Path) -> None:
    nodes = [ImportedNode(-1, b"", 0o40755, 0, 0, 0, 5, 0)]
    nodes += [ImportedNode(0, b"%d" % n, 0o100644, 0, 0, 0, 5, 0, extents=[]) for n in range(2000)]
    for turns in range(1, 12, 2):
        async with open_filesystem(tmp_path / "store", create=True) as fs:
            assert fs.engine.main is not None
            child = await fs.fork(fs.engine.main.view, b"c%d" % turns, ME)
            view = fs.find_branch(b"main/c%d" % turns).view
            assert child.extra["view"] == view

            async def discard(fs: Filesystem = fs, view: ViewNo = view, turns: int = turns) -> None:
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                await fs.discard(view, ME)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(discard)
                with contextlib.suppress(StaleHandle):
                    await fs.adopt(view, nodes, ME)
            kill(tmp_path / "store", tmp_path / f"killed-{turns}")
        async with open_filesystem(tmp_path / f"killed-{turns}") as fs:
            await names(fs)


async def test_readers_of_the_same_cold_chunks_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3 << 20)
    async with open_filesystem(tmp_path / "store", StoreOptions(memory=1 << 20), create=True) as fs:
        assert fs.engine.main is not None
        file = await fs.make(node_id(fs.engine.main.view, ROOT_INO), b"f", 0o100644, ME)
        for at in range(0, len(data), 1 << 20):
            await fs.write(file.node, at, data[at : at + (1 << 20)], ME)
        await fs.wait_persisted()

        async def read(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(30):
                at = rng.randrange(len(data))
                size = rng.choice([1000, 300_000, 1 << 20])
                assert await fs.read(file.node, at, size) == data[at : at + size]

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for seed in range(6):
                    nursery.start_soon(read, seed)


def kill(store: Path, copy: Path) -> None:
    """What SIGKILL leaves: the store as it lies on the disk now."""
    shutil.copytree(store, copy, ignore=shutil.ignore_patterns("lock", "socket"))


async def test_a_whole_record_that_fits_nothing_is_damage_with_its_place(tmp_path: Path) -> None:
    """Not a traceback of whatever broke on it; and opening has changed nothing."""
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        assert fs.engine.main is not None
        await fs.make(node_id(fs.engine.main.view, ROOT_INO), b"x", 0o100644, ME)
        await fs.wait_persisted()
        record = Unlink(ViewNo(77), Ino(5), fs.now(), b"nobody")
        place = fs.log.append(record.KIND, record.encode())
    for _ in range(2):
        with pytest.raises(Damaged) as raised:
            async with open_filesystem(tmp_path / "store"):
                pass
        assert f"log record at {place.lsn} (Unlink)" in str(raised.value)


async def test_an_index_that_cannot_be_read_refuses_the_store_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_filesystem(tmp_path / "store", create=True):
        pass

    def unreadable(_index: ChunkIndex) -> None:
        raise OSError(errno.EIO, "Corruption: block checksum mismatch")

    monkeypatch.setattr(ChunkIndex, "_load_sums", unreadable)
    with pytest.raises(Damaged, match="chunk index in the store's database"):
        async with open_filesystem(tmp_path / "store"):
            pass
    monkeypatch.undo()
    async with open_filesystem(tmp_path / "store"):
        pass


async def test_sparse_files_of_more_than_64_bits_together(tmp_path: Path) -> None:
    """They cost nothing to make, and a store that has them opens."""
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        assert fs.engine.main is not None
        view = fs.engine.main.view
        for number in range(5):
            file = await fs.make(node_id(view, ROOT_INO), b"%d" % number, 0o100644, ME)
            await fs.setattr(file.node, SetAttr(size=MAX_SIZE), ME)
        await fs.checkpoint(view, b"large", ME)
    for _ in range(2):
        async with open_filesystem(tmp_path / "store") as fs:
            assert fs.find_branch(b"main").size == 5 * MAX_SIZE
            assert await names(fs) == {b"%d" % number for number in range(5)}
