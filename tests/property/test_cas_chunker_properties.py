"""Boundaries depend on content alone: not on how it was fed, written or edited."""

from __future__ import annotations

import random
from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from cas.chunker import MAX, MIN, SMALL_MAX, Cutter, cut


@st.composite
def buffers(draw: st.DrawFn, most: int = 1_500_000) -> bytes:
    """Stretches of noise, of one byte and of a repeated pattern, joined."""
    random_ = random.Random(draw(st.integers(0, 2**32)))
    parts: list[bytes] = []
    left = draw(st.integers(0, most))
    while left > 0:
        length = min(left, random_.choice([1, 100, 5000, 20_000, 70_000, 140_000, 400_000]))
        kind = random_.randrange(3)
        if kind == 0:
            parts.append(random_.randbytes(length))
        elif kind == 1:
            parts.append(bytes([random_.randrange(256)]) * length)
        else:
            pattern = random_.randbytes(random_.randrange(1, 300))
            parts.append((pattern * (length // len(pattern) + 1))[:length])
        left -= length
    return b"".join(parts)


def boundaries(data: bytes) -> list[int]:
    return list(accumulate(cut(data), initial=0))


@settings(max_examples=60, deadline=None)
@given(buffers())
def test_pieces_are_the_whole_within_bounds(data: bytes) -> None:
    lengths = cut(data)
    assert sum(lengths) == len(data)
    if len(data) <= SMALL_MAX:
        assert lengths == ([len(data)] if data else [])
    else:
        assert all(MIN <= length <= MAX for length in lengths[:-1])
        assert 0 < lengths[-1] <= MAX


@settings(max_examples=60, deadline=None)
@given(buffers())
def test_cutting_from_any_boundary_gives_the_same_later_ones(data: bytes) -> None:
    whole = boundaries(data)
    for number, boundary in enumerate(whole):
        assert [boundary + later for later in boundaries(data[boundary:])] == whole[number:]


@settings(max_examples=60, deadline=None)
@given(buffers(), st.integers(0, 2**32), st.sampled_from([1, 700, 5000, 66_000, 1_000_000]))
def test_feeding_in_any_portions_is_cutting_at_once(data: bytes, seed: int, most: int) -> None:
    random_ = random.Random(seed)
    most = max(most, len(data) // 2000)
    cutter = Cutter()
    pieces: list[bytes] = []
    start = 0
    while start < len(data):
        length = random_.randrange(most + 1) or 1
        pieces += cutter.feed(data[start : start + length])
        start += length
    pieces += cutter.finish()
    assert [len(piece) for piece in pieces] == cut(data)
    assert b"".join(pieces) == data


@settings(max_examples=60, deadline=None)
@given(buffers(), st.integers(0, 2**32), st.binary(max_size=3000), st.integers(0, 200_000))
def test_recutting_around_an_edit_gives_what_cutting_it_all_gives(
    data: bytes, seed: int, inserted: bytes, removed: int
) -> None:
    random_ = random.Random(seed)
    old = boundaries(data)
    # Half of the edits begin right at a boundary: the hard case.
    at = random_.choice(old) if random_.random() < 0.5 else random_.randrange(len(data) + 1)
    behind = min(len(data), at + removed)
    edited = data[:at] + inserted + data[behind:]
    shift = len(edited) - len(data)

    start = max((boundary for boundary in old if boundary < at), default=0)
    kept = [boundary for boundary in old if boundary <= start]
    survivors = {boundary + shift for boundary in old if boundary >= behind}
    fresh: list[int] = []
    position = start
    for length in cut(edited[start:]):
        position += length
        fresh.append(position)
        if position in survivors:
            break
    tail = [boundary + shift for boundary in old if boundary + shift > position and boundary >= behind]
    assert kept + fresh + tail == boundaries(edited)
