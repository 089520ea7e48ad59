"""What a damaged database still has is read, what it has not is named, and nothing passes for the end."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from rocksdict import Rdict

from cas import database
from cas.database import open_database
from cas.digest import chunk_id
from cas.errors import ChunkDamaged
from cas.index import ChunkIndex
from cas.packfile import Place, Stored
from cas.salvage import DatabaseView, Gap, salvage


def entry(number: int) -> Stored:
    return Stored(chunk_id(b"%d" % number), Place(1, 100 + number, 50), 60)


ENTRIES = [entry(number) for number in range(4000)]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A database whose index records lie in one table, one byte of one block of it flipped."""
    db = open_database(tmp_path / "db")
    ChunkIndex(db).put_batch(ENTRIES, all_new=True)
    db.flush()
    db.close()
    (table,) = (tmp_path / "db").glob("*.sst")
    flip(table, table.stat().st_size // 2)
    return tmp_path / "db"


def lost_of(db: Rdict) -> set[bytes]:
    found: set[bytes] = set()
    index = ChunkIndex(db)
    for wanted in ENTRIES:
        try:
            assert index.get(wanted.id) == wanted
        except ChunkDamaged as error:
            assert "checksum" in str(error)
            found.add(b"c" + wanted.id)
    return found


def test_salvage_reads_everything_but_the_bad_block_and_names_the_gap(damaged: Path) -> None:
    with DatabaseView(damaged) as view:
        lost = lost_of(view.db)
        found = list(salvage(view.db, b"c"))
    (gap,) = [each for each in found if isinstance(each, Gap)]
    keys = {each[0] for each in found if not isinstance(each, Gap)}
    assert lost and "checksum" in gap.reason
    assert keys == {b"c" + each.id for each in ENTRIES} - lost | {b"c"}
    assert all(gap.after < key < gap.before for key in lost)


def test_a_view_changes_nothing_and_can_be_had_beside_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "db"
    db = open_database(path)
    ChunkIndex(db).put_batch(ENTRIES[:10], all_new=True)
    before = {name: os.stat(path / name).st_mtime_ns for name in os.listdir(path)}
    with DatabaseView(path) as view:
        assert sum(not isinstance(each, Gap) for each in salvage(view.db)) == 11
    assert {name: os.stat(path / name).st_mtime_ns for name in os.listdir(path)} == before
    db.close()


def test_iterating_over_a_bad_block_is_an_error_and_not_the_end(damaged: Path) -> None:
    db = open_database(damaged)
    try:
        with pytest.raises(OSError, match="checksum"):
            list(database.records(db, b"c"))
        with pytest.raises(OSError, match="checksum"):
            list(ChunkIndex(db).entries())
    finally:
        db.close()


def test_a_chunk_whose_record_is_lost_is_put_again_and_heals(damaged: Path) -> None:
    db = open_database(damaged)
    try:
        index = ChunkIndex(db)
        unreadable = lost_of(db)
        lost = [each for each in ENTRIES if b"c" + each.id in unreadable]
        assert not any(index.has_many([each.id for each in lost]))
        random.Random(1).shuffle(lost)
        for each in lost:
            index.put_batch([each._replace(place=Place(2, 7, 50))])
        assert all(index.get(each.id) == each._replace(place=Place(2, 7, 50)) for each in lost)
        assert index.has_many([each.id for each in ENTRIES]) == [True] * len(ENTRIES)
        assert index.stats().chunks == len(ENTRIES)
    finally:
        db.close()


def test_a_suspect_is_unknown_until_it_is_put_again(tmp_path: Path) -> None:
    db = open_database(tmp_path / "db")
    try:
        index = ChunkIndex(db)
        index.put_batch(ENTRIES[:5])
        victim = ENTRIES[2]
        index.suspect(victim.id)
        assert index.has_many([each.id for each in ENTRIES[:5]]) == [True, True, False, True, True]
        again = Stored(victim.id, Place(3, 9, 40), 60)
        assert index.put_batch([again, ENTRIES[7]]) == 1
        assert index.get(victim.id) == again and index.has(victim.id)
        stats = index.stats()
        assert (stats.chunks, stats.stored_bytes, stats.raw_bytes) == (6, 5 * 50 + 40, 6 * 60)
    finally:
        db.close()
