"""Every byte of a pack is told for what it is, and one flipped byte hides nothing that lies behind it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cas.codec import encode
from cas.digest import ChunkId, chunk_id
from cas.packfile import ENTRY_HEADER_BYTES, PACK_HEADER_BYTES, Place, pack_path
from cas.packs import PackWriter
from cas.scrub import Broken, Entry, read_whole, scrub_pack

_NOISE = random.Random(7)
CONTENTS = [_NOISE.randbytes(200 + 50 * number) for number in range(12)]
IDS = [chunk_id(data) for data in CONTENTS]


@pytest.fixture
def places(tmp_path: Path) -> list[Place]:
    writer = PackWriter(tmp_path, 1)
    found = writer.append_many([(id, encode(data)) for id, data in zip(IDS, CONTENTS, strict=True)])
    writer.close()
    return found


def scrubbed(directory: Path) -> tuple[list[Entry], list[Broken]]:
    read = 0

    def pace(count: int) -> None:
        nonlocal read
        read += count

    found = list(scrub_pack(directory, 1, pace))
    assert read > 0
    return [each for each in found if isinstance(each, Entry)], [each for each in found if isinstance(each, Broken)]


def flip(directory: Path, at: int) -> None:
    path = pack_path(directory, 1)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def good(entries: list[Entry]) -> list[tuple[ChunkId, Place]]:
    return [(each.id, each.place) for each in entries if not each.problem]


def test_a_whole_pack_is_whole(tmp_path: Path, places: list[Place]) -> None:
    entries, broken = scrubbed(tmp_path)
    assert good(entries) == list(zip(IDS, places, strict=True)) and broken == []
    assert [each.raw_length for each in entries] == list(map(len, CONTENTS))


def test_a_flipped_byte_of_content_damages_one_entry(tmp_path: Path, places: list[Place]) -> None:
    flip(tmp_path, places[4].offset + 100)
    entries, broken = scrubbed(tmp_path)
    assert broken == [] and [each.id for each in entries if each.problem] == [IDS[4]]
    assert (
        read_whole(tmp_path, IDS[4], places[4]) is None and read_whole(tmp_path, IDS[5], places[5]) == CONTENTS[5]
    )


def test_a_flipped_byte_of_an_entrys_header_hides_that_entry_alone(tmp_path: Path, places: list[Place]) -> None:
    for offset in (0, 7, 37, 41):
        at = places[4].offset - ENTRY_HEADER_BYTES + offset
        flip(tmp_path, at)
        entries, broken = scrubbed(tmp_path)
        assert [each.id for each in entries] == IDS[:4] + IDS[5:]
        (lost,) = broken
        assert lost.offset == places[4].offset - ENTRY_HEADER_BYTES and not lost.last
        assert lost.end == places[5].offset - ENTRY_HEADER_BYTES
        assert read_whole(tmp_path, IDS[4], places[4]) == CONTENTS[4]
        flip(tmp_path, at)


def test_without_the_packs_header_the_contents_prove_the_entries(tmp_path: Path, places: list[Place]) -> None:
    flip(tmp_path, 22)
    entries, broken = scrubbed(tmp_path)
    assert good(entries) == list(zip(IDS, places, strict=True))
    assert [(each.offset, each.end) for each in broken] == [(0, PACK_HEADER_BYTES)]


def test_a_torn_tail_is_the_last_thing_found(tmp_path: Path, places: list[Place]) -> None:
    path = pack_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[: places[-1].offset + 10])
    entries, broken = scrubbed(tmp_path)
    assert good(entries) == list(zip(IDS[:-1], places[:-1], strict=True))
    (tail,) = broken
    assert tail.last and tail.offset == places[-1].offset - ENTRY_HEADER_BYTES and tail.end == path.stat().st_size
