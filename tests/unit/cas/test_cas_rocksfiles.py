"""One byte that would make RocksDB hang for ever is found before it opens the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cas.database import open_database, sync
from cas.rocksfiles import looping_records
from cas.salvage import DatabaseView

RECORDS = 300


@pytest.fixture
def database(tmp_path: Path) -> Path:
    db = open_database(tmp_path / "db")
    for number in range(RECORDS):
        db.put(b"p%04d" % number, b"%0200d" % number)
    sync(db)
    # As SIGKILL leaves it: nothing is flushed to tables.
    shutil.copytree(tmp_path / "db", tmp_path / "killed")
    db.close()
    return tmp_path / "killed"


def set_type(path: Path, record: int, kind: int) -> None:
    data = bytearray(path.read_bytes())
    at = 0
    for _ in range(record):
        left = 32768 - at % 32768
        at += left if left < 7 else 7 + int.from_bytes(data[at + 4 : at + 6], "little")
    data[at + 6] = kind
    path.write_bytes(data)


@pytest.mark.parametrize("kind", [5, 6, 7, 8, 11])
def test_a_log_ends_at_a_record_that_would_loop(database: Path, kind: int) -> None:
    (log,) = database.glob("*.log")
    assert looping_records(log.read_bytes()) == []
    set_type(log, 100, kind)
    before = log.read_bytes()
    with DatabaseView(database) as view:
        assert sum(1 for _ in view.db.items()) == 100
    assert log.read_bytes() == before
    db = open_database(database)
    assert sum(1 for _ in db.items(b"")) == 100
    db.close()


def test_a_manifest_that_would_loop_is_refused(database: Path) -> None:
    (manifest,) = database.glob("MANIFEST-*")
    set_type(manifest, 1, 6)
    for opening in (open_database, DatabaseView):
        with pytest.raises(ValueError, match="is damaged at"):
            opening(database)
