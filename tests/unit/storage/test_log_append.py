"""Appending: what is acknowledged is whole, what fails has not happened."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from heliosfs.core import oplog
from heliosfs.core.ids import Lsn
from heliosfs.storage.errors import LifeReleased, LogDamaged
from heliosfs.storage.log import Log, Place
from heliosfs.storage.log.frame import FIRST_INTERNAL_KIND, KIND_SEAL
from heliosfs.storage.log.oscalls import Bytes, OsCalls

SEGMENT = 64 * 1024
KIND_AT = 12
"""Behind the checksum, the marker and the length."""
Seen = list[tuple[int, bytes, Place]]


def open_log(directory: Path, calls: OsCalls | None = None, start: int = 0, seen: Seen | None = None) -> Log:
    replayed: Seen = [] if seen is None else seen
    return Log.open(
        directory,
        budget_bytes=1 << 20,
        start=Lsn(start),
        on_record=lambda lsn, end, kind, body, place: replayed.append((kind, bytes(body), place)),
        segment_bytes=SEGMENT,
        calls=calls,
    )


def replay(directory: Path, start: int = 0) -> Seen:
    """What a recovery would find now. In a copy: opening a log ends the life that another appends to."""
    seen: Seen = []
    with TemporaryDirectory() as copy:
        copied = Path(shutil.copytree(directory, copy, dirs_exist_ok=True))
        open_log(copied, start=start, seen=seen).close()
    return seen


@pytest.fixture
def calls() -> OsCalls:
    return OsCalls()


@pytest.fixture
def log(tmp_path: Path, calls: OsCalls) -> Iterator[Log]:
    with closing(open_log(tmp_path, calls)) as opened:
        yield opened


def is_seal(buffers: Sequence[Bytes]) -> bool:
    return b"".join(bytes(buffer) for buffer in buffers)[KIND_AT] == KIND_SEAL


def test_kinds_of_records_are_none_of_the_logs_own() -> None:
    assert max(oplog.KINDS) < FIRST_INTERNAL_KIND


@pytest.mark.parametrize("size", [0, 1, 7, 16383, 16384, 16385, 40000])
def test_what_was_appended_is_replayed(log: Log, tmp_path: Path, size: int) -> None:
    payload = os.urandom(size)
    log.connection, log.request = 2, 3
    place = log.append(7, b"body", payload)
    assert log.end == place.end_lsn
    assert replay(tmp_path) == [(7, b"body", place)]
    assert log.read(place.life, place.offset, size) == payload
    assert log.read_blocks(place.life, place.offset, size, place.sums, 0, size) == payload


def test_positions_rise_and_never_overlap_across_lives(log: Log) -> None:
    places = [log.append(1, b"x" * 100, b"y" * 3000) for _ in range(60)]
    assert len({place.life for place in places}) > 2
    assert all(one.end_lsn <= other.lsn for one, other in pairwise(places))
    assert all(place.lsn % 8 == 0 for place in places)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_failed_append_has_not_happened(log: Log, calls: OsCalls, tmp_path: Path, code: int) -> None:
    kept = log.append(1, b"kept")
    end = log.end

    def fail(fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        os.pwritev(fd, buffers, offset)  # The worst: it reached the file, and yet it failed.
        raise OSError(code, "injected")

    calls.append = fail
    with pytest.raises(OSError, match="injected") as caught:
        log.append(2, b"gone", b"p" * 5000)
    assert caught.value.errno == code
    assert log.end == end
    assert replay(tmp_path) == [(1, b"kept", kept)]
    calls.append = os.pwritev
    after = log.append(3, b"after")
    assert after.lsn == end
    assert [kind for kind, _, _ in replay(tmp_path)] == [1, 3]


def test_short_append_whose_missing_bytes_are_zeros_anyway_is_not_replayed(
    log: Log, calls: OsCalls, tmp_path: Path
) -> None:
    def short(fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        whole = b"".join(bytes(buffer) for buffer in buffers)
        return os.pwrite(fd, whole[:-512], offset)

    calls.append = short
    with pytest.raises(OSError, match="short") as caught:
        log.append(1, b"", bytes(4096))
    assert caught.value.errno == errno.ENOSPC
    assert replay(tmp_path) == []


def test_append_that_can_be_neither_done_nor_undone_makes_the_log_read_only(log: Log, calls: OsCalls) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "injected")

    calls.append = calls.cancel = fail
    with pytest.raises(OSError, match="injected"):
        log.append(1, b"")
    calls.append, calls.cancel = os.pwritev, os.pwrite
    assert log.failed is not None
    for refused in (lambda: log.append(1, b""), log.sync):
        with pytest.raises(OSError, match="read-only") as caught:
            refused()
        assert caught.value.errno == errno.EROFS


def test_no_room_for_a_new_segment_is_the_reply_to_the_write_that_met_it(
    log: Log, calls: OsCalls, tmp_path: Path
) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "injected")

    calls.preallocate = full
    count = 0
    with pytest.raises(OSError, match="injected"):
        while True:
            log.append(1, b"x" * 1000)
            count += 1
    assert [path.name for path in tmp_path.iterdir()] == ["seg-0001"]
    calls.preallocate = os.posix_fallocate
    log.append(2, b"fits again")
    assert [kind for kind, _, _ in replay(tmp_path)] == [1] * count + [2]


@pytest.mark.parametrize("reaches_file", [False, True])
def test_failed_header_of_a_new_life_costs_nothing(
    log: Log, calls: OsCalls, tmp_path: Path, reaches_file: bool
) -> None:
    def fail(fd: int, block: bytes, offset: int) -> int:
        if reaches_file:
            os.pwrite(fd, block, offset)
        raise OSError(errno.EIO, "injected")

    calls.begin_life = fail
    count = 0
    with pytest.raises(OSError, match="injected"):
        while True:
            log.append(1, b"x" * 1000)
            count += 1
    end = log.end
    # A small one would fit into the old life, but behind the end that the failed header gives it.
    with pytest.raises(OSError, match="injected"):
        log.append(2, b"")
    assert log.end == end
    assert [kind for kind, _, _ in replay(tmp_path)] == [1] * count
    calls.begin_life = os.pwrite
    log.append(3, b"")
    assert [kind for kind, _, _ in replay(tmp_path)] == [1] * count + [3]
    log.append(4, b"x" * 1000)
    assert [kind for kind, _, _ in replay(tmp_path)] == [1] * count + [3, 4]


def test_short_header_of_a_new_life_is_an_error(log: Log, calls: OsCalls) -> None:
    calls.begin_life = lambda fd, block, offset: os.pwrite(fd, block[:512], offset)
    with pytest.raises(OSError, match="short write of a segment header") as caught:
        while True:
            log.append(1, b"x" * 1000)
    assert caught.value.errno == errno.EIO


def test_record_that_fails_in_a_fresh_life_leaves_that_life_usable(
    log: Log, calls: OsCalls, tmp_path: Path
) -> None:
    first = log.current_life
    count = 0

    def fail_in_second_life(fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        if log.current_life != first and not is_seal(buffers):
            raise OSError(errno.ENOSPC, "injected")
        return os.pwritev(fd, buffers, offset)

    calls.append = fail_in_second_life
    with pytest.raises(OSError, match="injected"):
        while True:
            log.append(1, b"x" * 1000, b"x" * (count % 2))
            count += 1
    assert [kind for kind, _, _ in replay(tmp_path)] == [1] * count
    calls.append = os.pwritev
    log.append(2, b"")
    assert [kind for kind, _, _ in replay(tmp_path)] == [1] * count + [2]


def test_failed_seal_costs_nothing(log: Log, calls: OsCalls, tmp_path: Path) -> None:
    first = log.current_life

    def fail_seal(fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        if is_seal(buffers):
            raise OSError(errno.EIO, "injected")
        return os.pwritev(fd, buffers, offset)

    calls.append = fail_seal
    count = 0
    while log.current_life == first:
        log.append(1, b"x" * 1000, b"x" * (count % 2))
        count += 1
    assert len(replay(tmp_path)) == count


def test_record_larger_than_a_segment(log: Log) -> None:
    end = log.end
    with pytest.raises(OSError, match="larger") as caught:
        log.append(1, b"", bytes(SEGMENT))
    assert (caught.value.errno, log.end) == (errno.EFBIG, end)


def test_reads_are_verified_block_by_block(log: Log) -> None:
    payload = os.urandom(50000)
    place = log.append(1, b"body", payload)
    path, _ = log.locate(place.life)
    with path.open("r+b") as file:
        file.seek(place.offset + 20000)
        file.write(bytes([payload[20000] ^ 1]))

    def read(start: int, length: int) -> bytes:
        return log.read_blocks(place.life, place.offset, place.length, place.sums, start, length)

    assert read(10, 16374) == payload[10:16384]
    assert read(32768, 50000 - 32768) == payload[32768:]
    for start, length in ((0, 50000), (16384, 1), (32767, 1), (16383, 2)):
        with pytest.raises(LogDamaged) as caught:
            read(start, length)
        assert (caught.value.life, caught.value.errno) == (place.life, errno.EIO)


def test_unreadable_and_missing_bytes_are_damage(log: Log, calls: OsCalls) -> None:
    place = log.append(1, b"", bytes(100))

    def fail(fd: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "injected")

    for broken in (fail, lambda fd, length, offset: os.pread(fd, length - 1, offset)):
        calls.read = broken
        with pytest.raises(LogDamaged) as caught:
            log.read_blocks(place.life, place.offset, 100, place.sums, 3, 5)
        assert (caught.value.errno, caught.value.offset) == (errno.EIO, place.offset)
        assert caught.value.lsn == place.end_lsn - 100


def test_life_that_was_released_is_said_to_be(log: Log) -> None:
    place = log.append(1, b"", bytes(100))
    while log.current_life == place.life:
        log.append(1, b"", bytes(5000))
    log.sync()
    log.release(log.end)
    for access in (
        lambda: log.read_blocks(place.life, place.offset, 100, place.sums, 0, 100),
        lambda: log.read(place.life, place.offset, 100),
        lambda: log.locate(place.life),
        lambda: log.pin(place.life),
    ):
        with pytest.raises(LifeReleased) as caught:
            access()
        assert (caught.value.life, caught.value.errno) == (place.life, errno.EIO)


def test_closed_log_refuses_and_touches_no_descriptor(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    place = log.append(1, b"", bytes(100))
    log.pin(place.life)
    log.close()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    try:
        for _ in range(8):
            with pytest.raises(OSError, match="closed"):
                log.append(1, b"", bytes(100))
        with pytest.raises(OSError, match="closed"):
            log.sync()
        log.unpin(place.life)
        log.close()
        assert os.fstat(other).st_size == 0
    finally:
        os.close(other)


def test_release_frees_what_nobody_pins_and_files_are_used_again(log: Log, tmp_path: Path) -> None:
    places = [log.append(1, b"", bytes([n]) * 5000) for n in range(60)]
    lives = sorted({place.life for place in places})
    assert log.used_bytes == len(lives) * SEGMENT
    log.pin(lives[0])
    log.sync()
    log.release(log.end)
    assert log.used_bytes == 2 * SEGMENT
    assert log.read_blocks(lives[0], places[0].offset, 5000, places[0].sums, 0, 5000) == bytes(5000)
    log.unpin(lives[0])
    assert log.used_bytes == SEGMENT
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 5, "four spare files are kept, the rest removed"
    for n in range(30):
        log.append(1, b"", bytes([n]) * 5000)
    assert {path.name for path in tmp_path.iterdir()} == names


def test_budget_is_exceeded_by_what_is_not_released(log: Log) -> None:
    assert not log.over_budget
    while log.used_bytes + SEGMENT <= log.budget_bytes:
        log.append(1, b"", bytes(40000))
    assert log.over_budget
    log.sync()
    log.release(log.end)
    assert not log.over_budget


def test_current_life_alone_is_never_over_budget(log: Log) -> None:
    """No release can free it, so whoever waited for room would wait for ever."""
    log.budget_bytes = 1
    life = log.current_life
    while log.current_life == life:
        assert not log.over_budget
        log.append(1, b"", bytes(5000))
    assert log.over_budget
    log.sync()
    log.release(log.end)
    assert not log.over_budget


def test_files_that_cannot_be_removed_do_no_harm(log: Log, calls: OsCalls, tmp_path: Path) -> None:
    def fail(path: str) -> None:
        raise OSError(errno.EACCES, "injected")

    for n in range(60):
        log.append(1, b"", bytes([n]) * 5000)
    calls.unlink = fail
    log.sync()
    names = {path.name for path in tmp_path.iterdir()}
    start = log.end
    log.release(start)
    assert log.used_bytes == SEGMENT
    assert {path.name for path in tmp_path.iterdir()} == names
    # Their names are taken: new files get others.
    for _ in range(60):
        log.append(2, b"", bytes(5000))
    assert {path.name for path in tmp_path.iterdir()} > names
    assert {kind for kind, _, _ in replay(tmp_path, start)} == {2}


def disk_bytes(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def test_a_log_at_rest_keeps_next_to_nothing(log: Log, tmp_path: Path) -> None:
    for _ in range(40):
        log.append(1, b"", bytes(10_000))
    log.rest()
    assert disk_bytes(tmp_path) > 400_000, "nothing was released"
    log.sync()
    log.release(log.end)
    released = log.end
    log.rest()
    log.wait_freed()
    assert disk_bytes(tmp_path) <= 8192
    assert replay(tmp_path, released) == []
    log.rest()
    place = log.append(7, b"after", b"payload")
    assert disk_bytes(tmp_path) >= SEGMENT
    assert log.read_blocks(place.life, place.offset, place.length, place.sums, 0, 7) == b"payload"
    assert [(kind, body) for kind, body, _ in replay(tmp_path, released)] == [(7, b"after")]


def test_a_log_that_rests_wakes_up_only_where_there_is_room(tmp_path: Path, calls: OsCalls) -> None:
    with closing(
        Log.open(
            tmp_path,
            budget_bytes=1 << 20,
            start=Lsn(0),
            on_record=lambda *_: None,
            segment_bytes=SEGMENT,
            reserve_bytes=SEGMENT // 2,
            calls=calls,
        )
    ) as log:
        assert log.keep_reserve()
        log.append(1, b"first")
        log.sync()
        log.release(log.end)
        released = log.end
        log.rest()
        preallocate = calls.preallocate

        def full(fd: int, offset: int, length: int) -> None:
            raise OSError(errno.ENOSPC, "injected")

        calls.preallocate = full
        for _ in range(2):
            with pytest.raises(OSError, match="injected"):
                log.append(1, b"refused")
        log.append(2, b"removal", releasing=True)
        assert not log.has_reserve
        assert [body for _, body, _ in replay(tmp_path, released)] == [b"removal"]
        calls.preallocate = preallocate
        log.append(1, b"again")
        assert log.keep_reserve()
        assert [body for _, body, _ in replay(tmp_path, released)] == [b"removal", b"again"]


def test_files_never_exceed_the_budget(log: Log, tmp_path: Path) -> None:
    highest = 0
    for _ in range(500):
        if log.over_budget:
            log.release(log.end)
            log.wait_freed()
        log.append(1, b"", bytes(9000))
        highest = max(highest, disk_bytes(tmp_path))
    assert log.budget_bytes - SEGMENT <= highest <= log.budget_bytes
