"""One collection: roots, mark, sweep, packs, and what it did.

docs/gc.md has the whole story, with the crash table. Invariants: nothing that a root, a claim or a read under way
reaches is taken; killed at any step, the store is whole, and the next collection goes on. Must not know: when to
collect, who asks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from cas import database
from cas.database import Database
from cas.gc import pack_sizes, plan_packs
from cas.index import ChunkIndex
from heliosfs.core.engine import Engine
from heliosfs.storage import refstore
from heliosfs.storage.collecting.marking import Reached, Roots, mark, take_roots
from heliosfs.storage.collecting.pace import Pace
from heliosfs.storage.collecting.packing import Packing
from heliosfs.storage.collecting.reads import ReadsUnderWay
from heliosfs.storage.collecting.report import Report, disk_bytes
from heliosfs.storage.collecting.sweeping import Swept, sweep_chunks, sweep_pages
from heliosfs.storage.log import Log
from heliosfs.storage.pagecache import PageCache
from heliosfs.storage.pagestore import PageStore
from heliosfs.storage.persist import Persister
from heliosfs.storage.reading import Reader
from heliosfs.storage.workers import WorkerPool

WASTE_MAX: Final = 0.05
"""Share of the packs that may stay dead after a collection that somebody asked for."""
_RECORD_BYTES: Final = 60
"""Of an index record in the database, key included."""
_COMPACT_BYTES: Final = 256 << 10
_COMPACT_SHARE: Final = 0.05


class Collector:
    """Collects the garbage of a store, one collection at a time.

    Attributes:
        running: A collection is under way.
        last: The report of the last one since the start that was not a dry run, or None.
        on_step: Called with the name of each step that was reached; for tests.
    """

    def __init__(
        self,
        engine: Engine,
        log: Log,
        db: Database,
        db_dir: Path,
        packs_dir: Path,
        persister: Persister,
        store: PageStore,
        cache: PageCache,
        index: ChunkIndex,
        pool: WorkerPool,
        reads: ReadsUnderWay,
        reader: Reader,
    ) -> None:
        self._engine = engine
        self._log = log
        self._db = db
        self._db_dir = db_dir
        self._packs_dir = packs_dir
        self._persister = persister
        self._store = store
        self._cache = cache
        self._index = index
        self._pool = pool
        self._claims = pool.claims
        self._reads = reads
        self._packing = Packing(packs_dir, db, index, pool, reads, reader, self._step)
        self._lock = trio.Lock()
        self.running = False
        self.last: Report | None = None
        self.on_step: Callable[[str], None] | None = None

    def use_reserve(self, release: Callable[[], int]) -> None:
        """Where there is no room to free space in, `release` gives some (the bytes given, 0 for none)."""
        self._packing.make_room = release

    async def collect(
        self, *, dry_run: bool = False, restful: bool = False, waste_max: float = WASTE_MAX
    ) -> Report:
        """Free what nothing reaches. A collection that runs already is waited for first.

        Args:
            dry_run: Only count. What is pending is stored first, as it would be by itself.
            restful: Nobody waits: rest between slices of work.
            waste_max: Share of the packs that may stay dead.

        Raises:
            Damaged: A page that is reached can't be had, so what lies below it is not known (EIO).
            OSError: The disk.
        """
        async with self._lock:
            self.running = True
            try:
                report = Report(dry_run, time.time_ns())
                began = time.perf_counter()
                with self._claims.collecting():
                    await self._collect(report, Pace(restful=restful), waste_max)
                report.seconds = round(time.perf_counter() - began, 6)
                if not dry_run:
                    self.last = report
                return report
            finally:
                self.running = False

    async def _collect(self, report: Report, pace: Pace, waste_max: float) -> None:
        report.disk_before_bytes = await self._disk_bytes()
        reached = await self._mark(report, pace)
        delete = not report.dry_run
        if delete:
            # What was named before the roots were taken, and is read this moment, stays until it has been read.
            await self._reads.settled()
            await self._pool.roll()
            await self._pool.sync()
        found = Swept()
        # In one turn with the beginning of the walk over the index: these packs get no further record.
        complete = self._pool.complete_packs()
        await sweep_chunks(self._index, reached, self._claims, pace, found, delete=delete)
        self._step("chunks-swept")
        await sweep_pages(self._store, reached, self._claims, pace, found, self._cache.discard, delete=delete)
        self._step("pages-swept")
        _tell(found, report)
        sizes = await trio.to_thread.run_sync(pack_sizes, self._packs_dir)
        plan = plan_packs(found.uses, sizes, complete, waste_max)
        incomplete = sum(
            max(size - found.uses.of(pack).live_bytes, 0) for pack, size in sizes.items() if pack not in complete
        )
        report.waste_bytes = plan.kept_waste_bytes + incomplete
        if report.dry_run:
            report.packs_removed, report.packs_rewritten = len(plan.dead), len(plan.rewrite)
            report.copied_bytes = plan.copy_bytes
            report.pack_bytes_freed = plan.dead_bytes + plan.wasted_bytes
            report.disk_after_bytes = report.disk_before_bytes - report.pack_bytes_freed - report.freed_page_bytes
            return
        await trio.to_thread.run_sync(database.sync, self._db)
        self._step("sweep-synced")
        await self._packing.carry_out(plan, found.uses, report, pace)
        await self._compact(report)
        report.disk_after_bytes = await self._disk_bytes()

    async def _mark(self, report: Report, pace: Pace) -> Reached:
        async with self._persister.between_cuts():
            for branch in self._engine.branches.values():
                if branch.orphans_stored:
                    # Files that were open at the last cut, and closed since, are in its refs still.
                    self._engine.touched_branches.add(branch)
            try:
                if self._persister.dirty():
                    await self._persister.cut()
                else:
                    await self._persister.revive()
            except OSError as error:
                # A full disk: what the stored refs and the log need stays, all else can still go.
                report.stopped = f"the state could not be stored first: {error.strerror or error}"
            roots = await self._roots(pace)
            claimed = self._claims.spare_open_claims()
        self._step("roots-taken")
        for _ in claimed:
            await pace.take()
        reached = await mark(roots, self._store, pace)
        self._step("marked")
        return reached

    async def _roots(self, pace: Pace) -> Roots:
        trees = []
        for root in refstore.roots(self._db):
            trees.append(root)
            await pace.take()
        return take_roots(self._engine, self._claims, self._log.end, trees)

    async def _compact(self, report: Report) -> None:
        """Give the room of deleted records back, where that is worth it and there is room to do it in."""
        deleted = report.freed_page_bytes + report.freed_chunks * _RECORD_BYTES
        size = await trio.to_thread.run_sync(disk_bytes, self._db_dir)
        if deleted < max(_COMPACT_BYTES, size * _COMPACT_SHARE):
            return
        free = os.statvfs(self._db_dir)
        if free.f_bavail * free.f_frsize < size:
            return
        await trio.to_thread.run_sync(database.compact, self._db)
        self._step("compacted")

    async def _disk_bytes(self) -> int:
        return await trio.to_thread.run_sync(disk_bytes, self._packs_dir, self._db_dir)

    def _step(self, name: str) -> None:
        if self.on_step is not None:
            self.on_step(name)


def _tell(found: Swept, report: Report) -> None:
    report.freed_chunks = found.dead_chunks
    report.freed_chunk_bytes = found.dead_stored_bytes
    report.freed_pages = found.dead_pages
    report.freed_page_bytes = found.dead_page_bytes
    report.live_chunks = found.live_chunks
    report.live_bytes = found.live_stored_bytes
    report.live_raw_bytes = found.live_raw_bytes
    report.live_pages = found.live_pages
    report.claimed_chunks = found.claimed_chunks
    report.claimed_pages = found.claimed_pages
