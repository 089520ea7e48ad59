"""Pack files: appending, rolling, failing, reading back, scanning torn and damaged ones."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cas.codec import LZ4, MAX_FRAME, encode
from cas.digest import ChunkId, chunk_id
from cas.errors import ChunkDamaged, FrameDamaged, PackDamaged, VersionUnknown
from cas.packfile import ENTRY_HEADER_BYTES, PACK_HEADER_BYTES, pack_numbers, pack_path
from cas.packs import PackCalls, PackReader, PackWriter, Place, Stored

SALT = b"saltsalt"


def entry(text: str, repeat: int = 1) -> tuple[ChunkId, bytes]:
    data = text.encode() * repeat
    return chunk_id(data), encode(data)


ENTRIES = [entry(f"chunk {number} ", number + 1) for number in range(20)]


@pytest.fixture
def calls() -> PackCalls:
    return PackCalls()


@pytest.fixture
def writer(tmp_path: Path, calls: PackCalls) -> Iterator[PackWriter]:
    writer = PackWriter(tmp_path, 7, salt=lambda count: SALT[:count], calls=calls)
    yield writer
    writer.close()


@pytest.fixture
def reader(tmp_path: Path) -> PackReader:
    return PackReader(tmp_path, open_max=2)


class FailingWrites:
    """Writes that let `budget` bytes through, then have no space."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.real = os.pwritev

    def pwritev(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        data = b"".join(buffers)[: self.budget]
        if not data:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.budget -= len(data)
        return self.real(fd, [data], offset)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        return self.pwritev(fd, [bytes(data)], offset)

    def install(self, calls: PackCalls, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(calls, "append", self.pwritev)
        patch.setattr(calls, "rest", self.pwrite)


def test_what_was_appended_is_read_at_once(writer: PackWriter, reader: PackReader) -> None:
    places = [writer.append(*ENTRIES[0]), *writer.append_many(ENTRIES[1:])]
    for (id, frame), place in zip(ENTRIES, places, strict=True):
        assert place.length == len(frame)
        assert reader.read_frame(place) == frame
        assert chunk_id(reader.get(id, place)) == id
    assert places[0] == Place(1, PACK_HEADER_BYTES + ENTRY_HEADER_BYTES, len(ENTRIES[0][1]))


def test_more_than_one_write_takes(writer: PackWriter, reader: PackReader) -> None:
    many = [entry(f"{number}") for number in range(1500)]
    places = writer.append_many(many)
    assert [reader.read_frame(place) for place in places] == [frame for _, frame in many]


def test_nothing_appended_makes_no_file(writer: PackWriter, tmp_path: Path) -> None:
    assert writer.append_many([]) == []
    writer.sync()
    assert pack_numbers(tmp_path) == []


def test_writers_take_packs_of_their_own(tmp_path: Path, reader: PackReader) -> None:
    (tmp_path / "pack-00000003").touch()
    (tmp_path / "pack-x").touch()
    writers = [PackWriter(tmp_path, number) for number in range(3)]
    places = [writer.append(*ENTRIES[number]) for number, writer in enumerate(writers)]
    assert [place.pack for place in places] == [4, 5, 6]
    assert reader.packs() == [3, 4, 5, 6]
    for writer in writers:
        writer.close()


def test_a_number_taken_meanwhile_is_passed_over(
    writer: PackWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pack-00000001").touch()
    monkeypatch.setattr("cas.packs.pack_numbers", lambda directory: [])
    assert writer.append(*ENTRIES[0]).pack == 2


def test_full_packs_are_left_for_the_next(tmp_path: Path, reader: PackReader) -> None:
    writer = PackWriter(tmp_path, 0, roll_bytes=300)
    places = [writer.append(*each) for each in ENTRIES]
    writer.sync()
    assert len({place.pack for place in places}) > 3
    # open_max of the reader is 2: descriptors come and go.
    for _ in range(2):
        for (id, _), place in zip(ENTRIES, places, strict=True):
            assert chunk_id(reader.get(id, place)) == id
    writer.close()
    assert [stored.id for pack in reader.packs() for stored in reader.scan(pack)] == [id for id, _ in ENTRIES]


def test_descriptors_are_all_closed(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    writer = PackWriter(tmp_path, 0, roll_bytes=200)
    places = [writer.append(*each) for each in ENTRIES]
    reader = PackReader(tmp_path, open_max=4)
    for place in places:
        reader.read_frame(place)
    writer.close()
    writer.close()
    reader.forget(places[-1].pack)
    reader.forget(999)
    reader.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert reader.read_frame(places[0]) == ENTRIES[0][1]


@pytest.mark.parametrize("budget", [0, 1, 60, 500])
def test_no_space_appends_nothing_and_is_overwritten(
    budget: int, calls: PackCalls, writer: PackWriter, reader: PackReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = writer.append(*ENTRIES[0])
    with monkeypatch.context() as patch:
        FailingWrites(budget).install(calls, patch)
        with pytest.raises(OSError, match="No space") as caught:
            writer.append_many(ENTRIES[1:])
        assert caught.value.errno == errno.ENOSPC
    assert [stored.id for stored in reader.scan(1)] == [ENTRIES[0][0]]
    second = writer.append(*ENTRIES[5])
    assert second.offset == first.offset + first.length + ENTRY_HEADER_BYTES
    assert [stored.place for stored in reader.scan(1)] == [first, second]
    writer.sync()


def test_leftovers_that_cannot_be_cut_off_mean_nothing(
    calls: PackCalls, writer: PackWriter, reader: PackReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.append(*ENTRIES[0])

    def refuse(fd: int, length: int) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        FailingWrites(400).install(calls, patch)
        patch.setattr(calls, "truncate", refuse)
        with pytest.raises(OSError, match="No space"):
            writer.append_many(ENTRIES[1:])
    place = writer.append(*ENTRIES[1])
    assert pack_path(tmp_path, 1).stat().st_size > place.offset + place.length
    assert [stored.id for stored in reader.scan(1)][:2] == [ENTRIES[0][0], ENTRIES[1][0]]


def test_a_short_write_is_completed(
    calls: PackCalls, writer: PackWriter, reader: PackReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.append(*ENTRIES[0])
    real = os.pwritev
    with monkeypatch.context() as patch:
        patch.setattr(calls, "append", lambda fd, buffers, offset: real(fd, [b"".join(buffers)[:77]], offset))
        places = writer.append_many(ENTRIES[1:])
    assert [reader.read_frame(place) for place in places] == [frame for _, frame in ENTRIES[1:]]


def test_no_space_for_a_new_pack_leaves_no_file(
    calls: PackCalls, writer: PackWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        FailingWrites(10).install(calls, patch)
        with pytest.raises(OSError, match="No space"):
            writer.append(*ENTRIES[0])
    assert pack_numbers(tmp_path) == []
    assert writer.append(*ENTRIES[0]).pack == 1


@pytest.mark.parametrize("call", ["sync", "sync_directory"])
def test_after_a_failed_sync_the_writer_refuses(call: str, tmp_path: Path, calls: PackCalls) -> None:
    writer = PackWriter(tmp_path, 0, roll_bytes=100, calls=calls)
    writer.append_many(ENTRIES[:5])
    writer.append_many(ENTRIES[5:7])

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    setattr(calls, call, fail)
    with pytest.raises(OSError, match="Input/output"):
        writer.sync()
    for again in (writer.sync, lambda: writer.append(*ENTRIES[0])):
        with pytest.raises(OSError, match="earlier sync") as caught:
            again()
        assert caught.value.errno == errno.EIO
    before = len(os.listdir("/proc/self/fd"))
    writer.close()
    assert len(os.listdir("/proc/self/fd")) < before


def test_sync_covers_old_packs_and_new_names(tmp_path: Path) -> None:
    synced: list[str] = []

    def note(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)

    writer = PackWriter(tmp_path, 0, roll_bytes=100, calls=PackCalls(sync=note, sync_directory=note))
    for each in ENTRIES[10:13]:
        writer.append(*each)
    writer.sync()
    assert sorted(synced) == sorted(["pack-00000001", "pack-00000002", "pack-00000003", tmp_path.name])
    writer.sync()
    assert len(synced) == 4
    writer.close()


def test_places_that_lie_are_refused(writer: PackWriter, reader: PackReader) -> None:
    id, _ = ENTRIES[3]
    place = writer.append(*ENTRIES[3])
    other = writer.append(*ENTRIES[4])
    for bad in (
        other,
        Place(1, place.offset, place.length + 10_000),
        Place(1, place.offset + 1, place.length),
        Place(1, place.offset, 2),
        Place(1, 1 << 40, place.length),
        Place(9, place.offset, place.length),
        Place(1, place.offset, MAX_FRAME + 1),
    ):
        with pytest.raises(ChunkDamaged) as caught:
            reader.get(id, bad)
        assert caught.value.id == id
    with pytest.raises(FrameDamaged, match="does not exist"):
        reader.read_frame(Place(9, 0, 1))


def test_readers_in_threads_with_few_descriptors(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path, 0, roll_bytes=150)
    places = [writer.append(*each) for each in ENTRIES]
    writer.close()
    reader = PackReader(tmp_path, open_max=1)
    wrong: list[object] = []

    def work(first: int) -> None:
        for turn in range(400):
            number = (first + turn * 7) % len(ENTRIES)
            try:
                reader.get(ENTRIES[number][0], places[number])
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def expected(places: list[Place]) -> list[Stored]:
    return [
        Stored(id, place, len(f"chunk {number} ") * (number + 1))
        for number, ((id, _), place) in enumerate(zip(ENTRIES, places, strict=True))
    ]


@pytest.mark.parametrize("verified", [True, False])
def test_scan_finds_every_entry(verified: bool, writer: PackWriter, reader: PackReader) -> None:
    places = writer.append_many(ENTRIES)
    assert list(reader.scan(1, verified=verified)) == expected(places)


def test_scan_stops_at_every_torn_tail(writer: PackWriter, reader: PackReader, tmp_path: Path) -> None:
    places = writer.append_many(ENTRIES[:4])
    path = pack_path(tmp_path, 1)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found = list(reader.scan(1))
        assert [stored.place for stored in found] == [
            place for place in places if place.offset + place.length <= length
        ]
    # What a file system may leave behind a torn tail: zeros, or another file's bytes.
    path.write_bytes(whole[:-5] + bytes(4096))
    assert len(list(reader.scan(1))) == 3
    path.write_bytes(whole + b"\xff" * 100)
    assert len(list(reader.scan(1))) == 4


def test_scan_passes_over_damaged_content(writer: PackWriter, reader: PackReader, tmp_path: Path) -> None:
    long = b"all work and no play " * 100
    entries = [(chunk_id(long), encode(long, codec=LZ4)), *ENTRIES[:2]]
    places = writer.append_many(entries)
    path = pack_path(tmp_path, 1)
    whole = bytearray(path.read_bytes())
    whole[places[0].offset + 8] ^= 0xFF
    whole[places[1].offset + 3] ^= 0xFF
    path.write_bytes(whole)
    assert [stored.id for stored in reader.scan(1)] == [ENTRIES[1][0]]


def test_scan_takes_no_entry_of_another_pack(writer: PackWriter, reader: PackReader, tmp_path: Path) -> None:
    writer.append_many(ENTRIES[:2])
    other = PackWriter(tmp_path, 1, salt=lambda count: b"n" * count)
    other.append_many(ENTRIES[2:4])
    other.close()
    whole = pack_path(tmp_path, 1).read_bytes()
    foreign = pack_path(tmp_path, 2).read_bytes()[PACK_HEADER_BYTES:]
    pack_path(tmp_path, 1).write_bytes(whole + foreign)
    assert [stored.id for stored in reader.scan(1)] == [id for id, _ in ENTRIES[:2]]


def test_scan_refuses_what_is_no_pack(writer: PackWriter, reader: PackReader, tmp_path: Path) -> None:
    writer.append(*ENTRIES[0])
    path = pack_path(tmp_path, 1)
    whole = path.read_bytes()
    path.write_bytes(b"NOTAPACK" + whole[8:])
    with pytest.raises(PackDamaged, match="not a pack"):
        list(reader.scan(1))
    later = whole[:8] + b"\1\0\0\0" + whole[12:28]
    path.write_bytes(later + whole[28:])
    with pytest.raises(PackDamaged, match="checksum"):
        list(reader.scan(1))
    path.write_bytes(later + zlib.crc32(later).to_bytes(4, "little") + whole[32:])
    with pytest.raises(VersionUnknown) as caught:
        list(reader.scan(1))
    assert (caught.value.path, caught.value.version) == (path, 1)
    path.write_bytes(whole[:20] + b"\xee" + whole[21:])
    with pytest.raises(PackDamaged, match="checksum"):
        list(reader.scan(1))
    with pytest.raises(FileNotFoundError):
        list(reader.scan(2))
