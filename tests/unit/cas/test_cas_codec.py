"""Frames: what is compressed, what stays raw, and what hostile frames can't do."""

from __future__ import annotations

import random
import threading
import tracemalloc

import lz4.block
import pytest
import zstandard

from cas import codec
from cas.codec import AUTO, LZ4, MAX_CHUNK, RAW, ZSTD, decode, encode, raw_length
from cas.errors import FrameDamaged

TEXT = b"".join(b"line %d: the quick brown fox jumps over lazy dog %d\n" % (i, i * i) for i in range(4000))
NOISE = random.Random(3).randbytes(200_000)
SIZES = [0, 1, 63, 64, 1024, 1025, 4095, 4096, 32768, 32769, 65536, 131072]


def frame(codec_: int, length: int, body: bytes) -> bytes:
    return bytes([codec_]) + length.to_bytes(4, "little") + body


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("codec_", [AUTO, RAW, LZ4, ZSTD])
@pytest.mark.parametrize("source", [TEXT, NOISE], ids=["text", "noise"])
def test_decode_gives_back_what_was_encoded(size: int, codec_: int, source: bytes) -> None:
    data = source[:size]
    framed = encode(data, codec=codec_)
    assert decode(framed) == data
    assert raw_length(framed) == size
    assert len(framed) <= size + codec.FRAME_OVERHEAD


@pytest.mark.parametrize("size", [4096, 16384, 32768, 32769, 65536, 131072])
def test_text_shrinks_to_less_than_half(size: int) -> None:
    framed = encode(TEXT[:size])
    assert framed[0] in (LZ4, ZSTD)
    assert len(framed) * 2 < size
    assert decode(framed) == TEXT[:size]


@pytest.mark.parametrize("codec_", [AUTO, LZ4, ZSTD])
@pytest.mark.parametrize("size", [2048, 4096, 65536, 131072])
def test_noise_stays_raw(size: int, codec_: int) -> None:
    framed = encode(NOISE[:size], codec=codec_)
    assert framed == frame(RAW, size, NOISE[:size])


def test_what_saves_less_than_a_twentieth_stays_raw() -> None:
    poor = NOISE[:9800] + bytes(200)
    assert len(lz4.block.compress(poor, store_size=False)) < len(poor)
    assert encode(poor, codec=LZ4)[0] == RAW
    better = NOISE[:9000] + bytes(1000)
    assert encode(better, codec=LZ4)[0] == LZ4


def test_automatic_choice_by_size() -> None:
    chosen = {size: encode(TEXT[:size])[0] for size in (1024, 1025, 4095, 4096, 32768, 32769)}
    assert chosen == {1024: RAW, 1025: LZ4, 4095: LZ4, 4096: ZSTD, 32768: ZSTD, 32769: LZ4}


def test_a_chunk_has_a_largest_size() -> None:
    assert len(decode(encode(bytes(MAX_CHUNK)))) == MAX_CHUNK
    with pytest.raises(ValueError, match="16777217"):
        encode(bytes(MAX_CHUNK + 1))


BODY_LZ4 = lz4.block.compress(TEXT[:5000], store_size=False)
BODY_ZSTD = zstandard.ZstdCompressor(write_content_size=True).compress(TEXT[:5000])
BODY_ZSTD_UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT[:5000])


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (b"", "a frame of 0 bytes"),
        (b"\0\1\0\0", "a frame of 4 bytes"),
        (frame(RAW, 3, b"ab"), "raw, 2 bytes where 3 belong"),
        (frame(RAW, 3, b"abcd"), "raw, 4 bytes where 3 belong"),
        (frame(RAW, MAX_CHUNK + 1, b""), "claims 16777217"),
        (frame(LZ4, 2**32 - 1, BODY_LZ4), "claims 4294967295"),
        (frame(3, 5000, BODY_LZ4), "codec 3"),
        (frame(255, 1, b"a"), "codec 255"),
        (frame(LZ4, 0, b""), "of nothing"),
        (frame(ZSTD, 0, BODY_ZSTD), "of nothing"),
        (frame(LZ4, 5000, b""), "LZ4"),
        (frame(LZ4, 5000, BODY_LZ4[:-3]), ""),
        (frame(LZ4, 4999, BODY_LZ4), "LZ4"),
        (frame(LZ4, 5001, BODY_LZ4), "5000 bytes where 5001 belong"),
        (frame(LZ4, 5000, BODY_LZ4 + b"\0"), ""),
        (frame(ZSTD, 5000, b""), "zstd"),
        (frame(ZSTD, 5000, BODY_ZSTD[:-3]), "zstd"),
        (frame(ZSTD, 4999, BODY_ZSTD), "zstd: a length of its own"),
        (frame(ZSTD, 5001, BODY_ZSTD), "zstd: a length of its own"),
        (frame(ZSTD, 5000, BODY_ZSTD_UNSIZED), "zstd: a length of its own"),
        (frame(ZSTD, 5000, BODY_ZSTD + b"\0"), "zstd"),
        (frame(ZSTD, 5000, BODY_LZ4), "zstd"),
    ],
)
def test_damaged_frames_are_refused(damaged: bytes, reason: str) -> None:
    with pytest.raises(FrameDamaged) as caught:
        decode(damaged)
    assert reason in caught.value.reason


@pytest.mark.parametrize("codec_", [LZ4, ZSTD])
def test_every_flipped_byte_is_refused_or_keeps_the_length(codec_: int) -> None:
    good = encode(TEXT[:3000], codec=codec_)
    assert good[0] == codec_
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 0x41
        try:
            data = decode(bytes(bad))
        except FrameDamaged:
            continue
        assert len(data) == raw_length(bytes(bad)) <= MAX_CHUNK


def test_a_bomb_takes_no_more_memory_than_it_admits() -> None:
    zeros = bytes(64 << 20)
    bombs = [
        frame(ZSTD, 4096, zstandard.ZstdCompressor(write_content_size=True).compress(zeros)),
        frame(LZ4, 4096, lz4.block.compress(zeros, store_size=False)),
    ]
    tracemalloc.start()
    try:
        for bomb in bombs:
            with pytest.raises(FrameDamaged):
                decode(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_threads_do_not_share_a_compressor() -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        random_ = random.Random(seed)
        for _ in range(100):
            start = random_.randrange(len(TEXT) - 20_000)
            data = TEXT[start : start + 20_000]
            if decode(encode(data, codec=ZSTD)) != data:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
