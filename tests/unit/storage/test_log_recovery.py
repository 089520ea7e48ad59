"""Opening a log: what counts, where it ends, and what is damage."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from zlib import crc32

import pytest

from heliosfs.core.ids import Lsn
from heliosfs.storage.errors import LogDamaged, StoreNewer
from heliosfs.storage.log import Log, Place
from heliosfs.storage.log.frame import (
    COPY_OFFSETS,
    HEADER_BYTES,
    RECORD_BYTES,
    LifeHeader,
    decode_header,
    encode_header,
)
from heliosfs.storage.log.oscalls import OsCalls

SEGMENT = 32 * 1024
Seen = list[tuple[int, bytes, Place]]


def open_log(directory: Path, seen: Seen | None = None, start: int = 0, calls: OsCalls | None = None) -> Log:
    replayed: Seen = [] if seen is None else seen
    return Log.open(
        directory,
        budget_bytes=1 << 20,
        start=Lsn(start),
        on_record=lambda lsn, end, kind, body, place: replayed.append((kind, bytes(body), place)),
        segment_bytes=SEGMENT,
        calls=calls,
    )


def kinds(directory: Path, start: int = 0) -> list[int]:
    """What a recovery replays; the log it opens is closed without having been used."""
    seen: Seen = []
    open_log(directory, seen, start).close()
    return [kind for kind, _, _ in seen]


def flip(log: Log, life: int, offset: int) -> None:
    with log.locate(life)[0].open("r+b") as file:
        file.seek(offset)
        old = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([old ^ 0x40]))


def head_of(place: Place) -> int:
    """File offset of the record that a place with an empty body belongs to."""
    return place.offset - RECORD_BYTES - len(place.sums)


def test_only_what_ends_above_the_start_is_replayed(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    places = [log.append(n, b"", bytes(3000)) for n in range(30)]
    log.close()
    for n in range(30):
        assert kinds(tmp_path, places[n].end_lsn) == list(range(n + 1, 30))


def test_torn_payload_is_absent(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(1, b"", bytes(100))
    torn = log.append(2, b"", bytes(20000))
    flip(log, torn.life, torn.offset + 19000)
    seen: Seen = []
    reopened = open_log(tmp_path, seen)
    assert [kind for kind, _, _ in seen] == [1]
    assert reopened.recovery.torn_bytes == torn.end_lsn - torn.lsn
    reopened.close()


def test_recovery_goes_on_in_a_fresh_life_and_never_reads_the_torn_tail_again(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(1, b"")
    torn = log.append(2, b"", bytes(100))
    flip(log, torn.life, torn.offset)
    again = open_log(tmp_path)
    assert again.current_life > log.current_life
    again.append(3, b"")
    flip(log, torn.life, torn.offset)  # As if the missing bytes had turned up after all.
    again.close()
    assert kinds(tmp_path) == [1, 3]


@pytest.mark.parametrize("field", [0, 4, 8, 16, 24, 32])
def test_bad_record_is_damage_when_a_later_record_of_its_life_claims_it(tmp_path: Path, field: int) -> None:
    log = open_log(tmp_path)
    log.append(1, b"")
    bad = log.append(2, b"")
    log.sync()
    log.append(3, b"")
    flip(log, bad.life, head_of(bad) + field)
    with pytest.raises(LogDamaged) as caught:
        open_log(tmp_path)
    assert (caught.value.life, caught.value.offset, caught.value.lsn) == (bad.life, head_of(bad), bad.lsn)
    assert caught.value.errno == errno.EIO


def test_bad_record_is_damage_when_only_a_record_of_a_later_life_claims_it(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    bad = log.append(1, b"")
    while log.current_life == bad.life:
        log.append(2, b"", bytes(3000))
    log.sync()
    log.append(3, b"")
    flip(log, bad.life, head_of(bad) + 20)
    with pytest.raises(LogDamaged):
        open_log(tmp_path)


def test_bad_last_record_is_damage_after_a_clean_close(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    last = log.append(1, b"", bytes(10))
    path = log.locate(last.life)[0]
    log.close()
    with path.open("r+b") as file:
        file.seek(head_of(last) + 20)
        file.write(b"\xff")
    with pytest.raises(LogDamaged):
        open_log(tmp_path)


def test_bad_last_record_is_damage_when_the_commit_interval_synced_it_before_the_close(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    last = log.append(1, b"", bytes(10))
    path = log.locate(last.life)[0]
    log.sync()
    log.close()
    with path.open("r+b") as file:
        file.seek(head_of(last) + 20)
        file.write(b"\xff")
    with pytest.raises(LogDamaged):
        open_log(tmp_path)


def test_damaged_durable_payload_before_a_torn_tail_counts_the_tail_alone(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    bad = log.append(1, b"", bytes(20000))
    log.sync()
    log.append(2, b"")
    torn = log.append(3, b"", bytes(3000))
    flip(log, bad.life, bad.offset + 3)
    flip(log, torn.life, torn.offset)
    seen: Seen = []
    again = open_log(tmp_path, seen)
    assert [kind for kind, _, _ in seen] == [1, 2]
    assert again.recovery.torn_bytes == torn.end_lsn - torn.lsn
    again.close()


def no_more(code: int) -> OsCalls:
    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(code, "injected")

    return OsCalls(preallocate=refuse)


def test_a_life_that_cannot_begin_fails_the_opening_and_changes_nothing(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(1, b"")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="injected"):
        open_log(tmp_path, calls=no_more(errno.EIO))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert kinds(tmp_path) == [1]


def test_without_room_for_a_fresh_life_it_opens_for_reading(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(1, b"")
    bad = log.append(2, b"", bytes(3000))
    log.append(3, b"")
    flip(log, bad.life, head_of(bad))
    # Killed, and torn there: nothing claims that the disk had it.
    log._close_files()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = no_more(errno.ENOSPC)
    for _ in range(2):
        seen: Seen = []
        full = open_log(tmp_path, seen, calls=calls)
        assert [kind for kind, _, _ in seen] == [1]
        with pytest.raises(OSError, match="injected"):
            full.append(4, b"", releasing=True)
        full.rest()
        full.sync()
        assert full.durable_lsn == full.end
        full.close()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    full = open_log(tmp_path, calls=calls)
    calls.preallocate = os.posix_fallocate
    place = full.append(5, b"there is room")
    assert (place.life, full.epoch) == (2, 2)
    full.close()
    assert kinds(tmp_path) == [1, 5]


def test_recovery_killed_at_any_of_its_writes_finds_the_same_again(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for n in range(40):
        log.append(n, b"", bytes(3000))
    wanted = list(range(40))
    for reaches_file in (False, True):

        def die(fd: int, block: bytes, offset: int, reaches_file: bool = reaches_file) -> int:
            if reaches_file:
                os.pwrite(fd, block, offset)
            raise KeyboardInterrupt

        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                open_log(tmp_path, calls=OsCalls(begin_life=die))
    assert kinds(tmp_path) == wanted
    assert kinds(tmp_path) == wanted


def test_segments_of_another_size_are_read_and_then_removed(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(1, b"", bytes(3000))
    log.close()
    seen: list[int] = []
    again = Log.open(
        tmp_path,
        budget_bytes=1 << 20,
        start=Lsn(0),
        on_record=lambda lsn, end, kind, body, place: seen.append(kind),
        segment_bytes=2 * SEGMENT,
    )
    assert seen == [1]
    assert again.used_bytes == 3 * SEGMENT
    again.append(2, b"", bytes(SEGMENT))
    again.sync()
    again.release(again.end)
    assert again.used_bytes == 2 * SEGMENT
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [2 * SEGMENT]
    again.close()


def test_segment_cut_short_is_damage_below_the_durable_position_only(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    places = [log.append(n, b"", bytes(1000)) for n in range(10)]
    path = log.locate(places[0].life)[0]
    os.truncate(path, places[5].offset)
    assert kinds(tmp_path) == [0, 1, 2, 3, 4]
    log = open_log(tmp_path)
    log.sync()
    place = log.append(5, b"")
    assert log.durable_lsn == place.lsn
    os.truncate(path, places[3].offset)
    with pytest.raises(LogDamaged):
        open_log(tmp_path)


def test_damage_to_a_durable_payload_costs_its_own_range_alone(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    bad = log.append(1, b"", bytes(20000))
    log.sync()
    log.append(2, b"")
    flip(log, bad.life, bad.offset + 3)
    seen: Seen = []
    again = open_log(tmp_path, seen)
    assert [kind for kind, _, _ in seen] == [1, 2]
    assert again.read_blocks(bad.life, bad.offset, 20000, bad.sums, 16384, 3616) == bytes(3616)
    with pytest.raises(LogDamaged):
        again.read_blocks(bad.life, bad.offset, 20000, bad.sums, 0, 1)
    again.close()


def test_hole_in_an_unsynced_life_drops_later_lives_for_good(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    hole = log.append(1, b"", bytes(3000))
    while log.current_life == hole.life:
        log.append(2, b"", bytes(3000))
    flip(log, hole.life, head_of(hole) + 5)
    assert kinds(tmp_path) == []
    again = open_log(tmp_path)
    again.append(9, b"")
    again.close()
    assert kinds(tmp_path) == [9]


def test_missing_durable_segment_is_damage(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    first = log.append(1, b"", bytes(3000))
    while log.current_life == first.life:
        log.append(1, b"", bytes(3000))
    log.sync()
    log.append(2, b"")
    log.locate(first.life)[0].unlink()
    with pytest.raises(LogDamaged):
        open_log(tmp_path)


def test_life_whose_header_never_reached_the_disk_ends_the_log_if_it_was_not_durable(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(1, b"")
    log.sync()
    lives = [log.current_life]
    while len(lives) < 3:
        place = log.append(2, b"", bytes(3000))
        if place.life != lives[-1]:
            lives.append(place.life)
    path = log.locate(lives[1])[0]
    with path.open("r+b") as file:
        file.write(bytes(HEADER_BYTES))
    left = kinds(tmp_path)
    assert left[0] == 1
    assert left == [1] + [2] * 9


def test_two_segments_with_one_life_are_damage(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(1, b"")
    path = log.locate(log.current_life)[0]
    (tmp_path / "seg-0007").write_bytes(path.read_bytes())
    with pytest.raises(LogDamaged, match="same life"):
        open_log(tmp_path)


def test_later_version_is_refused_and_nothing_changed(tmp_path: Path) -> None:
    store = tmp_path / "log"
    store.mkdir()
    open_log(store).close()
    path = store / "seg-0001"
    block = bytearray(path.read_bytes()[:HEADER_BYTES])
    for at in COPY_OFFSETS:
        block[at + 8] = 1
        block[at + 80 : at + 84] = crc32(block[at : at + 80]).to_bytes(4, "little")
    with path.open("r+b") as file:
        file.write(block)
    before = path.read_bytes()
    with pytest.raises(StoreNewer) as caught:
        open_log(store)
    assert (caught.value.version, caught.value.path) == (1, tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("at", COPY_OFFSETS)
def test_header_survives_one_damaged_copy(at: int) -> None:
    header = LifeHeader(3, 4096, 65536, 100, 2, 90, bytes(range(16)))
    block = bytearray(encode_header(header))
    assert decode_header(bytes(block)) == header
    block[at + 30] ^= 1
    assert decode_header(bytes(block)) == header


def test_header_half_rewritten_means_the_later_life() -> None:
    old = LifeHeader(3, 4096, 65536, 100, 2, 90, bytes(range(16)))
    new = LifeHeader(9, 8192, 65536, 200, 8, 190, bytes(16))
    torn = encode_header(new)[:512] + encode_header(old)[512:]
    assert decode_header(torn) == new


def test_recycled_segment_replays_nothing_of_its_former_life(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for _ in range(40):
        log.append(1, b"stale", bytes(2000))
    log.sync()
    start = log.end
    log.release(start)
    spares = {path.name for path in tmp_path.iterdir()}
    while log.end < start + 3 * SEGMENT:
        log.append(2, b"fresh")
    assert {path.name for path in tmp_path.iterdir()} == spares
    assert set(kinds(tmp_path, start)) == {2}


def test_idle_opens_hold_no_more_files(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(1, b"")
    log.close()
    for _ in range(10):
        assert kinds(tmp_path) == [1]
    assert len(list(tmp_path.iterdir())) == 2


def test_recovery_that_fails_leaves_no_descriptor_open(tmp_path: Path) -> None:
    open_log(tmp_path).close()

    def fail(fd: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "injected")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="injected"):
        open_log(tmp_path, calls=OsCalls(read=fail))
    assert len(os.listdir("/proc/self/fd")) == before


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "seg-1").write_bytes(b"not ours")
    (tmp_path / "seg-0001.bak").write_bytes(b"not ours")
    log = open_log(tmp_path)
    log.append(1, b"")
    log.close()
    assert kinds(tmp_path) == [1]
    assert (tmp_path / "seg-1").read_bytes() == b"not ours"
