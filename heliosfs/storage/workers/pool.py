"""The pool of worker processes: work divided into jobs, jobs handed out and, where a worker is lost, redone.

Invariant: a chunk is stored once: what another worker is about to store is not asked of this one, and this
one's job is not done before the other has delivered (the ledger keeps the books). docs/compaction.md has the
whole story.
Must not know: when to compact, inodes, what imported files become.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

import trio

from cas.digest import ChunkId
from cas.index import ChunkIndex
from cas.packs import ROLL_BYTES, Stored
from heliosfs.core.errors import Damaged
from heliosfs.storage.collecting.claims import Claims
from heliosfs.storage.workers import protocol
from heliosfs.storage.workers.crew import Crew
from heliosfs.storage.workers.handle import NICE, WORKER_MODULE
from heliosfs.storage.workers.jobs import (
    JOB_BYTES,
    JOB_RUNS,
    CutResult,
    CutRun,
    ScannedNode,
    ScanWarning,
    StoredFile,
    WorkerLost,
)
from heliosfs.storage.workers.ledger import Ledger
from heliosfs.storage.workers.requests import cut_request

MAX_WORKERS: Final = 4
"""Each has 16 MB from the start, idle or not, and one loop plans for all; what more bring was never measured."""
TRIES: Final = 3
"""A job that loses this many workers fails: it may be what kills them."""

DEADLINE_SECONDS: Final = 60.0
"""A worker with a job says something at least every 8 MiB; after this long without a word it is replaced."""

_COPY_STEP: Final = 512
_WAITING_MAX: Final = 16384
"""Chunks that may wait for a sync, at 0.4 KiB of memory each; then one happens by itself."""

T = TypeVar("T")
R = TypeVar("R")
Deliver = Callable[[list[ScannedNode], list[ScanWarning]], Awaitable[None]]


@dataclass(slots=True)
class PoolStats:
    """Counters since the pool was made.

    Attributes:
        jobs: Done.
        redone: Jobs begun again because a worker was lost or another failed to deliver a chunk.
        lost: Workers that died, hung or were left in the middle of a job.
        chunks_asked, chunks_new: Chunks that workers had, and those of them that were stored.
        new_raw_bytes, new_stored_bytes: Of the latter, decoded and as frames.
        syncs: Done.
        workers: Processes now.
        waiting: Chunks stored and not yet synced, now.
    """

    jobs: int = 0
    redone: int = 0
    lost: int = 0
    chunks_asked: int = 0
    chunks_new: int = 0
    new_raw_bytes: int = 0
    new_stored_bytes: int = 0
    syncs: int = 0
    workers: int = 0
    waiting: int = 0


class WorkerPool:
    """Worker processes over one directory of packs and one index. All methods in one trio thread.

    Every async method may be cancelled; the worker it was talking to is then replaced.

    Attributes:
        packs: Their directory.
        claims: Told of every chunk that a worker asks about.
    """

    def __init__(
        self,
        packs: Path,
        index: ChunkIndex,
        *,
        claims: Claims | None = None,
        count: int | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
        pack_bytes: int = ROLL_BYTES,
        module: str = WORKER_MODULE,
    ) -> None:
        """Make a pool without processes yet: they start with `start` or the first job.

        Args:
            packs: Existing directory, beside nothing that may be imported: its parent is skipped by scans.
            index: Told of new chunks by `sync`.
            claims: Told of every chunk that a worker asks about.
            count: Processes; by default one for each core that we may use, at most MAX_WORKERS.
            deadline_seconds: Silence after which a worker that has a job counts as hung.
            pack_bytes: Length from which a pack gets no further entries.
            module: What the processes run: a test has its own, in which one call fails.
        """
        self.count = count or min(len(os.sched_getaffinity(0)), MAX_WORKERS)
        self.packs = packs
        self.claims = claims or Claims()
        self._ledger = Ledger(packs, index, self.claims)
        self._crew = Crew(packs, self._ledger, self.count, deadline_seconds, pack_bytes=pack_bytes, module=module)
        self._stats = PoolStats()
        self._urgent = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- what it does --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the processes now, so that the first job doesn't wait 60 ms for one. 2 ms each."""
        self._crew.start()

    @contextmanager
    def urged(self) -> Iterator[None]:
        """Somebody waits for what the workers do: they are as nice as anybody, not nicer."""
        self._urgent += 1
        if self._urgent == 1:
            self._crew.be_nice(0)
        try:
            yield
        finally:
            self._urgent -= 1
            if not self._urgent:
                self._crew.be_nice(NICE)

    async def cut_runs(self, runs: Sequence[CutRun]) -> list[CutResult]:
        """Cut runs, store their pieces, and tell what they are now, in order of `runs`.

        The chunks can be read by their places at once; `sync` makes them durable and puts them in the index.

        Raises:
            Damaged: Bytes of a run can't be read; all others are done, and found stored at a second try.
            OSError: The pieces can't be stored (ENOSPC, EIO), or workers keep dying (EIO).
        """
        results = await self.cut_each(runs)
        for result in results:
            if isinstance(result, Damaged):
                raise result
        return results  # type: ignore[return-value]  # no Damaged is left in it

    async def cut_each(self, runs: Sequence[CutRun]) -> list[CutResult | Damaged]:
        """`cut_runs`, with Damaged in the place of a run whose bytes can't be read."""
        return await self._all(list(_jobs_of(runs)), self._cut_job)

    async def store_files(self, paths: Sequence[bytes]) -> list[StoredFile | OSError]:
        """Read files of another filesystem, cut and store them; what came of each, in order of `paths`.

        Raises:
            OSError: The pieces can't be stored (ENOSPC, EIO), or workers keep dying (EIO).
        """
        jobs = [paths[at : at + JOB_RUNS] for at in range(0, len(paths), JOB_RUNS)]
        with self.urged():
            return await self._all(jobs, self._files_job)

    async def scan_tree(self, directory: bytes, deliver: Deliver) -> None:
        """Walk a tree, and await `deliver` for each batch of at most 200 nodes, as `walk.walk` makes them.

        `deliver` must not wait for another job: there may be no other worker to do it.

        Raises:
            WorkerLost: The worker died; what was delivered is void, and the scan may be begun again.
            OSError: The root can't be walked (ENOENT, ENOTDIR, EACCES).
        """

        async def each(body: bytes) -> None:
            await deliver(*protocol.read_scanned(body))

        with self.urged():
            worker = await self._crew.take()
            await self._crew.converse(worker, protocol.SCAN, directory, protocol.SCAN_DONE, set(), each)
        self._stats.jobs += 1

    async def copy_chunks(self, entries: Sequence[Stored]) -> list[Stored]:
        """Copy chunks into a new pack, each verified; where they lie there, synced. Damaged ones are left out.

        The index is not told: that is the caller's. Raises OSError (ENOSPC, EIO): nothing is left behind.
        """
        parts: list[bytes] = []
        for at in range(0, len(entries), _COPY_STEP):
            parts.append(protocol.stored_body(entries[at : at + _COPY_STEP]))
            await trio.lowlevel.checkpoint()
        copied: list[Stored] = []
        for part in protocol.read_places(await self._job(protocol.COPY, b"".join(parts), protocol.COPIED)):
            copied += part
            await trio.lowlevel.checkpoint()
        return copied

    async def roll(self) -> None:
        """Have idle workers leave their packs, so that these are complete. Raises OSError."""
        await self._crew.roll()

    def complete_packs(self) -> set[int]:
        """Packs to which nothing is added any more, in the index or to it. 20 us a pack."""
        return self._crew.complete_packs()

    @property
    def drops(self) -> int:
        """How many times stored chunks were dropped, because a sync failed: note it before the first job."""
        return self._crew.drops

    async def sync(self, since: int | None = None) -> None:
        """Return when everything stored by jobs that are done is durable in its pack, and in the index.

        The index records themselves are unsynced: the caller flushes the database. Workers in the middle of
        a job sync between two batches.

        Args:
            since: `drops` before the first job whose chunks matter to the caller.

        Raises:
            OSError: It is not: what was not durable was dropped, now or since then. Done again, the jobs store
                it in other packs.
        """
        await self._crew.sync(since)

    def pids(self) -> list[int]:
        """Process ids of the workers now."""
        return self._crew.pids()

    def place(self, id_: ChunkId) -> Stored | None:
        """Where a chunk lies that was stored since the last sync, if it was. O(1)."""
        return self._ledger.place(id_)

    def stats(self) -> PoolStats:
        """Live counters. O(1)."""
        stats, ledger = self._stats, self._ledger
        stats.chunks_asked, stats.chunks_new = ledger.asked, ledger.new
        stats.new_raw_bytes, stats.new_stored_bytes = ledger.new_raw_bytes, ledger.new_stored_bytes
        stats.lost, stats.syncs = self._crew.lost, self._crew.syncs
        stats.workers, stats.waiting = len(self.pids()), ledger.waiting
        return stats

    async def close(self) -> None:
        """End all processes. What was not synced is not in the index and means nothing. Idempotent."""
        await self._crew.close()

    # --- jobs ----------------------------------------------------------------------------------------

    async def _cut_job(self, runs: Sequence[CutRun]) -> list[CutResult | Damaged]:
        parts: list[bytes] = []
        for part in cut_request(runs):
            if parts:
                await trio.lowlevel.checkpoint()
            parts.append(part)
        results: list[CutResult | Damaged] = []
        body = await self._job(protocol.CUT, b"".join(parts), protocol.CUT_DONE)
        for result in protocol.read_cut_results(body):
            if result is None:
                await trio.lowlevel.checkpoint()
            elif type(result) is CutResult:
                results.append(result)
            else:
                results.append(Damaged(str(result[1])))
        return results

    async def _files_job(self, paths: Sequence[bytes]) -> list[StoredFile | OSError]:
        results: list[StoredFile | OSError] = []
        body = await self._job(protocol.FILES, protocol.files_body(paths), protocol.FILES_DONE)
        for result in protocol.read_file_results(body):
            if result is None:
                await trio.lowlevel.checkpoint()
            elif type(result) is StoredFile:
                results.append(result)
            else:
                number, reason = result[0], result[1]
                results.append(OSError(number, str(reason), os.fsdecode(paths[len(results)])))
        return results

    async def _all(self, jobs: list[Sequence[T]], do: Callable[[Sequence[T]], Awaitable[list[R]]]) -> list[R]:
        """Do jobs, as many at once as there are workers; the results in order. After an error none is begun."""
        if len(jobs) == 1:
            return await do(jobs[0])
        results: list[list[R]] = [[] for _ in jobs]
        errors: list[OSError] = []
        waiting = iter(enumerate(jobs))

        async def pull() -> None:
            for at, job in waiting:
                if errors:
                    return
                try:
                    results[at] = await do(job)
                except OSError as error:
                    errors.append(error)

        async with trio.open_nursery() as nursery:
            # One more than workers: its request is ready when a worker becomes free.
            for _ in range(min(len(jobs), self.count + 1)):
                nursery.start_soon(pull)
        if errors:
            raise errors[0]
        return [result for part in results for result in part]

    async def _job(self, kind: int, body: bytes, done: int) -> bytes:
        """Have a worker do a job, and another one if that is lost. The body of its last message."""
        lost = 0
        while True:
            borrowed: set[ChunkId] = set()
            worker = await self._crew.take()
            try:
                message = await self._crew.converse(worker, kind, body, done, borrowed)
            except WorkerLost:
                lost += 1
                if lost == TRIES:
                    raise
                self._stats.redone += 1
                continue
            # The worker's next job goes out before this one's results are unpacked.
            await trio.lowlevel.checkpoint()
            if borrowed and not await self._crew.delivered(borrowed):
                self._stats.redone += 1
                continue
            self._stats.jobs += 1
            if self._ledger.waiting > _WAITING_MAX:
                await self.sync()
            return message


def _jobs_of(runs: Sequence[CutRun]) -> Iterator[Sequence[CutRun]]:
    """Slices of at most JOB_RUNS runs, ended early at JOB_BYTES."""
    start = 0
    size = 0
    for at, run in enumerate(runs, 1):
        size += sum([source.length for source in run.sources])
        if at - start >= JOB_RUNS or size >= JOB_BYTES:
            yield runs[start:at]
            start, size = at, 0
    if start < len(runs):
        yield runs[start:]
