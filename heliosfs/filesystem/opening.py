"""Opening a store: lock, refs, recovery from the log, background tasks; and closing it in order."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from cas.cache import ChunkCache
from cas.index import ChunkIndex
from cas.packs import PackReader
from heliosfs.core import oplog, radix
from heliosfs.core.apply import apply
from heliosfs.core.engine import Engine
from heliosfs.core.errors import Damaged
from heliosfs.core.ids import Ino, Lsn
from heliosfs.filesystem.adopting import Adopting
from heliosfs.filesystem.continuing import Continuation
from heliosfs.storage import refstore
from heliosfs.storage.backing import BackingFiles
from heliosfs.storage.calls import StoreCalls
from heliosfs.storage.checking.scrubber import Scrubber
from heliosfs.storage.collecting.claims import Claims
from heliosfs.storage.collecting.collector import Collector
from heliosfs.storage.collecting.reads import ReadsUnderWay
from heliosfs.storage.layout import StoreLayout
from heliosfs.storage.log import GroupCommit, Log, Place
from heliosfs.storage.log.commit import kernel_sync
from heliosfs.storage.pagestore import PageCache, PageStore
from heliosfs.storage.persist import Persister
from heliosfs.storage.reading import Reader
from heliosfs.storage.space import Space
from heliosfs.storage.workers import WorkerPool

log_ = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class StoreOptions:
    """Store-wide options, set by the first mount.

    Attributes:
        memory: Bytes for decoded pages and chunks; not the whole process.
        log: Bytes that the log may hold before writers wait.
        commit_s: What is older than this survives power loss.
        backing: Bytes of disk for the backing files of `-o cache=shared`.
    """

    memory: int = 128 << 20
    log: int = 1 << 30
    commit_s: float = 1.0
    backing: int = 4 << 30


class Filesystem(Adopting):
    """The one door to a store. See the modules of this package for its operations."""

    layout: StoreLayout
    continuation: Continuation


@asynccontextmanager
async def open_filesystem(
    path: Path | str,
    options: StoreOptions | None = None,
    *,
    create: bool = False,
    background: bool = True,
    connections: Collection[int] = (),
    calls: StoreCalls | None = None,
) -> AsyncIterator[Filesystem]:
    """Open a store for this process alone, replay its log, and run its background work until closed.

    Args:
        create: Make the store first if there is none.
        connections: Kernel connections that a former daemon has served and that go on: what they have asked
            for and may not have been told is kept (see continuing.py).
        background: Run the persister and the commit interval; without it only what is asked for is stored.
        calls: What a test replaces to see it fail.

    Raises:
        StoreAbsent, StoreLocked, StoreNewer, StoreDamaged, StoreOccupied: See storage.errors.
        OSError: The disk.
    """
    options = options or StoreOptions()
    directory = Path(os.fspath(path)).absolute()
    if create and not StoreLayout.is_store(directory):
        StoreLayout.create(directory).close()
    layout = StoreLayout.open(directory)
    try:
        fs = _assemble(layout, options, Continuation(connections), calls or StoreCalls())
        try:
            async with trio.open_nursery() as nursery:
                fs.pool.start()
                if background:
                    nursery.start_soon(fs.persister.run)
                    if fs.persister.pressing():
                        fs.persister.nudge()
                    nursery.start_soon(fs.scrubber.run)
                    nursery.start_soon(fs.commit.run_interval, options.commit_s)
                try:
                    yield fs
                finally:
                    with trio.CancelScope(shield=True):
                        await _settle(fs)
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await fs.pool.close()
            fs.backings.close()
            fs.reader.close()
            fs.commit.close()
            fs.log.close()
    finally:
        layout.close()


def _assemble(
    layout: StoreLayout, options: StoreOptions, continuation: Continuation, calls: StoreCalls
) -> Filesystem:
    began = time.perf_counter()
    space = Space(layout.path, options.log)
    sizes = space.sizes
    if space.tight(0):
        space.release()
    db = layout.open_db(sizes.write_buffer, calls=calls.database)
    claims = Claims()
    reads = ReadsUnderWay()
    page_store = PageStore(db, claims)
    cache = PageCache(page_store, options.memory // 2)
    engine = Engine(cache)
    stored = refstore.load(db, engine)
    if stored is None:
        owner = os.stat(layout.path)
        engine.found(owner.st_uid, owner.st_gid, time.time_ns())
    start = stored.position if stored is not None else Lsn(0)

    def replay(lsn: Lsn, end: Lsn, kind: int, body: bytes | memoryview, place: Place) -> None:
        try:
            record = oplog.decode(kind, body)
        except oplog.BadRecord as error:
            raise Damaged(f"log record {lsn}", f"log record at {lsn}: {error}") from error
        engine.last_ns = max(engine.last_ns, getattr(record, "now_ns", 0))
        try:
            result = apply(engine, record, place)
        except (Damaged, OSError):
            raise
        except Exception as error:
            # It was planned against another state: bytes that were not written so, or a bug of ours.
            name = type(record).__name__
            what = f"log record at {lsn} ({name}) does not fit what is stored: {error!r}"
            raise Damaged(f"log record {lsn}", what) from error
        if continuation:
            continuation.applied(engine, record, body, place, result)

    with cache.blocking(), _without_collections():
        continuation.begin(engine)
        if stored is not None:
            # Records behind the cut may write to files that were unlinked before it.
            for branch in engine.branches.values():
                table = stored.orphans.get(branch.id)
                branch.orphans.update((Ino(ino), inode) for ino, inode in radix.items(table, cache))
        log = Log.open(
            layout.log_dir,
            budget_bytes=sizes.log,
            start=start,
            on_record=replay,
            segment_bytes=sizes.segment,
            spares=sizes.spares,
            reserve_bytes=sizes.reserve_segment,
            calls=calls.log,
        )
    unstored = log.end - start
    if space.room(unstored) >= sizes.reserve_segment:
        log.keep_reserve()
    space.refill(unstored)
    continuation.finish(engine)
    try:
        index = ChunkIndex(db)
    except OSError as error:
        raise Damaged("chunk index", f"the chunk index in the store's database can't be read: {error}") from error
    commit = GroupCommit(log, kernel_sync(calls.log))
    pool = WorkerPool(layout.packs_dir, index, claims=claims, pack_bytes=sizes.pack, module=calls.worker_module)
    fs = Filesystem(
        engine,
        log,
        commit,
        cache,
        Persister(engine, log, commit, db, page_store, cache, index, pool, reads, start, space),
        reads,
        space,
    )
    fs.db = db
    fs.index = index
    fs.pool = pool
    fs.page_store = page_store
    fs.chunks = ChunkCache(options.memory - options.memory // 2)
    fs.reader = Reader(log, index, PackReader(layout.packs_dir), fs.chunks, reads)
    fs.collector = Collector(
        engine,
        log,
        db,
        layout.db_dir,
        layout.packs_dir,
        fs.persister,
        page_store,
        cache,
        index,
        pool,
        reads,
        fs.reader,
    )
    fs.collector.use_reserve(space.release)
    fs.backings = BackingFiles(layout.backing_dir, fs.reader, options.backing)
    fs.backings.start()
    fs.store_path = layout.path
    fs.layout = layout
    fs.scrubber = Scrubber(layout.path, log, index, reads)
    fs.invalidators = []
    fs.mounted_views = set()
    fs.continuation = continuation
    recovery = log.recovery
    fs.options = {
        "memory": options.memory,
        "log": options.log,
        "commit": options.commit_s,
        "recovery": {
            "records": recovery.records,
            "bytes": recovery.bytes,
            "torn_bytes": recovery.torn_bytes,
            "seconds": round(time.perf_counter() - began, 6),
        },
    }
    return fs


@contextmanager
def _without_collections() -> Iterator[None]:
    """The core makes no cycles: looking for them in what a replay builds finds none, and takes its time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


async def _settle(fs: Filesystem) -> None:
    """Leave a store that opens at once: a last cut, so that nothing is to be replayed."""
    if not fs.persister.dirty():
        return
    try:
        await fs.persister.persist()
    except (OSError, Damaged) as error:
        log_.error("the last cut failed; the log will be replayed: %s", error)
