"""A pack written by version 0 of the format stays readable, and what has one right form is still written so.

`pack-00000001` is read-only evidence: it is never made again to please a change of the code.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from blake3 import blake3

from cas.codec import LZ4, RAW, ZSTD
from cas.digest import chunk_id
from cas.packs import PackReader, PackWriter, Place, Stored

HERE = Path(__file__).parent
PACK = HERE / "pack-00000001"
SALT = bytes.fromhex("0102030405060708")
WRITER = 5

CONTENTS = [
    (RAW, b""),
    (RAW, b"hello, pack\n"),
    (RAW, blake3(b"golden").digest(length=1500)),
    (LZ4, b"".join(b"line %d of a small file\n" % number for number in range(120))),
    (ZSTD, b"".join(b"line %d of a larger file\n" % number for number in range(900))),
]


def test_a_version_0_pack_is_read() -> None:
    reader = PackReader(HERE)
    found = list(reader.scan(1))
    assert [stored.id for stored in found] == [chunk_id(content) for _, content in CONTENTS]
    for stored, (codec, content) in zip(found, CONTENTS, strict=True):
        assert reader.get(stored.id, stored.place) == content
        assert reader.read_frame(stored.place)[0] == codec
        assert stored.raw_length == len(content)
    assert found[1] == Stored(chunk_id(b"hello, pack\n"), Place(1, 125, 17), 12)
    reader.close()


def test_the_same_frames_make_the_same_pack(tmp_path: Path) -> None:
    reader = PackReader(HERE)
    writer = PackWriter(tmp_path, WRITER, salt=lambda count: SALT[:count])
    # Frames are taken from the fixture: another version of a compressor may find other, equally good bytes.
    writer.append_many([(stored.id, reader.read_frame(stored.place)) for stored in reader.scan(1)])
    writer.close()
    reader.close()
    assert (tmp_path / "pack-00000001").read_bytes() == PACK.read_bytes()


def test_the_document_suffices() -> None:
    """Reads the fixture by docs/format/packs.md alone, with nothing of ours."""
    data = PACK.read_bytes()
    magic, version, pack, writer, salt, crc = struct.unpack_from("<8sIII8sI", data)
    assert (magic, version, pack, writer, salt) == (b"HELIOSPK", 0, 1, WRITER, SALT)
    assert crc == zlib.crc32(data[:28])
    offset = 32
    raw = []
    while offset < len(data):
        magic, id, length, crc = struct.unpack_from("<4s32sII", data, offset)
        assert magic == b"CHNK"
        assert crc == zlib.crc32(data[offset : offset + 40], zlib.crc32(salt))
        codec, raw_length = struct.unpack_from("<BI", data, offset + 44)
        body = data[offset + 49 : offset + 44 + length]
        if codec == 0:
            assert len(body) == raw_length
            assert blake3(body).digest() == id
            raw.append(body)
        offset += 44 + length
    assert offset == len(data)
    assert raw == [content for codec, content in CONTENTS if codec == 0]
