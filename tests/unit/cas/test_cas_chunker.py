"""Boundaries that are part of the stored form, and what edits cost."""

from __future__ import annotations

import random

from blake3 import blake3

from cas.chunker import AVG, MAX, MIN, SMALL_MAX, Cutter, cut
from cas.digest import chunk_id

KNOWN_NOISE = [66950, 66578, 50984, 86654, 78022, 75079, 44564, 89888, 41281]
KNOWN_ZEROS = [131072, 131072, 131072, 131072, 75712]
KNOWN_TEXT = [72348, 76419, 86216, 92873, 59635, 68899, 57874]


def noise(length: int, seed: int = 1) -> bytes:
    """Bytes that any implementation of BLAKE3 makes again: its output stream, keyed by nothing."""
    return blake3(b"noise %d" % seed).digest(length=length)


def pieces(data: bytes) -> list[bytes]:
    made = []
    start = 0
    for length in cut(data):
        made.append(data[start : start + length])
        start += length
    return made


def test_small_buffers_stay_whole() -> None:
    assert cut(b"") == []
    assert cut(b"x") == [1]
    assert cut(noise(SMALL_MAX)) == [SMALL_MAX]
    assert cut(bytearray(10)) == cut(memoryview(bytes(10))) == [10]


def test_known_boundaries_hold() -> None:
    # If this fails, every tree with a large file gets another root: a new version of the format.
    assert cut(noise(600_000)) == KNOWN_NOISE
    assert cut(bytes(600_000)) == KNOWN_ZEROS
    text = b"".join(b"%d squared is %d\n" % (i, i * i) for i in range(20_000))
    assert cut(text) == KNOWN_TEXT


def test_bounds_and_mean() -> None:
    lengths = cut(noise(16 << 20))
    assert sum(lengths) == 16 << 20
    assert all(MIN <= length <= MAX for length in lengths[:-1])
    assert 0 < lengths[-1] <= MAX
    assert AVG * 0.9 < sum(lengths) / len(lengths) < AVG * 1.4
    assert sum(length == MAX for length in lengths) < len(lengths) / 10


def test_an_edit_in_64_mib_adds_little() -> None:
    data = noise(64 << 20)
    before = {chunk_id(piece) for piece in pieces(data)}
    middle = len(data) // 2
    edits = {
        "one byte changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "one byte inserted": data[:middle] + b"!" + data[middle:],
        "one byte removed": data[:middle] + data[middle + 1 :],
        "a line at the head": b"# a new first line\n" + data,
        "appended": data + b"the end\n",
    }
    for what, edited in edits.items():
        added = sum(len(piece) for piece in pieces(edited) if chunk_id(piece) not in before)
        assert 0 < added < 256 << 10, what


def test_a_byte_at_a_boundary_can_move_that_boundary() -> None:
    # Why callers cut again from the last boundary strictly before the change.
    data = noise(4 << 20)
    boundaries = [0]
    for length in cut(data):
        boundaries.append(boundaries[-1] + length)
    moved = 0
    for boundary in boundaries[1:-1]:
        changed = data[:boundary] + bytes([data[boundary] ^ 0x55]) + data[boundary + 1 :]
        total, now = 0, {0}
        for length in cut(changed):
            total += length
            now.add(total)
        previous = boundaries[boundaries.index(boundary) - 1]
        assert previous in now
        moved += boundary not in now
    assert moved > 0


def test_a_cutter_holds_little() -> None:
    cutter = Cutter()
    random_ = random.Random(5)
    fed = out = 0
    for _ in range(300):
        size = random_.randrange(100_000)
        fed += size
        out += sum(map(len, cutter.feed(random_.randbytes(size))))
        assert fed - out < 4 * MAX + 100_000
    out += sum(map(len, cutter.finish()))
    assert out == fed


def test_a_cutter_that_got_nothing() -> None:
    assert Cutter().finish() == []
    cutter = Cutter()
    assert cutter.feed(b"") == []
    assert cutter.feed(b"ab") == []
    assert cutter.finish() == [b"ab"]
