"""What can be asked about the whole: status, stats, the operation log. Never waits."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Mapping
from typing import Final

import trio

from cas.cache import ChunkCache
from cas.database import Database
from cas.index import ChunkIndex
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ViewNo
from heliosfs.filesystem.accounting import Accounting
from heliosfs.storage import refstore
from heliosfs.storage.checking.scrubber import Scrubber
from heliosfs.storage.collecting.collector import WASTE_MAX, Collector
from heliosfs.storage.collecting.report import Report
from heliosfs.storage.workers import WorkerPool

UNSERVED: Final = dict.fromkeys(
    ("pid", "worker_pid", "restarts", "supervised", "transport", "mountpoint", "mountpoints")
)
"""The keys of `status` that are the daemon's: null where none runs."""


class Observing(Accounting):
    """Figures and history of a store.

    Attributes:
        serving: What the daemon that serves it, if one does, has to say of itself, by the keys of UNSERVED.
    """

    serving: Callable[[], Mapping[str, object]] | None = None
    db: Database
    index: ChunkIndex
    chunks: ChunkCache
    pool: WorkerPool
    options: dict[str, object]
    scrubber: Scrubber
    collector: Collector

    async def collect(
        self, *, dry_run: bool = False, restful: bool = False, waste_max: float = WASTE_MAX
    ) -> Report:
        """Free what nothing reaches. Raises FsError EBUSY while a scrub runs, Damaged, OSError."""
        if self.scrubber.running is not None and not dry_run:
            raise FsError(errno.EBUSY, "a scrub is running: wait for it, or end it with heliosfs scrub stop")
        if not dry_run and self.space.tight(0):
            # Deleting takes a little room, and gives more back; so does copying what lives, step by step.
            self.space.release()
        try:
            return await self.collector.collect(dry_run=dry_run, restful=restful, waste_max=waste_max)
        finally:
            if self.space.missing:
                await trio.to_thread.run_sync(self.space.refill, self.persister.unstored)

    def oplog(self, view: ViewNo | None, limit: int) -> list[dict[str, object]]:
        """The newest `limit` lines of the operation log, oldest first; of one branch and those below it.

        Each has lsn, time_ns, verb, branch, name, id, uid, pid. O(limit); where others' lines have to be passed
        over, refstore.REACH of the newest are looked at, and none from before the branch was made.
        """
        waiting = [event.line() for event in (*self.persister.storing_events, *self.engine.events)]
        if view is None:
            return [*refstore.events(self.db, limit), *waiting][-limit:] if limit > 0 else []
        branch = self.engine.writable(view)
        path = branch.path.decode("utf-8", "surrogateescape")
        # A branch of this name that was discarded before is none of this one's business.
        since = branch.created_ns

        def mine(line: dict[str, object]) -> bool:
            name = str(line["branch"])
            return (name == path or name.startswith(path + "/")) and int(str(line["time_ns"])) >= since

        found = [line for line in waiting if mine(line)][-limit:] if limit > 0 else []
        if len(found) < limit:
            found[:0] = refstore.events_of(self.db, path, since, limit - len(found))
        return found

    def status(self, view: ViewNo | None) -> dict[str, object]:
        """How the store is: what is durable, what waits, what has failed."""
        log = self.log
        persister = self.persister
        failed = log.failed
        status: dict[str, object] = {
            "store": os.fsdecode(self.store_path),
            **(UNSERVED if self.serving is None else self.serving()),
            "durable": self.durable(log.end),
            "persisted": not persister.dirty(),
            "state": "read-only" if failed is not None else "degraded" if persister.failed is not None else "ok",
            "read_only": failed is not None,
            "mending": failed is not None and log.mendable,
            "error": str(failed or persister.failed or "") or None,
            "log": {
                "end": log.end,
                "durable": max(log.durable_lsn, persister.persisted),
                "persisted": persister.persisted,
                "used_bytes": log.used_bytes,
                "budget_bytes": log.budget_bytes,
            },
            "space": {
                "room_bytes": max(self.space.room(persister.unstored), 0),
                "reserve_bytes": self.space.reserved,
                "reserve_whole": not self.space.missing and log.has_reserve,
            },
            "lost_bytes": persister.lost_bytes,
            "cuts": persister.cuts,
            "last_cut_seconds": round(persister.last_seconds, 6),
            "recovery": self.options.get("recovery"),
            "branches": len(self.engine.branches),
            "snapshots": sum(len(b.snapshots) for b in self.engine.branches.values()),
            "options": {k: v for k, v in self.options.items() if k != "recovery"},
            "scrub": self.scrubber.status(),
        }
        if view is not None:
            info = self.branch(view)
            latest = self.latest(view)
            status["branch"] = info.path.decode("utf-8", "surrogateescape")
            status["latest"] = latest.decode() if latest is not None else None
            status["files"] = info.files
            status["size_bytes"] = info.size
            status["unlinked_open_files"] = len(self.engine.branches[view].orphans)
            if info.parent is not None:
                # Who sees only this branch learns nothing of what lies above or beside it.
                below = self.engine.branches[view].subtree()
                status["branches"] = len(below)
                status["snapshots"] = sum(len(b.snapshots) for b in below)
                if status["error"]:
                    status["error"] = "the store has failed: see its daemon.log"
                for key in ("store", "mountpoint", "mountpoints", "recovery", "options", "scrub"):
                    del status[key]
        return status

    async def fsck(self, view: ViewNo) -> dict[str, object]:
        """The result of a check of the whole store. Raises FsError (EPERM: see `_whole_store`), OSError."""
        self._whole_store(view)
        return {"report": (await self.scrubber.check()).as_dict()}

    def scrub_start(self, view: ViewNo, rate: int) -> dict[str, object]:
        """Have a scrub made, at most `rate` bytes a second (0: no limit). FsError EPERM, EBUSY: one runs."""
        self._whole_store(view)
        if not self.scrubber.start(rate):
            raise FsError(errno.EBUSY, "a scrub is running already")
        return {"rate": rate or None}

    def scrub_stop(self, view: ViewNo) -> dict[str, object]:
        """End the scrub that runs. FsError EPERM, ENOENT: none does."""
        self._whole_store(view)
        if not self.scrubber.stop():
            raise FsError(errno.ENOENT, "no scrub is running")
        return {}

    def scrub_status(self, view: ViewNo) -> dict[str, object]:
        """How far the scrub is, and the last result with every finding. FsError EPERM."""
        self._whole_store(view)
        return {**self.scrubber.status(), "last": self.scrubber.result()}

    def _whole_store(self, view: ViewNo) -> None:
        """What concerns every branch may be asked from the first one alone: others see nothing above them."""
        if self.branch(view).parent is not None:
            raise FsError(errno.EPERM, "this concerns the whole store: ask from its first branch")

    def stats(self) -> dict[str, object]:
        """Counters: what is stored, what is cached. True numbers, since the start unless they say otherwise."""
        stored = self.index.stats()
        cached = self.chunks.stats()
        branches = self.engine.branches.values()
        return {
            "chunks": {
                "count": stored.chunks,
                "stored_bytes": stored.stored_bytes,
                "raw_bytes": stored.raw_bytes,
            },
            "trees": {
                "files": sum(branch.head.files for branch in branches),
                "logical_bytes": sum(branch.head.size_bytes for branch in branches),
                "overlay_inodes": sum(len(branch.head.overlay) for branch in branches),
            },
            "chunk_cache": {
                "hits": cached.hits,
                "misses": cached.misses,
                "evictions": cached.evictions,
                "bytes": cached.bytes,
                "budget_bytes": cached.budget_bytes,
            },
            "page_cache": {
                "pages": len(self.cache),
                "hits": self.cache.hits,
                "misses": self.cache.misses,
                "evictions": self.cache.evictions,
                "bytes": self.cache.used_bytes,
                "budget_bytes": self.cache.budget_bytes,
            },
            "log": self.log.stats(),
            "workers": dataclasses.asdict(self.pool.stats()),
            "cold_reads": self.reader.cold_reads,
        }
