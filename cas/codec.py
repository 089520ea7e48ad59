"""Frames: one chunk's bytes as they are stored, raw or compressed.

frame = codec (1 byte) | length of the decoded bytes (u32 LE) | body

Invariants: `decode(encode(data)) == data`; a frame that is not raw is shorter than 95 % of its
chunk; decoding never allocates more than MAX_CHUNK, whatever the frame claims.
Must not know: chunk ids, files, packs.
"""

from __future__ import annotations

import struct
import threading
from typing import Final

import lz4.block
import zstandard

from cas.errors import FrameDamaged

MAX_CHUNK: Final = 16 << 20
"""Decoded bytes of the largest chunk there can be."""

RAW: Final = 0
LZ4: Final = 1
ZSTD: Final = 2
AUTO: Final = -1

_HEADER: Final = struct.Struct("<BI")
FRAME_OVERHEAD: Final = _HEADER.size
MAX_FRAME: Final = MAX_CHUNK + FRAME_OVERHEAD

# Which codec when, measured on Python source (compress us, decompress us, ratio):
#      2 KiB  LZ4     4  0.7  1.8    zstd -1    8   3  2.5   small files come in thousands: LZ4
#     16 KiB  LZ4    16    4  2.0    zstd -1   35  14  2.9   LZ4 misses a ratio of 2: zstd
#     64 KiB  LZ4   104   15  2.6    zstd -1  138  44  3.7   zstd spends the 50 us of a first read: LZ4
_ZSTD_FROM: Final = 4096
_ZSTD_TO: Final = 32768
_ZSTD_LEVEL: Final = 1

_RAW_TO: Final = 1024
"""Data up to this stays raw under AUTO. Files up to 1 KiB hold 0.04 to 0.4 % of the bytes of a source tree
and shrink to 70-87 % of that: it saves 0.1 % of a store, and costs half the time of storing them (2.2 us)."""


class _Zstd(threading.local):
    """One compressor and one decompressor a thread: neither may be used by two at once."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True).compress
        self.decompress = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK).decompress


_zstd: Final = _Zstd()


def encode(data: bytes, *, codec: int = AUTO) -> bytes:
    """Make the frame of `data`, at most MAX_CHUNK bytes.

    Args:
        data: The chunk.
        codec: AUTO picks by size; LZ4 or ZSTD insist on a codec, but what it does not shrink to below 95 %
            stays raw all the same; RAW does not try.

    Cost: 0.3 us for 1 KiB, 104 us for 64 KiB of text, 10 us for 64 KiB of noise. Releases the interpreter
    lock while it compresses.
    """
    length = len(data)
    if length > MAX_CHUNK:
        raise ValueError(f"a chunk of {length} bytes")
    if codec == AUTO:
        codec = RAW if length <= _RAW_TO else ZSTD if _ZSTD_FROM <= length <= _ZSTD_TO else LZ4
    if codec != RAW:
        body = lz4.block.compress(data, store_size=False) if codec == LZ4 else _zstd.compress(data)
        if len(body) * 20 < length * 19:
            return _HEADER.pack(codec, length) + body
    return _HEADER.pack(RAW, length) + data


def raw_length(frame: bytes) -> int:
    """Length in bytes of what `frame` (or its first FRAME_OVERHEAD bytes) claims to decode to.

    Raises:
        FrameDamaged: It claims more than MAX_CHUNK or is no header.
    """
    if len(frame) < FRAME_OVERHEAD:
        raise FrameDamaged(f"a frame of {len(frame)} bytes")
    length: int = _HEADER.unpack_from(frame)[1]
    if length > MAX_CHUNK:
        raise FrameDamaged(f"claims {length} decoded bytes")
    return length


def decode(frame: bytes) -> bytes:
    """Take the chunk out of its frame. The content is not verified: that is `digest.verify`.

    Raises:
        FrameDamaged: Truncated, of an unknown codec, or not decodable to exactly the length it claims. Memory
            taken stays below MAX_CHUNK.

    Cost: 15 us for 64 KiB of text; releases the interpreter lock while it decompresses.
    """
    length = raw_length(frame)
    codec = frame[0]
    if codec == RAW:
        if len(frame) != length + FRAME_OVERHEAD:
            raise FrameDamaged(f"raw, {len(frame) - FRAME_OVERHEAD} bytes where {length} belong")
        return frame[FRAME_OVERHEAD:]
    if not length:
        raise FrameDamaged("compressed, of nothing")
    body = memoryview(frame)[FRAME_OVERHEAD:]
    data: bytes
    if codec == LZ4:
        try:
            data = lz4.block.decompress(body, uncompressed_size=length)
        except lz4.block.LZ4BlockError as error:
            raise FrameDamaged(f"LZ4: {error}") from None
    elif codec == ZSTD:
        try:
            # A size inside the body would outrank max_output_size: it has to be there, and be ours.
            if zstandard.frame_content_size(body) != length:
                raise FrameDamaged("zstd: a length of its own")
            data = _zstd.decompress(body, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise FrameDamaged(f"zstd: {error}") from None
    else:
        raise FrameDamaged(f"codec {codec}")
    if len(data) != length:
        raise FrameDamaged(f"{len(data)} bytes where {length} belong")
    return data
