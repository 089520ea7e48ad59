"""Opening a store: lock, refs, recovery from the log, background tasks; and closing it in order."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from cas.cache import ChunkCache
from cas.index import ChunkIndex
from cas.packs import PackReader
from heliosfs.core.errors import Damaged
from heliosfs.filesystem.adopting import Adopting
from heliosfs.filesystem.background import logged
from heliosfs.filesystem.continuing import Continuation
from heliosfs.filesystem.following import Following
from heliosfs.filesystem.replaying import Replay
from heliosfs.storage.backing import BackingFiles
from heliosfs.storage.calls import StoreCalls
from heliosfs.storage.checking.scrubber import Scrubber
from heliosfs.storage.collecting.claims import Claims
from heliosfs.storage.collecting.collector import Collector
from heliosfs.storage.collecting.reads import ReadsUnderWay
from heliosfs.storage.layout import StoreLayout
from heliosfs.storage.log import GroupCommit, Log, Seen
from heliosfs.storage.log.commit import kernel_sync
from heliosfs.storage.note import StoreNote
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

    def cut_if_due(self) -> None:
        """Make a cut, soon, if it is time for one."""
        if self.persister.pressing():
            self.persister.nudge()


@asynccontextmanager
async def open_filesystem(
    path: Path | str,
    options: StoreOptions | None = None,
    *,
    create: bool = False,
    background: bool = True,
    connections: Collection[int] = (),
    followed: Following | None = None,
    note: StoreNote | None = None,
    calls: StoreCalls | None = None,
) -> AsyncIterator[Filesystem]:
    """Open a store for this process alone, replay its log, and run its background work until closed.

    Args:
        create: Make the store first if there is none.
        connections: Kernel connections that a former daemon has served and that go on: what they have asked
            for and may not have been told is kept (see continuing.py).
        followed: What has followed the store until its former process died; then `cut_if_due` has to be called, and
            worker processes start with the first job: two interpreters are no company for those who have waited.
        note: What the former process has left, and the next one finds.
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
    layout = StoreLayout.open(directory, again=followed is not None or bool(connections))
    in_order = False
    try:
        fs = _assemble(layout, options, connections, calls or StoreCalls(), followed, note)
        try:
            async with trio.open_nursery() as nursery:
                if followed is None:
                    fs.pool.start()
                    fs.cut_if_due()
                if background:
                    nursery.start_soon(logged, fs.persister.run)
                    nursery.start_soon(logged, fs.scrubber.run)
                    nursery.start_soon(logged, partial(fs.commit.run_interval, options.commit_s))
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
            in_order = not fs.persister.dirty()
    finally:
        layout.close(in_order=in_order)


def _assemble(
    layout: StoreLayout,
    options: StoreOptions,
    connections: Collection[int],
    calls: StoreCalls,
    followed: Following | None,
    note: StoreNote | None,
) -> Filesystem:
    began = time.perf_counter()
    space = Space(layout.path, options.log)
    sizes = space.sizes
    if space.tight(0):
        space.release()
    # Opening it takes longer than all the rest: not before the first answer, if it can wait.
    current = followed is not None and followed.current(note)
    db = layout.open_db(sizes.write_buffer, calls=calls.database, later=current)

    def open_log(replay: Replay, seen: Seen | None = None) -> Log:
        return Log.open(
            layout.log_dir,
            budget_bytes=sizes.log,
            start=replay.start,
            on_record=replay.record,
            segment_bytes=sizes.segment,
            spares=sizes.spares,
            reserve_bytes=sizes.reserve_segment,
            calls=calls.log,
            seen=seen,
            note=note,
        )

    with _without_collections():
        opened = None if followed is None else followed.taken_over(db, current, connections, open_log)
        if opened is None:
            replay = Replay(db, layout.path, options.memory, Claims(), Continuation(connections))
            with replay.cache.blocking():
                opened = replay, open_log(replay)
    replay, log = opened
    engine, cache, page_store, claims = replay.engine, replay.cache, replay.page_store, replay.claims
    start = replay.start
    reads = ReadsUnderWay()
    unstored = log.end - start
    if space.room(unstored) >= sizes.reserve_segment:
        log.keep_reserve()
    space.refill(unstored)
    replay.continuation.finish(engine)
    try:
        index = ChunkIndex(db)
    except OSError as error:
        raise Damaged("chunk index", f"the chunk index in the store's database can't be read: {error}") from error
    commit = GroupCommit(log, later=partial(kernel_sync, calls.log))
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
    fs.persister.note = note
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
    fs.backings = BackingFiles(
        layout.backing_dir, fs.reader, options.backing, lambda: space.room(fs.persister.unstored)
    )
    fs.backings.start()
    fs.spare = fs.backings.shrink
    fs.store_path = layout.path
    fs.layout = layout
    fs.scrubber = Scrubber(layout.path, log, index, reads)
    fs.invalidators = []
    fs.mounted_views = set()
    fs.continuation = replay.continuation
    recovery = log.recovery
    fs.options = {
        "memory": options.memory,
        "log": options.log,
        "commit": options.commit_s,
        "recovery": {
            "records": recovery.records,
            "followed": recovery.followed,
            "bytes": recovery.bytes,
            "torn_bytes": recovery.torn_bytes,
            "refused": None if followed is None else followed.refused,
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
