"""The index: which chunks there are and where their frames lie. Lives in RocksDB under keys b"c".

    b"c" + chunk id -> pack u32 | offset u64 | frame length u32 | raw length u32      (little-endian)
    b"c"            -> chunks u64 | bytes of their frames u64 | raw bytes u64

A record that RocksDB cannot read (its own checksums are wrong) is ChunkDamaged for who wants its place, and
unknown to who asks whether the chunk has to be stored; so is a chunk that was found damaged in its pack: the
next put of the same content stores it again, which heals it.

Invariants: the sums under b"c" are written in the same batch as the records they count, so they are exact
after any crash; no batch exceeds BATCH_RECORDS; a record goes in only after its pack was synced (the caller's
duty: nothing here can see it). Must not know: pack files, codecs, anybody else's keys.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from rocksdict import Rdict, WriteBatch

from cas import database
from cas.database import BATCH_RECORDS, Database
from cas.digest import ID_BYTES, ChunkId
from cas.errors import ChunkDamaged
from cas.packs import Place, Stored
from cas.store import StoreStats

PREFIX: Final = b"c"
RECORD: Final = struct.Struct("<IQII")
SUMS: Final = struct.Struct("<QQQ")
_KEY_BYTES: Final = len(PREFIX) + ID_BYTES


class ChunkIndex:
    """Chunk id -> place. Thread-safe: changes take a lock, reads none."""

    __slots__ = ("_chunks", "_db", "_lock", "_raw_bytes", "_stored_bytes", "_suspects")

    def __init__(self, db: Database | Rdict) -> None:
        """Use `db`, opened in raw mode; the caller keeps it and closes it."""
        self._db = db
        self._lock = threading.Lock()
        self._suspects: set[ChunkId] = set()
        self._chunks = self._stored_bytes = self._raw_bytes = 0
        if isinstance(db, Database):
            db.on_reopen(self._load_sums)
        if not isinstance(db, Database) or db.opened:
            self._load_sums()

    def _load_sums(self) -> None:
        # Again after each reopen: what an error left of a batch is either all there or not at all.
        sums = self._db.get(PREFIX)
        self._chunks, self._stored_bytes, self._raw_bytes = SUMS.unpack(sums) if sums else (0, 0, 0)

    def _ensure(self) -> None:
        """The sums of a database that is opened later are there once it is. Raises OSError: it can't be."""
        if isinstance(self._db, Database):
            self._db.ensure()

    def has(self, id: ChunkId) -> bool:
        """Whether the chunk is known, and not known to be damaged. 0.6 us."""
        return self.has_many((id,))[0]

    def has_many(self, ids: Iterable[ChunkId]) -> list[bool]:
        """`has` for each, in order; 0.6 us each (RocksDB's own multi-get takes 0.7)."""
        db = self._db
        suspects = self._suspects
        try:
            if not suspects:
                return [PREFIX + id in db for id in ids]
        except Exception:
            # RocksDB's have no class. One record can't be read: one after the other it will tell which.
            pass
        return [id not in suspects and self._readable(id) for id in ids]

    def _readable(self, id: ChunkId) -> bool:
        try:
            return PREFIX + id in self._db
        except Exception:
            self._suspects.add(id)
            return False

    def get(self, id: ChunkId) -> Stored | None:
        """What is known of the chunk, None if nothing. 1 us. Raises ChunkDamaged: its record can't be read."""
        record = self._record(id)
        if record is None:
            return None
        pack, offset, length, raw = record
        return Stored(id, Place(pack, offset, length), raw)

    def place(self, id: ChunkId) -> Place | None:
        """Where the chunk's frame lies, None if it is not known. 1 us. Raises ChunkDamaged, as `get`."""
        record = self._record(id)
        return None if record is None else Place(*record[:3])

    def _record(self, id: ChunkId) -> tuple[int, int, int, int] | None:
        try:
            record = self._db.get(PREFIX + id)
            return None if record is None else RECORD.unpack(record)
        except Exception as error:
            # RocksDB's have no class.
            self._suspects.add(id)
            raise ChunkDamaged(id, f"its index record can't be read: {error}") from error

    def suspect(self, id: ChunkId) -> None:
        """The chunk was found damaged where the index says it lies: take it for unknown until it is put again."""
        self._suspects.add(id)

    def put_batch(self, entries: Iterable[Stored], *, all_new: bool = False) -> int:
        """Record chunks, in unsynced batches of at most BATCH_RECORDS. 1.7 us a chunk, 1 us if `all_new`.

        The first place of a chunk stands: an entry for one that is known already changes nothing, and its
        frame is garbage in its pack. The place of a suspect is replaced.

        Args:
            entries: Any number; their packs are synced.
            all_new: The caller knows that none is known and none comes twice; else the sums go wrong.

        Returns:
            How many were new.
        """
        suspects = self._suspects
        pack_record = RECORD.pack
        new = 0
        with self._lock:
            batch = WriteBatch(raw_mode=True)
            records = stored = raw = 0
            seen: set[ChunkId] = set()
            for id, (pack, offset, length), raw_length in entries:
                key = PREFIX + id
                if not all_new and id not in suspects:
                    if id in seen or self._readable(id):
                        continue
                    seen.add(id)
                if id in suspects:
                    self._replace(id, pack_record(pack, offset, length, raw_length), length, raw_length)
                    continue
                batch.put(key, pack_record(pack, offset, length, raw_length))
                records += 1
                stored += length
                raw += raw_length
                if records == BATCH_RECORDS - 1:
                    self._commit(batch, records, stored, raw)
                    new += records
                    batch = WriteBatch(raw_mode=True)
                    records = stored = raw = 0
                    seen.clear()
            if records:
                self._commit(batch, records, stored, raw)
        return new + records

    def _replace(self, id: ChunkId, record: bytes, length: int, raw_length: int) -> None:
        """Give a suspect its new place. Under the lock."""
        try:
            old = self._record(id)
        except ChunkDamaged:
            # The sums counted it once; by how much, nobody can read any more. fsck --repair counts anew.
            old = (0, 0, length, raw_length)
        batch = WriteBatch(raw_mode=True)
        batch.put(PREFIX + id, record)
        if old is None:
            self._commit(batch, 1, length, raw_length)
        else:
            self._commit(batch, 0, length - old[2], raw_length - old[3])
        self._suspects.discard(id)

    def delete_batch(self, ids: Sequence[ChunkId]) -> int:
        """Forget chunks, in unsynced batches of at most BATCH_RECORDS; returns how many were known."""
        known = 0
        with self._lock:
            for start in range(0, len(ids), BATCH_RECORDS - 1):
                batch = WriteBatch(raw_mode=True)
                removed = stored = raw = 0
                for id in dict.fromkeys(ids[start : start + BATCH_RECORDS - 1]):
                    entry = self.get(id)
                    if entry is None:
                        continue
                    batch.delete(PREFIX + id)
                    removed += 1
                    stored += entry.place.length
                    raw += entry.raw_length
                if removed:
                    self._commit(batch, -removed, -stored, -raw)
                    known += removed
        return known

    def repoint_batch(self, moves: Iterable[tuple[Stored, Place]]) -> list[ChunkId]:
        """Record new places of chunks that were copied, in unsynced batches of at most BATCH_RECORDS. 2.5 us each.

        Args:
            moves: (the copy, which is synced; the place that it was copied from).

        Returns:
            Those whose record was changed. One that is not known any more, or lies elsewhere, stays so.
        """
        changed: list[ChunkId] = []
        with self._lock:
            pending = iter(moves)
            while group := list(islice(pending, BATCH_RECORDS - 1)):
                batch = WriteBatch(raw_mode=True)
                moved: list[ChunkId] = []
                stored = 0
                for (id, (pack, offset, length), raw_length), source in group:
                    entry = self.get(id)
                    if entry is not None and entry.place == source:
                        batch.put(PREFIX + id, RECORD.pack(pack, offset, length, raw_length))
                        stored += length - source.length
                        moved.append(id)
                if moved:
                    self._commit(batch, 0, stored, 0)
                    changed += moved
        return changed

    def flush(self) -> None:
        """Return when everything recorded is power-safe. Releases the interpreter lock; 0.3 ms and up."""
        database.sync(self._db)

    def entries(self) -> Iterator[Stored]:
        """Everything known, ordered by id. O(chunks). Raises OSError (EIO) where the database is damaged."""
        # The sums' key is the prefix itself: ids begin right behind it.
        for key, record in database.records(self._db, PREFIX, start=PREFIX + b"\0"):
            if len(key) == _KEY_BYTES:
                pack, offset, length, raw = RECORD.unpack(record)
                yield Stored(ChunkId(key[len(PREFIX) :]), Place(pack, offset, length), raw)

    def stats(self) -> StoreStats:
        """Exact sums over what is known. O(1)."""
        self._ensure()
        with self._lock:
            return StoreStats(self._chunks, self._stored_bytes, self._raw_bytes)

    def _commit(self, batch: WriteBatch, chunks: int, stored_bytes: int, raw_bytes: int) -> None:
        self._ensure()
        chunks += self._chunks
        stored_bytes += self._stored_bytes
        raw_bytes += self._raw_bytes
        batch.put(PREFIX, SUMS.pack(chunks, stored_bytes, raw_bytes))
        database.write(self._db, batch)
        # Only now: a write that raised has changed nothing.
        self._chunks, self._stored_bytes, self._raw_bytes = chunks, stored_bytes, raw_bytes
