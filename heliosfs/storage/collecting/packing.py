"""The packs of a collection: dead ones removed, wasteful ones copied and then removed.

Order, for each: index records deleted or pointed elsewhere; the database synced; reads that may know the old
places waited for; the file removed. Never the file before the sync: a record that a power cut brings back must
find its bytes. Must not know: what reaches a chunk.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from cas import database
from cas.database import Database
from cas.gc import PackPlan, PackUses, remove_packs
from cas.index import ChunkIndex
from cas.packfile import Place, Stored
from heliosfs.storage.collecting.pace import Pace
from heliosfs.storage.collecting.reads import ReadsUnderWay
from heliosfs.storage.collecting.report import Report
from heliosfs.storage.reading import Reader
from heliosfs.storage.workers import WorkerPool

_JOB_CHUNKS: Final = 16384
_JOB_BYTES: Final = 64 << 20
"""What is copied into one new pack: on a disk that is nearly full no more than this is needed at a time."""
_PASS_CHUNKS: Final = 100_000
"""Entries gathered in one walk of the index, at 0.3 KiB of memory each."""
_REPOINT: Final = 50
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Packing:
    """Removes and rewrites packs.

    Attributes:
        make_room: Gives up the store's reserve on a full disk; the bytes given.
    """

    def __init__(
        self,
        packs: Path,
        db: Database,
        index: ChunkIndex,
        pool: WorkerPool,
        reads: ReadsUnderWay,
        reader: Reader,
        step: Callable[[str], None],
    ) -> None:
        self._packs = packs
        self._db = db
        self._index = index
        self._pool = pool
        self._reads = reads
        self._reader = reader
        self._step = step
        self.make_room: Callable[[], int] = lambda: 0

    async def carry_out(self, plan: PackPlan, uses: PackUses, report: Report, pace: Pace) -> None:
        """Do what was planned. The deleted index records are synced. Raises OSError; a full disk ends it early."""
        await self._remove(plan.dead, report)
        report.packs_removed += len(plan.dead)
        waiting = list(plan.rewrite)
        while waiting and report.stopped is None:
            batch: list[int] = []
            chunks = 0
            while waiting and (not batch or chunks + uses.of(waiting[0]).chunks <= _PASS_CHUNKS):
                chunks += uses.of(waiting[0]).chunks
                batch.append(waiting.pop(0))
            entries = await self._entries_of(batch, pace)
            groups = list(_groups(batch, uses))
            while groups:
                group = groups.pop(0)
                try:
                    await self._rewrite(group, [e for pack in group for e in entries[pack]], report, pace)
                except OSError as error:
                    if error.errno not in _FULL:
                        raise
                    if len(group) > 1:
                        # One by one they need less room, and each gives some back.
                        groups[:0] = [[pack] for pack in group]
                    elif self.make_room():
                        groups.insert(0, group)
                    else:
                        report.stopped = "no space left to rewrite packs in: free some and run it again"
                        break

    async def _entries_of(self, packs: Sequence[int], pace: Pace) -> dict[int, list[Stored]]:
        """What the index has in these packs, in the order in which it lies there."""
        found: dict[int, list[Stored]] = {pack: [] for pack in packs}
        for entry in self._index.entries():
            wanted = found.get(entry.place.pack)
            if wanted is not None:
                wanted.append(entry)
            await pace.take()
        for entries in found.values():
            entries.sort(key=_offset)
            await pace.take()
        return found

    async def _rewrite(self, packs: Sequence[int], entries: Sequence[Stored], report: Report, pace: Pace) -> None:
        stay: set[int] = set()
        for job in _jobs(entries):
            copies = await self._pool.copy_chunks(job)
            self._step("copied")
            sources: dict[bytes, Place] = {entry.id: entry.place for entry in job}
            moves = [(copy, sources.pop(copy.id)) for copy in copies]
            # What is left could not be verified: it stays where it is, for a repair.
            report.damaged_chunks += len(sources)
            stay.update(place.pack for place in sources.values())
            for at in range(0, len(moves), _REPOINT):
                self._index.repoint_batch(moves[at : at + _REPOINT])
                await pace.take()
            copied = sum(copy.place.length for copy in copies)
            report.copied_bytes += copied
            report.pack_bytes_freed -= copied
            self._step("repointed")
        removable = [pack for pack in packs if pack not in stay]
        await self._nothing_points_into(removable, entries, pace)
        await trio.to_thread.run_sync(database.sync, self._db)
        self._step("repoint-synced")
        await self._remove(removable, report)
        report.packs_rewritten += len(removable)

    async def _nothing_points_into(self, packs: Sequence[int], entries: Sequence[Stored], pace: Pace) -> None:
        gone = set(packs)
        for entry in entries:
            place = self._index.place(entry.id)
            assert place is None or place.pack not in gone, f"chunk {entry.id.hex()} still lies in {place}"
            await pace.take()

    async def _remove(self, packs: Iterable[int], report: Report) -> None:
        """Remove packs that no record points into, one by one, once nobody reads at old places."""
        await self._reads.settled()
        for pack in packs:
            self._reader.forget_packs((pack,))
            report.pack_bytes_freed += await trio.to_thread.run_sync(remove_packs, self._packs, (pack,))
            self._step("pack-removed")


def _offset(entry: Stored) -> tuple[int, int]:
    return entry.place.pack, entry.place.offset


def _groups(packs: Sequence[int], uses: PackUses) -> Iterator[list[int]]:
    """Packs that are rewritten together: their live chunks fill one new pack or so."""
    group: list[int] = []
    size = chunks = 0
    for pack in packs:
        use = uses.of(pack)
        if group and (size + use.live_bytes > _JOB_BYTES or chunks + use.chunks > _JOB_CHUNKS):
            yield group
            group, size, chunks = [], 0, 0
        group.append(pack)
        size += use.live_bytes
        chunks += use.chunks
    if group:
        yield group


def _jobs(entries: Sequence[Stored]) -> Iterator[Sequence[Stored]]:
    start = size = 0
    for at, entry in enumerate(entries, 1):
        size += entry.place.length
        if size >= _JOB_BYTES or at - start >= _JOB_CHUNKS:
            yield entries[start:at]
            start, size = at, 0
    if start < len(entries):
        yield entries[start:]
