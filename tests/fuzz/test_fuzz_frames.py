"""Chunk frames and packs: any bytes are chunks or refused."""

from __future__ import annotations

import struct
import tempfile
import zlib
from pathlib import Path

from cas import codec
from cas.errors import FrameDamaged, PackDamaged, VersionUnknown
from cas.packfile import ENTRY_HEADER_BYTES, PACK_HEADER_BYTES, pack_path, scan_pack
from tests.support.mutation import fuzzed, memory_below

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "cas" / "pack-00000001"
TEXT = b"def f(x):\n    return x + 1\n" * 200
FRAMES = [codec.encode(TEXT, codec=how) for how in (codec.RAW, codec.LZ4, codec.ZSTD)]


@fuzzed("frames", FRAMES)
def test_frames(data: bytes) -> None:
    """A frame that claims much gets no more than a chunk may have."""
    with memory_below(codec.MAX_CHUNK + (1 << 20)):
        try:
            chunk = codec.decode(data)
        except FrameDamaged:
            return
    assert len(chunk) == codec.raw_length(data) <= codec.MAX_CHUNK


def repaired(data: bytes) -> bytes:
    """A pack whose header sums are right, whatever the headers say."""
    if len(data) < PACK_HEADER_BYTES:
        return data
    head = data[: PACK_HEADER_BYTES - 4]
    out = bytearray(head + struct.pack("<I", zlib.crc32(head)) + data[PACK_HEADER_BYTES:])
    seed = zlib.crc32(head[20:28])
    at = PACK_HEADER_BYTES
    while at + ENTRY_HEADER_BYTES <= len(out):
        entry = bytes(out[at : at + ENTRY_HEADER_BYTES - 4])
        struct.pack_into("<I", out, at + ENTRY_HEADER_BYTES - 4, zlib.crc32(entry, seed))
        at += ENTRY_HEADER_BYTES + struct.unpack_from("<I", entry, 36)[0]
    return bytes(out)


@fuzzed("packs", [GOLDEN.read_bytes()], weight=2)
def test_packs(data: bytes) -> None:
    """As they are, and with their headers' sums put right."""
    for pack in (data, repaired(data)):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            pack_path(directory, 1).write_bytes(pack)
            for verified in (False, True):
                try:
                    found = list(scan_pack(directory, 1, verified=verified))
                except (PackDamaged, VersionUnknown):
                    continue
                for stored in found:
                    assert stored.place.offset + stored.place.length <= len(pack)
                    assert stored.raw_length <= codec.MAX_CHUNK
