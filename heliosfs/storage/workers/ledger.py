"""Which chunks exist, which are being stored, and which of them are already safe.

A chunk goes through three states: *storing* (a worker was told to), *waiting* (it lies in a pack that is not
synced: readable, but not in the index) and *indexed*. Invariants:
- a chunk enters the index only after its pack was synced, so that nothing a power cut leaves in the index can
  lack its bytes (cas.index);
- a chunk that left one state is in the next one already: whoever asks never stores it twice.
Must not know: processes, sockets, jobs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio

from cas.digest import ChunkId
from cas.index import ChunkIndex
from cas.packfile import Stored, pack_path
from heliosfs.storage.collecting.claims import Claims

_INDEX_BATCH: Final = 99
"""Records that go in with the index's own sums in one batch: it holds the interpreter lock 0.1 ms."""


class Account:
    """What one worker process is storing and has stored since its last sync.

    Attributes:
        pack: The one that it appends to, as far as it has told; 0 for none.
    """

    __slots__ = ("pack", "storing", "unsynced")

    def __init__(self) -> None:
        self.storing: set[ChunkId] = set()
        self.unsynced: list[Stored] = []
        self.pack = 0


class Ledger:
    """The pool's book of chunks.

    Attributes:
        asked, new: Chunks that workers had, and those of them that were stored.
        new_raw_bytes, new_stored_bytes: Of the latter, decoded and as frames.
        claims: Told of every chunk that a worker asked about.
    """

    def __init__(self, packs: Path, index: ChunkIndex, claims: Claims) -> None:
        self.claims = claims
        self._packs = packs
        self._index = index
        self._storing: dict[ChunkId, Account] = {}
        self._waiting: dict[ChunkId, Stored] = {}
        self._orphans: list[Stored] = []
        self._synced: list[Stored] = []
        self.asked = 0
        self.new = 0
        self.new_raw_bytes = 0
        self.new_stored_bytes = 0

    def answer(self, account: Account, ids: list[ChunkId], borrowed: set[ChunkId]) -> bytes:
        """One byte for each id: 1 if the worker of `account` is to store it. 0.9 us an id.

        Adds to `borrowed` what another worker is storing: it is not there yet.
        """
        self.asked += len(ids)
        # In the turn of the answer: a collection deletes no index record between the two.
        self.claims.chunks(ids)
        waiting, storing = self._waiting, self._storing
        answer = bytearray(len(ids))
        for at, (id_, known) in enumerate(zip(ids, self._index.has_many(ids), strict=True)):
            if known or id_ in waiting:
                continue
            other = storing.setdefault(id_, account)
            if other is account:
                account.storing.add(id_)
                answer[at] = 1
            else:
                borrowed.add(id_)
        return bytes(answer)

    def stored(self, account: Account, entries: list[Stored]) -> None:
        """A worker has appended these to its pack. 0.5 us an entry."""
        for entry in entries:
            self._waiting[entry.id] = entry
            self._storing.pop(entry.id, None)
            self.new_raw_bytes += entry.raw_length
            self.new_stored_bytes += entry.place.length
        account.storing.difference_update([entry.id for entry in entries])
        account.unsynced += entries
        if entries:
            account.pack = entries[-1].place.pack
        self.new += len(entries)

    def give_up(self, account: Account) -> None:
        """What the worker was still to store it will not: its job is over."""
        for id_ in account.storing:
            self._storing.pop(id_, None)
        account.storing.clear()

    def lost(self, account: Account) -> None:
        """The worker is gone. What it had appended is in its pack, for us to sync."""
        self.give_up(account)
        self._orphans += account.unsynced
        account.unsynced = []

    def synced(self, account: Account) -> None:
        """What the worker had appended is durable in its pack."""
        self._synced += account.unsynced
        account.unsynced = []

    def being_stored(self, ids: Iterable[ChunkId]) -> bool:
        """Whether any of them is in nobody's pack yet, but soon will be."""
        storing = self._storing
        return any(id_ in storing for id_ in ids)

    def has_all(self, ids: Iterable[ChunkId]) -> bool:
        """Whether all of them are stored."""
        waiting, has = self._waiting, self._index.has
        return all(id_ in waiting or has(id_) for id_ in ids)

    def place(self, id_: ChunkId) -> Stored | None:
        """A chunk that waits for a sync, else None."""
        return self._waiting.get(id_)

    @property
    def waiting(self) -> int:
        """How many chunks wait for a sync."""
        return len(self._waiting)

    def waiting_packs(self) -> set[int]:
        """Packs with chunks that are in no index record yet. O(waiting)."""
        return {entry.place.pack for entry in self._waiting.values()}

    def drop(self, account: Account) -> None:
        """What the worker had appended since its last sync may not be there: it was never stored."""
        self._forget(account.unsynced)
        account.unsynced = []

    def _forget(self, entries: list[Stored]) -> None:
        for entry in entries:
            if self._waiting.get(entry.id) is entry:
                del self._waiting[entry.id]

    async def sync_orphans(self) -> None:
        """Sync the packs that lost workers left behind, in a thread. Raises OSError: they are dropped."""
        while self._orphans:
            orphans = list(self._orphans)
            try:
                await trio.to_thread.run_sync(_sync_packs, self._packs, {entry.place.pack for entry in orphans})
            except OSError:
                del self._orphans[: len(orphans)]
                self._forget(orphans)
                raise
            del self._orphans[: len(orphans)]
            self._synced += orphans

    async def index_synced(self) -> None:
        """Put what is durable in its pack into the index, in batches between which others run."""
        synced = self._synced
        while synced:
            batch = synced[:_INDEX_BATCH]
            self._index.put_batch(batch)
            del synced[: len(batch)]
            for entry in batch:
                self._waiting.pop(entry.id, None)
            await trio.lowlevel.checkpoint()


def _sync_packs(directory: Path, packs: Iterable[int]) -> None:
    for pack in packs:
        fd = os.open(pack_path(directory, pack), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
