"""Frames: everything comes back, and no bytes make the decoder do worse than refuse."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cas.codec import AUTO, FRAME_OVERHEAD, LZ4, MAX_CHUNK, RAW, ZSTD, decode, encode, raw_length
from cas.errors import FrameDamaged

CODECS = st.sampled_from([AUTO, RAW, LZ4, ZSTD])
DATA = st.one_of(
    st.binary(max_size=3000),
    st.builds(lambda pattern, times: pattern * times, st.binary(max_size=40), st.integers(0, 3000)),
)


@settings(max_examples=300, deadline=None)
@given(DATA, CODECS)
def test_round_trip(data: bytes, codec: int) -> None:
    frame = encode(data, codec=codec)
    assert decode(frame) == data
    assert raw_length(frame[:FRAME_OVERHEAD]) == len(data)
    assert frame[0] == RAW or (len(frame) - FRAME_OVERHEAD) * 20 < len(data) * 19


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_garbage_is_refused_or_decodes_to_what_it_claims(body: bytes, codec: int, length: int) -> None:
    for claimed in (length, length % 5000):
        frame = bytes([codec]) + claimed.to_bytes(4, "little") + body
        try:
            data = decode(frame)
        except FrameDamaged:
            continue
        assert len(data) == claimed <= MAX_CHUNK


@settings(max_examples=300, deadline=None)
@given(DATA, st.sampled_from([LZ4, ZSTD]), st.data())
def test_mutations_are_refused_or_keep_the_length(data: bytes, codec: int, draw: st.DataObject) -> None:
    frame = bytearray(encode(data, codec=codec))
    for _ in range(draw.draw(st.integers(1, 4))):
        frame[draw.draw(st.integers(0, len(frame) - 1))] = draw.draw(st.integers(0, 255))
    try:
        result = decode(bytes(frame))
    except FrameDamaged:
        return
    assert len(result) == int.from_bytes(frame[1:5], "little")
