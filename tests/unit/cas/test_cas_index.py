"""The index in RocksDB: exact sums, small batches, neighbours' keys left alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from rocksdict import Rdict, WriteBatch

from cas.database import BATCH_RECORDS, open_database
from cas.digest import ChunkId, chunk_id
from cas.index import ChunkIndex
from cas.packs import Place, Stored
from cas.store import StoreStats


def stored(number: int) -> Stored:
    return Stored(chunk_id(b"%d" % number), Place(number % 7 + 1, number << 33, 100 + number), 200 + number)


MANY = [stored(number) for number in range(350)]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Rdict]:
    db = open_database(tmp_path / "db")
    yield db
    db.close()


class Recorder:
    """A database whose batches are counted; `refuse` makes writes fail."""

    def __init__(self, db: Rdict) -> None:
        self.db = db
        self.sizes: list[int] = []
        self.refuse_from = -1

    def __getattr__(self, name: str) -> object:
        return getattr(self.db, name)

    def __contains__(self, key: bytes) -> bool:
        return key in self.db

    def write(self, batch: WriteBatch) -> None:
        if len(self.sizes) == self.refuse_from:
            raise OSError(28, "No space left on device")
        self.sizes.append(len(batch))
        self.db.write(batch)


def sums(entries: list[Stored]) -> StoreStats:
    return StoreStats(
        len(entries),
        sum(entry.place.length for entry in entries),
        sum(entry.raw_length for entry in entries),
    )


def test_what_was_put_is_found(db: Rdict) -> None:
    index = ChunkIndex(db)
    assert index.stats() == StoreStats(0, 0, 0)
    assert index.put_batch(MANY) == 350
    for entry in MANY:
        assert index.has(entry.id)
        assert index.get(entry.id) == entry
        assert index.place(entry.id) == entry.place
    unknown = chunk_id(b"unknown")
    assert not index.has(unknown)
    assert index.get(unknown) is None
    assert index.place(unknown) is None
    assert index.has_many([MANY[3].id, unknown, MANY[4].id]) == [True, False, True]
    assert index.stats() == sums(MANY)
    assert sorted(index.entries()) == sorted(MANY)
    index.flush()


def test_batches_are_small(db: Rdict) -> None:
    recorder = Recorder(db)
    index = ChunkIndex(recorder)  # type: ignore[arg-type]
    index.put_batch(MANY)
    index.delete_batch([entry.id for entry in MANY])
    assert len(recorder.sizes) == 8
    assert max(recorder.sizes) == BATCH_RECORDS
    # Each batch has one record for the sums.
    assert sum(recorder.sizes) == 2 * 350 + 8


@pytest.mark.parametrize("all_new", [True, False])
def test_first_place_stands(db: Rdict, all_new: bool) -> None:
    index = ChunkIndex(db)
    assert index.put_batch(MANY[:150], all_new=all_new) == 150
    moved = [entry._replace(place=Place(99, 1, 1)) for entry in MANY[:160]]
    assert index.put_batch(moved) == 10
    assert index.get(MANY[0].id) == MANY[0]
    assert index.get(MANY[155].id) == moved[155]
    assert index.stats() == sums(MANY[:150] + moved[150:])


def test_the_same_chunk_twice_in_one_batch_counts_once(db: Rdict) -> None:
    index = ChunkIndex(db)
    assert index.put_batch([MANY[0], MANY[1], MANY[0]._replace(place=Place(5, 5, 5)), MANY[1]]) == 2
    assert index.stats() == sums(MANY[:2])
    assert index.get(MANY[0].id) == MANY[0]
    assert index.put_batch([]) == 0


def test_delete(db: Rdict) -> None:
    index = ChunkIndex(db)
    index.put_batch(MANY)
    gone = [entry.id for entry in MANY[:220]]
    assert index.delete_batch([*gone, gone[0], ChunkId(bytes(32))]) == 220
    assert index.delete_batch(gone) == 0
    assert index.stats() == sums(MANY[220:])
    assert sorted(index.entries()) == sorted(MANY[220:])


def test_sums_survive_reopening(tmp_path: Path) -> None:
    path = tmp_path / "again"
    db = open_database(path)
    index = ChunkIndex(db)
    index.put_batch(MANY)
    index.delete_batch([MANY[7].id])
    index.flush()
    del index
    db.close()
    db = open_database(path)
    try:
        assert ChunkIndex(db).stats() == sums(MANY[:7] + MANY[8:])
    finally:
        db.close()


def test_a_refused_write_changes_neither_records_nor_sums(db: Rdict) -> None:
    recorder = Recorder(db)
    index = ChunkIndex(recorder)  # type: ignore[arg-type]
    recorder.refuse_from = 2
    with pytest.raises(OSError, match="No space"):
        index.put_batch(MANY)
    assert index.stats() == sums(MANY[: 2 * (BATCH_RECORDS - 1)])
    assert sorted(index.entries()) == sorted(MANY[: 2 * (BATCH_RECORDS - 1)])
    recorder.refuse_from = -1
    assert index.put_batch(MANY) == 350 - 2 * (BATCH_RECORDS - 1)
    assert index.stats() == sums(MANY)


@pytest.mark.parametrize("key", [b"a", b"b\xff" * 20, b"d", b"p" + bytes(32), b"c" + bytes(5)])
def test_other_keys_are_not_entries(db: Rdict, key: bytes) -> None:
    db[key] = b"somebody else's"
    index = ChunkIndex(db)
    index.put_batch(MANY[:5])
    assert sorted(index.entries()) == sorted(MANY[:5])


def test_entries_come_in_order_of_ids(db: Rdict) -> None:
    index = ChunkIndex(db)
    shuffled = list(MANY)
    random.Random(2).shuffle(shuffled)
    lowest = Stored(ChunkId(bytes(32)), Place(1, 2, 3), 4)
    highest = Stored(ChunkId(b"\xff" * 32), Place(1, 2, 3), 4)
    index.put_batch([*shuffled, highest, lowest])
    ids = [entry.id for entry in index.entries()]
    assert ids == sorted(ids)
    assert (ids[0], ids[-1]) == (lowest.id, highest.id)
