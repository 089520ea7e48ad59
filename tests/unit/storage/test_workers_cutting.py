"""Cutting again around an edit gives exactly what cutting everything anew gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cas.chunker import SMALL_MAX, cut
from cas.codec import encode
from cas.digest import ChunkId, chunk_id
from cas.packs import PackReader, PackWriter, Place
from heliosfs.storage.workers import ChunkSource, CutRun, LogSource
from heliosfs.storage.workers.cutting import cut_run
from heliosfs.storage.workers.jobs import CutResult
from heliosfs.storage.workers.requests import cut_request
from heliosfs.storage.workers.sources import ChunkRange, LogRange, Run, SourceReader, Unreadable, read_cut
from tests.support.worker_store import log_source

BASE = random.Random(7).randbytes(3_000_000)


def pieces_of(data: bytes) -> list[tuple[ChunkId, int]]:
    found = []
    at = 0
    for length in cut(data):
        found.append((chunk_id(data[at : at + length]), length))
        at += length
    return found


def cut_here(parts: list[bytes], resync: set[int]) -> CutResult:
    """Cut the joined parts with cut_run, each part standing for one source."""
    sources = [ChunkRange(chunk_id(part), Place(0, at, 0), 0, len(part)) for at, part in enumerate(parts)]

    def read(source: LogRange | ChunkRange) -> bytes:
        assert isinstance(source, ChunkRange)
        return parts[source.place.offset]

    return cut_run(Run(list(sources), frozenset(resync), sum(map(len, parts))), read, chunk_id)


def boundaries(pieces: list[tuple[ChunkId, int]]) -> list[int]:
    ends = [0]
    for _, length in pieces:
        ends.append(ends[-1] + length)
    return ends


def recut(old: bytes, new: bytes, begin: int, old_end: int, new_end: int, step: int) -> list[tuple[ChunkId, int]]:
    """Pieces of `new`, which is `old` with [begin, old_end) replaced by [begin, new_end), cutting only
    where it is needed: from the last boundary before the edit to the first old one behind it."""
    before = pieces_of(old)
    ends = boundaries(before)
    # The byte after a boundary decides it, too, and the last piece may have ended for want of bytes.
    kept = max([at for at, end in enumerate(ends) if end < begin and at < len(before)], default=0)
    start = ends[kept]
    shift = new_end - old_end
    # The final piece's boundary depends on where the run ends: with a changed length it may not be met
    # unless the old pieces behind it end where they would now, which holds for all but the very end.
    resync = {end + shift - start for end in ends[:-1] if end > old_end and end + shift > start}
    parts = [new[at : at + step] for at in range(start, len(new), step)]
    result = cut_here(parts, resync)
    assert result.consumed == sum(length for _, length in result.pieces)
    pieces = before[:kept] + list(result.pieces)
    stop = start + result.consumed
    if stop < len(new):
        assert result.consumed in resync
        pieces += before[ends.index(stop - shift) :]
    return pieces


edits = st.tuples(
    st.integers(0, 1_500_000),
    st.integers(0, 1_400_000),
    st.integers(0, 200_000),
    st.integers(0, 200_000),
    st.sampled_from([4096, 65536, 200_001, 1 << 20]),
    st.integers(0, 2**32),
)


@settings(max_examples=150, deadline=None)
@given(edits)
@example((1_000_000, 500_000, 1, 1, 4096, 1))
@example((1_000_000, 500_000, 0, 1, 4096, 1))
@example((1_000_000, 1_000_000, 0, 100_000, 65536, 1))
@example((1_000_000, 0, 0, 1, 65536, 1))
@example((300_000, 65_536, 200_000, 0, 65536, 1))
@example((SMALL_MAX, 0, 0, 1, 4096, 1))
def test_recutting_equals_cutting_anew(edit: tuple[int, int, int, int, int, int]) -> None:
    size, at, removed, inserted, step, seed = edit
    old = BASE[:size]
    begin = min(at, size)
    old_end = min(begin + removed, size)
    fresh = random.Random(seed).randbytes(inserted)
    new = old[:begin] + fresh + old[old_end:]
    assert recut(old, new, begin, old_end, begin + inserted, step) == pieces_of(new)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 700_000), st.integers(1, 300_000))
def test_the_split_into_sources_does_not_matter(size: int, step: int) -> None:
    data = BASE[:size]
    result = cut_here([data[at : at + step] for at in range(0, size, step)], set())
    assert list(result.pieces) == pieces_of(data)
    assert result.consumed == size


def test_an_edit_in_a_large_run_ends_soon() -> None:
    old = BASE
    new = old[:1_000_000] + b"!" + old[1_000_001:]
    ends = boundaries(pieces_of(old))
    start = max(end for end in ends if end < 1_000_000)
    result = cut_here([new[start:]], {end - start for end in ends if end > 1_000_001})
    assert len(result.pieces) <= 4


# --- sources, through the request's bytes ------------------------------------------------------------


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    directory = tmp_path / "packs"
    directory.mkdir()
    return directory


def through_the_wire(runs: list[CutRun]) -> list[Run]:
    return list(read_cut(b"".join(cut_request(runs))))


def test_ranges_of_log_and_chunks_are_read(tmp_path: Path, packs: Path) -> None:
    payload, chunk = BASE[:100_000], BASE[200_000:260_000]
    writer = PackWriter(packs, 1)
    place = writer.append(chunk_id(chunk), encode(chunk))
    segment = tmp_path / "seg-0001"
    one = log_source(segment, payload, 0, len(payload))
    ranges = [(0, 100_000), (0, 1), (99_999, 1), (16_384, 16_384), (16_383, 2), (5, 70_000)]
    sources: list[LogSource | ChunkSource] = [one._replace(start=s, length=n) for s, n in ranges]
    sources += [ChunkSource(*place, chunk_id(chunk), 0, 60_000), ChunkSource(*place, chunk_id(chunk), 10, 20)]
    other = log_source(tmp_path / "seg-0002", b"second", 0, 6)._replace(salt=one.salt)
    (run, second) = through_the_wire([CutRun(tuple(sources), (7, 9)), CutRun((one, other), ())])
    reader = SourceReader(PackReader(packs))
    expected = [payload[s : s + n] for s, n in ranges] + [chunk, chunk[10:30]]
    assert [reader.read(source) for source in run.sources] == expected
    assert run.resync == {7, 9}
    assert run.length == sum(map(len, expected))
    assert second.length == 100_006
    reader.forget()
    writer.close()


def test_many_sources_cross_in_parts(tmp_path: Path) -> None:
    source = log_source(tmp_path / "seg", b"x" * 50, 0, 50)
    parts = list(cut_request([CutRun((source,) * 1000, ())]))
    assert len(parts) > 3
    (run,) = read_cut(b"".join(parts))
    assert len(run.sources) == 1000


def test_damage_is_named_and_confined(tmp_path: Path, packs: Path) -> None:
    segment = tmp_path / "seg"
    source = log_source(segment, BASE[:65536], 0, 65536)
    with segment.open("r+b") as file:
        file.seek(source.payload_offset + 20_000)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    chunk = b"c" * 5000
    writer = PackWriter(packs, 1)
    place = writer.append(chunk_id(chunk), encode(chunk))
    writer.close()
    wrong = chunk_id(b"another")
    runs = [
        CutRun((source._replace(start=0, length=16384),)),
        CutRun((source._replace(start=16384, length=1),)),
        CutRun((source._replace(start=32768, length=32768),)),
        CutRun((source._replace(salt=b"of another life!"),)),
        CutRun((source._replace(path=tmp_path / "absent", salt=b"absent absent ab"),)),
        CutRun((source._replace(payload_length=1 << 20, sums=source.sums * 16, salt=b"x" * 16),)),
        CutRun((ChunkSource(*place, wrong, 0, 5000),)),
        CutRun((ChunkSource(*place, chunk_id(chunk), 0, 5001),)),
        CutRun((ChunkSource(99, 0, 10, wrong, 0, 1),)),
    ]
    reader = SourceReader(PackReader(packs))
    told = []
    for run in through_the_wire(runs):
        try:
            reader.read(run.sources[0])
            told.append("")
        except Unreadable as error:
            told.append(error.reason)
    assert told[0] == told[2] == ""
    assert "damaged block at 16384" in told[1]
    assert "damaged block at 0" in told[3]
    assert "absent" in told[4]
    assert wrong.hex() in told[6] and wrong.hex() in told[8]
    assert "5001" in told[7]
    assert all(told[at] for at in (1, 3, 4, 5, 6, 7, 8))
    reader.forget()
