"""A sync of a segment fails: it moves to another file, or the log turns read-only; never a second sync."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from heliosfs.core.ids import Lsn
from heliosfs.storage.errors import LogDamaged
from heliosfs.storage.log import Log, Place
from heliosfs.storage.log.oscalls import OsCalls

SEGMENT = 256 * 1024
Seen = list[tuple[bytes, Place]]


def open_log(directory: Path, calls: OsCalls | None = None, seen: Seen | None = None) -> Log:
    replayed: Seen = [] if seen is None else seen
    return Log.open(
        directory,
        budget_bytes=1 << 20,
        start=Lsn(0),
        on_record=lambda lsn, end, kind, body, place: replayed.append((bytes(body), place)),
        segment_bytes=SEGMENT,
        calls=calls,
    )


def replay(directory: Path) -> list[bytes]:
    """Bodies that a recovery finds now, their payloads read; in a copy."""
    seen: Seen = []
    with (
        TemporaryDirectory() as copy,
        closing(open_log(Path(shutil.copytree(directory, copy + "/log")), seen=seen)) as log,
    ):
        for body, place in seen:
            found = log.read_blocks(place.life, place.offset, place.length, place.sums, 0, place.length)
            assert found == payload(body)
    return [body for body, _ in seen]


def payload(body: bytes) -> bytes:
    return body * 700


@pytest.fixture
def calls() -> OsCalls:
    return OsCalls()


@pytest.fixture
def log(tmp_path: Path, calls: OsCalls) -> Iterator[Log]:
    with closing(open_log(tmp_path, calls)) as opened:
        yield opened


class Disk:
    """Segments whose fdatasync fails for good: a bad spot under the file."""

    def __init__(self, calls: OsCalls) -> None:
        self.bad: set[int] = set()
        self.synced: list[int] = []
        calls.sync = self.sync

    def sync(self, fd: int) -> None:
        inode = os.fstat(fd).st_ino
        self.synced.append(inode)
        if inode in self.bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(fd)


def segment_of(log: Log) -> Path:
    return log.locate(log.current_life)[0]


def add(log: Log, *bodies: bytes) -> list[Place]:
    return [log.append(1, body, payload(body)) for body in bodies]


def test_the_log_goes_on_in_another_file(log: Log, calls: OsCalls, tmp_path: Path) -> None:
    disk = Disk(calls)
    (durable,) = add(log, b"durable")
    log.sync()
    path = segment_of(log)
    bad = path.stat().st_ino
    disk.bad.add(bad)
    (unsynced,) = add(log, b"unsynced")
    log.sync()
    assert (log.failed, log.moves, log.durable_lsn) == (None, 1, log.end)
    assert disk.synced.count(bad) == 2, "one that worked, one that failed: none after that"
    assert path.stat().st_ino != bad
    for place, body in ((durable, b"durable"), (unsynced, b"unsynced")):
        found = log.read_blocks(place.life, place.offset, place.length, place.sums, 0, place.length)
        assert found == payload(body)
    add(log, b"later")
    log.sync()
    assert replay(tmp_path) == [b"durable", b"unsynced", b"later"]
    assert [name for name in os.listdir(tmp_path) if name.endswith(".new")] == []


def test_what_is_appended_meanwhile_comes_along(log: Log, calls: OsCalls, tmp_path: Path) -> None:
    disk = Disk(calls)
    add(log, b"before")
    disk.bad.add(segment_of(log).stat().st_ino)
    copy = calls.copy

    def copy_late(fd: int, data: bytes, offset: int) -> int:
        calls.copy = copy
        add(log, b"meanwhile")
        return copy(fd, data, offset)

    calls.copy = copy_late
    log.sync()
    add(log, b"after")
    assert replay(tmp_path) == [b"before", b"meanwhile", b"after"]


def test_a_sealed_segment_is_moved_too(log: Log, calls: OsCalls, tmp_path: Path) -> None:
    disk = Disk(calls)
    bodies = [b"%d" % number for number in range(300)]
    disk.bad.add(segment_of(log).stat().st_ino)
    add(log, *bodies)
    assert log.current_life > 1
    log.sync()
    assert log.moves == 1
    assert replay(tmp_path) == bodies


def test_bytes_that_the_kernel_dropped_make_it_read_only(log: Log, calls: OsCalls) -> None:
    """The page of an unsynced record was thrown away after the failed write-back: nothing could be proved."""
    disk = Disk(calls)
    (place,) = add(log, b"lost")
    path = segment_of(log)
    disk.bad.add(path.stat().st_ino)
    with path.open("r+b") as file:
        file.seek(place.offset)
        file.write(bytes(place.length))
    with pytest.raises(OSError) as raised:
        log.sync()
    assert raised.value.errno == errno.EIO
    assert log.failed is not None and log.durable_lsn < place.end_lsn
    with pytest.raises(OSError) as raised:
        add(log, b"more")
    assert raised.value.errno == errno.EROFS


def test_older_damage_does_not_stand_in_the_way(log: Log, calls: OsCalls) -> None:
    disk = Disk(calls)
    (place,) = add(log, b"damaged")
    log.sync()
    path = segment_of(log)
    with path.open("r+b") as file:
        file.seek(place.offset)
        file.write(b"\0")
    add(log, b"unsynced")
    disk.bad.add(path.stat().st_ino)
    log.sync()
    assert log.failed is None
    with pytest.raises(LogDamaged):
        log.read_blocks(place.life, place.offset, place.length, place.sums, 0, 10)


def test_a_life_released_meanwhile_is_not_moved_over_its_file(log: Log, calls: OsCalls) -> None:
    disk = Disk(calls)
    disk.bad.add(segment_of(log).stat().st_ino)
    add(log, *[b"%d" % number for number in range(300)])
    copy = calls.copy

    def copy_late(fd: int, data: bytes, offset: int) -> int:
        calls.copy = copy
        log.release(log.end)
        return copy(fd, data, offset)

    calls.copy = copy_late
    before = log.stats()["segments"]
    log.sync()
    log.release(log.end)
    assert before > log.stats()["segments"] == 1


@pytest.mark.parametrize("label", ["create_copy", "preallocate", "copy", "rename", "sync_directory"])
def test_a_move_that_fails_makes_it_read_only_and_loses_nothing(
    log: Log, calls: OsCalls, tmp_path: Path, label: str
) -> None:
    disk = Disk(calls)
    add(log, b"durable")
    log.sync()
    add(log, b"unsynced")
    disk.bad.add(segment_of(log).stat().st_ino)

    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    setattr(calls, label, fail)
    with pytest.raises(OSError) as raised:
        log.sync()
    assert raised.value.errno == errno.EIO, "the error of the sync"
    assert log.failed is not None
    assert replay(tmp_path) == [b"durable", b"unsynced"]


@pytest.mark.parametrize("label", ["create_copy", "preallocate", "copy", "rename", "sync_directory"])
def test_a_move_that_failed_is_tried_again(log: Log, calls: OsCalls, tmp_path: Path, label: str) -> None:
    """Once there is room, or the disk is well: and still no file is synced again whose sync has failed."""
    disk = Disk(calls)
    add(log, b"durable")
    log.sync()
    add(log, b"unsynced")
    bad = segment_of(log).stat().st_ino
    disk.bad.add(bad)
    # So that no other file gets its inode number.
    held = segment_of(log).open("rb")
    well = getattr(calls, label)

    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    setattr(calls, label, fail)
    with pytest.raises(OSError):
        log.sync()
    assert log.mendable and not log.mend()
    assert log.failed is not None
    with pytest.raises(OSError, match="nor moved"):
        add(log, b"refused")
    setattr(calls, label, well)
    syncs = disk.synced.count(bad)
    assert log.mend()
    assert (log.failed, log.mendable, log.durable_lsn) == (None, False, log.end)
    assert disk.synced.count(bad) == syncs
    add(log, b"later")
    log.sync()
    held.close()
    assert replay(tmp_path) == [b"durable", b"unsynced", b"later"]


def test_what_the_kernel_has_dropped_can_not_be_mended(log: Log, calls: OsCalls) -> None:
    disk = Disk(calls)
    (place,) = add(log, b"lost")
    path = segment_of(log)
    disk.bad.add(path.stat().st_ino)
    with path.open("r+b") as file:
        file.seek(place.offset)
        file.write(bytes(place.length))
    with pytest.raises(OSError):
        log.sync()
    disk.bad.clear()
    assert not log.mend()
    assert log.failed is not None and log.durable_lsn < place.end_lsn
    assert "is not there any more" in str(log.failed)


def test_names_that_were_not_synced_are_made_anew(log: Log, calls: OsCalls, tmp_path: Path) -> None:
    """A second fsync of the directory would report success for a name that the first one has lost."""
    bodies = [b"%d" % number for number in range(300)]
    add(log, *bodies)
    inodes = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    well = calls.sync_directory

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    calls.sync_directory = fail
    with pytest.raises(OSError):
        log.sync()
    assert log.failed is not None and not log.mend()
    calls.sync_directory = well
    assert log.mend()
    assert log.durable_lsn == log.end
    left = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert all(inodes.get(name) != inode for name, inode in left.items())
    add(log, b"later")
    log.sync()
    assert replay(tmp_path) == [*bodies, b"later"]


def test_a_refused_record_is_taken_back_later(log: Log, calls: OsCalls, tmp_path: Path) -> None:
    add(log, b"before")
    append, cancel = calls.append, calls.cancel

    def half(fd: int, buffers: Any, offset: int) -> int:
        append(fd, buffers, offset)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    calls.append, calls.cancel = half, fail
    with pytest.raises(OSError):
        add(log, b"refused")
    calls.append = append
    with pytest.raises(OSError, match="can't be taken back"):
        add(log, b"refused, too")
    assert not log.mend()
    calls.cancel = cancel
    assert log.mend()
    assert replay(tmp_path) == [b"before"]
    add(log, b"after")
    assert replay(tmp_path) == [b"before", b"after"]


def test_killed_at_any_step_every_acknowledged_record_is_there(log: Log, calls: OsCalls, tmp_path: Path) -> None:
    disk = Disk(calls)
    bodies = [b"%d" % number for number in range(20)]
    add(log, *bodies)
    disk.bad.add(segment_of(log).stat().st_ino)
    steps = 0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def around(*arguments: Any) -> Any:
            nonlocal steps
            assert replay(tmp_path) == bodies
            result = call(*arguments)
            assert replay(tmp_path) == bodies
            steps += 1
            return result

        return around

    for label in ("create_copy", "preallocate", "copy", "rename", "sync", "sync_directory"):
        setattr(calls, label, watched(getattr(calls, label)))
    log.sync()
    assert log.moves == 1 and steps > 20
