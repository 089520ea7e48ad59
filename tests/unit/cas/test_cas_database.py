"""A database that outlives its errors: refused while it fails, whole when it comes back."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rocksdict import Rdict, WriteBatch

from cas.database import Database, DatabaseCalls, open_database


@pytest.fixture
def calls() -> DatabaseCalls:
    return DatabaseCalls()


@pytest.fixture
def db(tmp_path: Path, calls: DatabaseCalls) -> Iterator[Database]:
    opened = open_database(tmp_path / "db", calls=calls)
    yield opened
    opened.close()


def batch(*pairs: tuple[bytes, bytes]) -> WriteBatch:
    made = WriteBatch(raw_mode=True)
    for key, value in pairs:
        made.put(key, value)
    return made


def refuse(*_: object) -> None:
    raise Exception("IO error: No space left on device: While appending")


def break_(*_: object) -> None:
    raise Exception("IO error: Input/output error: While fsync")


def test_a_failed_write_refuses_writes_and_not_reads(db: Database, calls: DatabaseCalls) -> None:
    db.write(batch((b"a", b"1")))
    calls.write = refuse
    with pytest.raises(OSError) as raised:
        db.write(batch((b"b", b"2")))
    assert raised.value.errno == errno.ENOSPC
    calls.write = Rdict.write
    for act in (lambda: db.write(batch((b"c", b"3"))), db.sync):
        with pytest.raises(OSError) as raised:
            act()
        assert raised.value.errno == errno.ENOSPC
    assert db.get(b"a") == b"1"
    assert b"c" not in db
    db.reopen()
    assert db.failed is None
    db.write(batch((b"c", b"3")))
    assert [db.get(key) for key in (b"a", b"b", b"c")] == [b"1", None, b"3"]


def test_pairs_to_put_again_are_there_all_the_time(db: Database, calls: DatabaseCalls, tmp_path: Path) -> None:
    """The worst case: what RocksDB had written and not synced is gone when it is opened again."""
    shutil.copytree(tmp_path / "db", tmp_path / "empty")
    db.write(batch((b"a", b"1")), again=[(b"a", b"1")])
    calls.write = break_
    with pytest.raises(OSError) as raised:
        db.write(batch((b"b", b"2")), again=[(b"b", b"2")])
    assert raised.value.errno == errno.EIO
    assert [db.get(b"a"), db.get(b"b")] == [b"1", b"2"]
    calls.write = Rdict.write
    opening = calls.open

    def lose(path: Path, size: int, read_only: bool) -> Rdict:
        shutil.rmtree(path)
        shutil.copytree(tmp_path / "empty", path)
        return opening(path, size, read_only)

    calls.open = lose
    db.reopen()
    assert [db.get(b"a"), db.get(b"b")] == [b"1", b"2"]
    assert db.unsynced_bytes == 0
    calls.open = opening
    db.reopen()
    assert [db.get(b"a"), db.get(b"b")] == [b"1", b"2"]


def test_a_sync_lets_go_of_what_it_covered(db: Database, calls: DatabaseCalls) -> None:
    db.write(batch((b"a", b"12")), again=[(b"a", b"12")])
    assert db.unsynced_bytes == 3

    def sync(found: Rdict) -> None:
        db.write(batch((b"b", b"3")), again=[(b"b", b"3")])

    calls.sync = sync
    db.sync()
    assert db.unsynced_bytes == 2
    calls.sync = break_
    with pytest.raises(OSError):
        db.sync()
    assert db.unsynced_bytes == 2


def test_where_it_cannot_be_written_it_is_read(db: Database, calls: DatabaseCalls) -> None:
    db.write(batch((b"a", b"1")))
    opening = calls.open

    def full(path: Path, size: int, read_only: bool) -> Rdict:
        if not read_only:
            refuse()
        return opening(path, size, read_only)

    calls.open = full
    for _ in range(2):
        with pytest.raises(OSError) as raised:
            db.reopen()
        assert raised.value.errno == errno.ENOSPC
        assert db.read_only
        assert db.get(b"a") == b"1"
    calls.open = opening
    db.reopen()
    assert not db.read_only
    db.write(batch((b"b", b"2")))
    db.sync()


def test_while_it_cannot_be_opened_at_all_reads_fail_and_come_back(db: Database, calls: DatabaseCalls) -> None:
    db.write(batch((b"a", b"1")))
    opening, calls.open = calls.open, break_  # type: ignore[assignment]
    with pytest.raises(OSError):
        db.reopen()
    with pytest.raises(OSError) as raised:
        db.get(b"a")
    assert raised.value.errno == errno.EIO
    calls.open = opening
    db.reopen()
    assert db.get(b"a") == b"1"


def test_one_read_that_fails_is_an_error_of_its_own(db: Database, calls: DatabaseCalls) -> None:
    db.write(batch((b"a", b"1")))
    calls.get = break_
    with pytest.raises(OSError) as raised:
        db.get(b"a")
    assert raised.value.errno == errno.EIO
    calls.get = Rdict.get
    assert db.get(b"a") == b"1"
    assert db.failed is None


def test_a_read_that_meets_a_reopen_is_made_again(db: Database, calls: DatabaseCalls) -> None:
    db.write(batch((b"a", b"1")))

    def closed(found: Rdict, key: bytes) -> object:
        calls.get = Rdict.get
        db.reopen()
        return found.get(key)

    calls.get = closed
    assert db.get(b"a") == b"1"
