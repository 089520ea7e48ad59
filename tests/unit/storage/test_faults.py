"""One call of the store fails: who asked is told, nothing acknowledged is lost, and it works again by itself."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from rocksdict import WriteBatch

from heliosfs.core.check import check
from heliosfs.core.errors import Damaged
from heliosfs.core.ids import ROOT_INO, NodeId, node_id
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.storage import persist
from heliosfs.storage.calls import StoreCalls
from heliosfs.storage.importing import import_tree

ME = Caller(0, 0)
NAMES = [b"one", b"two", b"three"]


def root_of(fs: Filesystem) -> NodeId:
    assert fs.engine.main is not None
    return node_id(fs.engine.main.view, ROOT_INO)


def content(name: bytes) -> bytes:
    return random.Random(name).randbytes(100_000)


async def put(fs: Filesystem, name: bytes) -> None:
    entry = await fs.make(root_of(fs), name, 0o100644, ME)
    await fs.write(entry.node, 0, content(name), ME)


async def expect(fs: Filesystem, names: list[bytes]) -> None:
    for name in names:
        entry = await fs.lookup(root_of(fs), name)
        assert await fs.read(entry.node, 0, 1 << 20) == content(name)
    assert {name for name, _, _ in await fs.readdir(root_of(fs), 0, 100)} == set(names)
    with fs.cache.blocking():
        assert check(fs.engine) == []


def state(fs: Filesystem) -> object:
    return fs.status(None)["state"]


class Fault:
    """Makes one labelled call fail, and work again."""

    def __init__(self, store: Path, calls: StoreCalls, number: int) -> None:
        self.store = store
        self.calls = calls
        self.number = number
        self.undo: Callable[[], object] = lambda: None

    def database(self, label: str) -> None:
        words = {errno.ENOSPC: "No space left on device", errno.EIO: "Input/output error"}[self.number]

        def fail(*_: Any) -> None:
            raise Exception(f"IO error: {words}: While appending to file")

        kept = getattr(self.calls.database, label)
        setattr(self.calls.database, label, fail)
        self.undo = lambda: setattr(self.calls.database, label, kept)

    def pack(self, label: str) -> None:
        sign = self.store / f"fail-{label}"
        sign.write_text(str(self.number))
        self.undo = sign.unlink

    def set(self, label: str) -> None:
        kind, _, name = label.partition(".")
        getattr(self, kind)(name)


FAULTS = [
    ("database.write", errno.ENOSPC),
    ("database.write", errno.EIO),
    ("database.sync", errno.EIO),
    ("pack.create", errno.ENOSPC),
    ("pack.append", errno.ENOSPC),
    ("pack.append", errno.EIO),
    ("pack.sync", errno.EIO),
    ("pack.sync_directory", errno.EIO),
]


@pytest.mark.parametrize("label, number", FAULTS)
async def test_a_cut_that_fails_is_made_again(tmp_path: Path, label: str, number: int) -> None:
    calls = StoreCalls(worker_module="tests.support.failing_worker")
    store = tmp_path / "store"
    async with open_filesystem(store, create=True, background=False, calls=calls) as fs:
        # No reserve stands in the way of the first error.
        fs.space.release()
        await put(fs, NAMES[0])
        if label not in ("pack.create", "pack.sync_directory"):
            # A cut before the one that fails. With it there would be a pack already.
            await fs.wait_persisted()
        await put(fs, NAMES[1])
        fault = Fault(store, calls, number)
        fault.set(label)
        for _ in range(2):
            with pytest.raises(OSError) as raised:
                await fs.wait_persisted()
            assert raised.value.errno == number
            assert state(fs) == "degraded"
            assert os.strerror(number) in str(fs.status(None)["error"])
            # Neither reading nor writing minds.
            await expect(fs, NAMES[:2])
        await put(fs, NAMES[2])
        fault.undo()
        await fs.wait_persisted()
        assert state(fs) == "ok"
        await expect(fs, NAMES)
    async with open_filesystem(store, background=False) as fs:
        assert fs.log.recovery.records == 0
        await expect(fs, NAMES)


@pytest.mark.parametrize("label", ["database.write", "database.sync", "pack.append", "pack.sync"])
async def test_closing_while_a_call_fails_loses_nothing(tmp_path: Path, label: str) -> None:
    calls = StoreCalls(worker_module="tests.support.failing_worker")
    store = tmp_path / "store"
    async with open_filesystem(store, create=True, background=False, calls=calls) as fs:
        await put(fs, NAMES[0])
        await fs.wait_persisted()
        await put(fs, NAMES[1])
        Fault(store, calls, errno.EIO).set(label)
    async with open_filesystem(store, background=False) as fs:
        # Where only the sync was refused the cut may be there all the same.
        assert fs.log.recovery.records == 2 or label == "database.sync"
        await expect(fs, NAMES[:2])
        await fs.wait_persisted()
        await expect(fs, NAMES[:2])


async def test_the_background_recovers_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = StoreCalls()
    monkeypatch.setattr(persist, "QUIET_S", 0.02)
    monkeypatch.setattr(persist, "BACKOFF_MAX_S", 0.02)
    async with open_filesystem(tmp_path / "store", create=True, calls=calls) as fs:
        await put(fs, NAMES[0])
        fault = Fault(tmp_path / "store", calls, errno.EIO)
        fault.set("database.sync")
        with trio.fail_after(60):
            while state(fs) != "degraded":
                await trio.sleep(0.01)
        fault.undo()
        with trio.fail_after(60):
            while fs.persister.dirty() or state(fs) != "ok":
                await trio.sleep(0.01)


@pytest.mark.parametrize("verb", ["import", "gc"])
async def test_after_an_error_of_the_database_other_work_does_not_wait_for_a_cut(tmp_path: Path, verb: str) -> None:
    calls = StoreCalls()
    async with open_filesystem(tmp_path / "store", create=True, background=False, calls=calls) as fs:
        await put(fs, NAMES[0])
        await fs.wait_persisted()
        fault = Fault(tmp_path / "store", calls, errno.EIO)
        fault.set("database.write")
        with pytest.raises(OSError):
            fs.db.write(WriteBatch(raw_mode=True))
        fault.undo()
        if verb == "gc":
            assert (await fs.collect()).stopped is None
            await expect(fs, NAMES[:1])
        else:
            source = tmp_path / "source"
            source.mkdir()
            (source / "f").write_bytes(b"imported")
            await import_tree(fs, os.fsencode(source), b"main", lambda files, size: None, ME)
            assert await fs.read((await fs.lookup(root_of(fs), b"f")).node, 0, 100) == b"imported"


async def test_a_database_that_cannot_be_read_is_eio_for_what_is_asked(tmp_path: Path) -> None:
    calls = StoreCalls()
    store = tmp_path / "store"
    async with open_filesystem(store, create=True, background=False) as fs:
        for name in NAMES:
            await put(fs, name)
    async with open_filesystem(store, background=False, calls=calls) as fs:
        fault = Fault(store, calls, errno.EIO)
        fault.set("database.get")
        with pytest.raises(Damaged) as raised:
            await fs.lookup(root_of(fs), NAMES[0])
        assert raised.value.errno == errno.EIO
        fault.undo()
        entry = await fs.lookup(root_of(fs), NAMES[0])
        fault.set("database.get")
        with pytest.raises(Damaged):
            await fs.read(entry.node, 0, 100)
        fault.undo()
        await expect(fs, NAMES)


async def test_pages_of_a_failed_cut_are_never_missing(tmp_path: Path) -> None:
    """Nodes of a live directory count as stored from the moment they were encoded: a failing cut must not
    leave them in no place at all. The cache holds few pages, so they are read again."""
    calls = StoreCalls()
    store = tmp_path / "store"
    async with open_filesystem(store, create=True, background=False, calls=calls) as fs:
        names = [b"%04d" % number for number in range(2000)]
        for name in names:
            await fs.make(root_of(fs), name, 0o100644, ME)
        fault = Fault(store, calls, errno.EIO)
        fault.set("database.write")
        with pytest.raises(OSError):
            await fs.wait_persisted()
        fs.cache.budget_bytes = 0
        await fs.make(root_of(fs), b"more", 0o100644, ME)
        assert {name for name, _, _ in await fs.readdir(root_of(fs), 0, 10_000)} == {*names, b"more"}
        fault.undo()
        await fs.wait_persisted()
        assert {name for name, _, _ in await fs.readdir(root_of(fs), 0, 10_000)} == {*names, b"more"}
    async with open_filesystem(store, background=False) as fs:
        assert {name for name, _, _ in await fs.readdir(root_of(fs), 0, 10_000)} == {*names, b"more"}


LOG_FAULTS = [
    ("append", errno.ENOSPC, errno.ENOSPC),
    ("append", errno.EIO, errno.EIO),
    ("begin_life", errno.EIO, errno.EIO),
    ("preallocate", errno.ENOSPC, errno.ENOSPC),
    ("sync", errno.EIO, errno.EIO),
    ("sync_directory", errno.EIO, errno.EIO),
]


@pytest.mark.parametrize("label, number, wanted", LOG_FAULTS)
async def test_a_call_of_the_log_fails(tmp_path: Path, label: str, number: int, wanted: int) -> None:
    """The caller has the errno; what was acknowledged before is there, live and after a reopening."""
    calls = StoreCalls()
    store = tmp_path / "store"
    syncs = label in ("sync", "sync_directory")
    async with open_filesystem(store, create=True, background=False, calls=calls) as fs:
        await put(fs, NAMES[0])

        def fail(*_: Any) -> int:
            raise OSError(number, os.strerror(number))

        kept = getattr(calls.log, label)
        setattr(calls.log, label, fail)
        with pytest.raises(OSError) as raised:
            if syncs:
                await fs.fsync(root_of(fs))
            # More than a segment: a new one has to be begun.
            for number_ in range(40):
                await fs.write((await fs.lookup(root_of(fs), NAMES[0])).node, 1 << 30, bytes(1 << 20), ME)
                assert number_ < 39
        assert raised.value.errno == wanted
        entry = await fs.lookup(root_of(fs), NAMES[0])
        assert await fs.read(entry.node, 0, 100_000) == content(NAMES[0])
        setattr(calls.log, label, kept)
        if syncs:
            assert state(fs) == "read-only"
            with pytest.raises(OSError) as raised:
                await put(fs, NAMES[1])
            assert raised.value.errno == errno.EROFS
        else:
            assert state(fs) == "ok"
            await put(fs, NAMES[1])
            await fs.fsync(root_of(fs))
    async with open_filesystem(store, background=False) as fs:
        entry = await fs.lookup(root_of(fs), NAMES[0])
        assert await fs.read(entry.node, 0, 100_000) == content(NAMES[0])
        assert len(await fs.readdir(root_of(fs), 0, 10)) == (1 if syncs else 2)
        await put(fs, NAMES[2])


async def test_one_bad_sync_is_nobodys_loss(tmp_path: Path) -> None:
    calls = StoreCalls()
    store = tmp_path / "store"
    async with open_filesystem(store, create=True, background=False, calls=calls) as fs:
        await put(fs, NAMES[0])
        bad = {path.stat().st_ino for path in (store / "log").iterdir()}

        def sync(fd: int) -> None:
            if os.fstat(fd).st_ino in bad:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.fdatasync(fd)

        calls.log.sync = sync
        await fs.fsync(root_of(fs))
        assert (state(fs), fs.log.moves) == ("ok", 1)
        await put(fs, NAMES[1])
        await fs.fsync(root_of(fs))
        await expect(fs, NAMES[:2])
    async with open_filesystem(store, background=False) as fs:
        await expect(fs, NAMES[:2])
