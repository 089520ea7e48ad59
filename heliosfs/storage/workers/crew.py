"""The worker processes as a crew: taken for a job, given back, replaced when lost, made to sync.

Invariants:
- one task at a time talks to a worker: the one that took it, and it gives it back or loses it;
- a worker that is left in the middle of anything is ended: what it would say next nobody could tell apart;
- what a failed sync did not cover was never stored: which of it the kernel dropped cannot be known. The pack
  and its worker are left behind, `drops` tells whoever relied on it, and the next time it is stored anew.
Must not know: what jobs mean, how they are divided.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from cas.digest import ChunkId
from cas.packfile import pack_numbers, pack_writer
from cas.packs import ROLL_BYTES
from heliosfs.storage.workers import protocol
from heliosfs.storage.workers.handle import NICE, WORKER_MODULE, Worker
from heliosfs.storage.workers.jobs import WorkerLost
from heliosfs.storage.workers.ledger import Ledger

_SYNC_SECONDS: Final = 600.0
"""How long a sync may take: a slow disk is not a hung worker."""

_CLOSE_SECONDS: Final = 5.0


class Crew:
    """Up to `count` processes that append to packs in one directory.

    Attributes:
        lost: Workers that died, hung or were left in the middle of a job.
        syncs: Done.
        drops: How many times stored chunks were dropped, because a sync failed.
    """

    def __init__(
        self,
        packs: Path,
        ledger: Ledger,
        count: int,
        deadline_seconds: float,
        *,
        pack_bytes: int = ROLL_BYTES,
        module: str = WORKER_MODULE,
    ) -> None:
        self.count = count
        self.lost = 0
        self.syncs = 0
        self.drops = 0
        self._pack_bytes = pack_bytes
        self._module = module
        self._packs = packs
        self._ledger = ledger
        self._deadline_seconds = deadline_seconds
        self._workers: list[Worker] = []
        self._free: list[Worker] = []
        self._dying: list[Worker] = []
        self._turns = trio.lowlevel.ParkingLot()
        self._deliveries = trio.lowlevel.ParkingLot()
        self._started = 0
        self._niceness = NICE
        self._sync_lock = trio.Lock()
        # Of processes that are gone: all that is in them is indexed, or garbage.
        self._inherited = frozenset(pack_numbers(packs))
        self._failure: OSError | None = None
        self._closed = False

    def start(self) -> None:
        """Start the processes now, so that the first job doesn't wait 60 ms for one. 2 ms each.

        A process that can't be started is tried again by the first job that needs it.
        """
        while len(self._workers) < self.count:
            try:
                self._free.append(self._spawn())
            except OSError:
                return

    def be_nice(self, niceness: int) -> None:
        """Of all of them, from now on; see `Worker.be_nice`."""
        self._niceness = niceness
        for worker in self._workers:
            worker.be_nice(niceness)

    def pids(self) -> list[int]:
        """Process ids of the workers now."""
        return [worker.pid for worker in self._workers]

    def check(self) -> None:
        """Raises OSError: the crew is closed (ESHUTDOWN)."""
        if self._closed:
            raise OSError(errno.ESHUTDOWN, "the worker processes are closed")

    async def take(self) -> Worker:
        """A free worker, started now if there may be another one; the next thing is to `converse` with it.

        Raises:
            OSError: It can't be started.
        """
        while True:
            self.check()
            while self._free:
                worker = self._free.pop()
                if not worker.ended():
                    return worker
                self._lose(worker)
            if len(self._workers) < self.count:
                return self._spawn()
            await self._turns.park()

    async def delivered(self, borrowed: set[ChunkId]) -> bool:
        """Wait for chunks that workers are storing; False if one of them was not stored after all."""
        while self._ledger.being_stored(borrowed):
            await self._deliveries.park()
        return self._ledger.has_all(borrowed)

    async def converse(
        self,
        worker: Worker,
        kind: int,
        body: bytes,
        done: int,
        borrowed: set[ChunkId],
        each: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> bytes:
        """Give a worker that is ours a request and answer it until it says `done`; then it is free again.

        Raises:
            WorkerLost: It died, hung, or said what it must not.
            OSError: The job failed as a whole.
        """
        over = False
        try:
            await worker.send(kind, body)
            while True:
                patience = (
                    _SYNC_SECONDS
                    if worker.sync_sent or kind in (protocol.SYNC, protocol.ROLL)
                    else self._deadline_seconds
                )
                what, message = await worker.receive(patience)
                if what == done or what == protocol.FAILED:
                    while worker.sync_sent:
                        self._note_sync(worker, *await worker.receive(_SYNC_SECONDS))
                    if kind in (protocol.SYNC, protocol.ROLL):
                        self._note_sync(worker, what, message)
                    over = True
                    if what == protocol.FAILED:
                        raise OSError(*protocol.read_failure(message))
                    return message
                if what == protocol.ASK:
                    answer = self._ledger.answer(worker.account, protocol.ids_of(message), borrowed)
                    await self._request_sync(worker)
                    await worker.send(protocol.WANT, answer)
                elif what == protocol.STORED:
                    self._ledger.stored(worker.account, protocol.read_stored(message))
                    self._deliveries.unpark_all()
                elif what == protocol.SYNCED:
                    self._note_sync(worker, what, message)
                elif each is not None and what == protocol.SCANNED:
                    await self._request_sync(worker)
                    await each(message)
                else:
                    raise WorkerLost(f"worker {worker.number} sent a message of kind {what}")
        finally:
            if over:
                self._give(worker)
            else:
                self._lose(worker)

    async def sync(self, since: int | None = None) -> None:
        """Return when everything stored by jobs that are done is durable in its pack, and in the index.

        The index records themselves are unsynced: the caller flushes the database. Workers in the middle of
        a job sync between two batches.

        Args:
            since: `drops` when the first job that matters to the caller began.

        Raises:
            OSError: It is not: what was not durable was dropped, now or since then. Do the jobs again.
        """
        async with self._sync_lock:
            self.check()
            self._failure = None
            async with trio.open_nursery() as nursery:
                for worker in self._workers:
                    if worker.account.unsynced:
                        nursery.start_soon(self._sync_worker, worker)
            self.check()
            try:
                await self._ledger.sync_orphans()
            except OSError as error:
                self._dropped(error)
            failure: OSError | None = self._failure
            if failure is not None:
                raise OSError(failure.errno, f"packs can't be synced: {failure.strerror}") from failure
            if since is not None and since != self.drops:
                raise OSError(errno.EIO, "a sync of the packs failed meanwhile")
            await self._ledger.index_synced()
            self.syncs += 1

    async def roll(self) -> None:
        """Have every worker that is free leave its pack, so that it can be collected. Raises OSError."""
        drops = self.drops
        for worker in list(self._free):
            if worker.account.pack and worker in self._free:
                self._free.remove(worker)
                try:
                    await self.converse(worker, protocol.ROLL, b"", protocol.SYNCED, set())
                except WorkerLost:
                    continue
                worker.account.pack = 0
        self.check()
        if self.drops != drops:
            raise OSError(self._failure.errno if self._failure else errno.EIO, "packs can't be synced")

    def complete_packs(self) -> set[int]:
        """Packs that nobody appends to any more and of which everything is told: indexed, or garbage.

        Lists the directory and reads the headers of packs made since the start: 20 us each.
        """
        writing = {worker.account.pack for worker in self._workers}
        # What a busy worker has written it may not have told yet.
        busy = {worker.number for worker in self._workers if worker not in self._free}
        found = set()
        for pack in pack_numbers(self._packs):
            if pack not in self._inherited:
                writer = pack_writer(self._packs, pack)
                if writer is None or writer in busy or pack in writing:
                    continue
            found.add(pack)
        return found - self._ledger.waiting_packs()

    async def close(self) -> None:
        """End all processes. What was not synced is not in the index and means nothing. Idempotent."""
        self._closed = True
        with trio.CancelScope(shield=True):
            for worker in self._workers:
                worker.let_go()
            ending = self._workers + self._dying
            self._workers, self._free, self._dying = [], [], []
            with trio.move_on_after(_CLOSE_SECONDS):
                for worker in ending:
                    await worker.wait()
            for worker in ending:
                if not worker.ended():
                    worker.kill()
                    await worker.wait()
        self._turns.unpark_all()
        self._deliveries.unpark_all()

    async def _sync_worker(self, worker: Worker) -> None:
        """Sync one worker: at once if it is free, else between two batches of its job or after it."""
        if worker not in self._workers:
            # Lost since the sync chose it: nobody would say so any more. Its pack is the ledger's to sync.
            return
        if worker in self._free:
            self._free.remove(worker)
        else:
            event = worker.sync_wanted = trio.Event()
            try:
                await event.wait()
            except BaseException:
                worker.sync_wanted = None
                if worker.reserved:
                    worker.reserved = False
                    self._give(worker)
                raise
            worker.sync_wanted = None
            if not worker.reserved:
                return  # Synced in its job, or lost.
            worker.reserved = False
        try:
            await self.converse(worker, protocol.SYNC, b"", protocol.SYNCED, set())
        except WorkerLost:
            return  # Its pack is the ledger's to sync.

    async def _request_sync(self, worker: Worker) -> None:
        """In the middle of a job: ask for the sync that somebody waits for."""
        if worker.sync_wanted is not None and not worker.sync_sent:
            worker.sync_sent = True
            await worker.send(protocol.SYNC, b"")

    def _note_sync(self, worker: Worker, what: int, message: bytes) -> None:
        if what != protocol.SYNCED:
            raise WorkerLost(f"worker {worker.number} sent a message of kind {what}")
        worker.sync_sent = False
        number, reason = protocol.read_failure(message)
        if number:
            worker.spoiled = True
            self._ledger.drop(worker.account)
            self._dropped(OSError(number, reason))
        else:
            self._ledger.synced(worker.account)
        if worker.sync_wanted is not None:
            worker.sync_wanted.set()

    def _dropped(self, error: OSError) -> None:
        self._failure = error
        self.drops += 1

    def _spawn(self) -> Worker:
        self._started += 1
        worker = Worker(self._packs, self._started, self._pack_bytes, self._module)
        worker.be_nice(self._niceness)
        self._workers.append(worker)
        return worker

    def _give(self, worker: Worker) -> None:
        if worker.spoiled:
            # Its pack takes nothing any more; another worker makes one of its own.
            self._lose(worker)
            return
        self._ledger.give_up(worker.account)
        self._deliveries.unpark_all()
        if worker.sync_wanted is not None and not worker.sync_wanted.is_set():
            worker.reserved = True
            worker.sync_wanted.set()
            return
        self._free.append(worker)
        self._turns.unpark()

    def _lose(self, worker: Worker) -> None:
        self.lost += 1
        self._ledger.lost(worker.account)
        self._deliveries.unpark_all()
        if worker in self._workers:
            self._workers.remove(worker)
        worker.kill()
        self._dying = [other for other in [*self._dying, worker] if not other.ended()]
        if worker.sync_wanted is not None:
            worker.sync_wanted.set()
        self._turns.unpark()
