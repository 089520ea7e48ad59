"""The format of a pack file: what its bytes mean. docs/format/packs.md tells it in full.

    pack header (32 bytes) | entry header (44 bytes), frame | entry header, frame | ...

Invariants: every header carries a CRC-32, an entry's is seeded with its pack's salt, so that nothing but an
entry of this very pack passes for one; a frame has no sum of its own, its BLAKE3 is its name.
Must not know: who writes, who reads, which chunks are wanted.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cas.checksum import crc32
from cas.codec import FRAME_OVERHEAD, decode, raw_length
from cas.digest import ID_BYTES, ChunkId, chunk_id
from cas.errors import FrameDamaged, PackDamaged, VersionUnknown

MAGIC: Final = b"HELIOSPK"
VERSION: Final = 0
_PACK_HEADER: Final = struct.Struct("<8sIII8s")  # magic, version, pack number, writer, salt
_ENTRY_HEADER: Final = struct.Struct("<4s32sI")  # magic, chunk id, frame length
_CRC: Final = struct.Struct("<I")
PACK_HEADER_BYTES: Final = _PACK_HEADER.size + _CRC.size
ENTRY_HEADER_BYTES: Final = _ENTRY_HEADER.size + _CRC.size
ENTRY_MAGIC: Final = b"CHNK"
SALT_BYTES: Final = 8
_NAME: Final = "pack-"

# Bound once: one header is made for each chunk stored.
_pack_entry: Final = _ENTRY_HEADER.pack
_pack_crc: Final = _CRC.pack

assert _ENTRY_HEADER.size == 4 + ID_BYTES + 4


class Place(NamedTuple):
    """Where a frame lies.

    Attributes:
        pack: Number of the pack, 1 <= pack < 2**32.
        offset: Of the frame itself in the pack, bytes.
        length: Of the frame, bytes.
    """

    pack: int
    offset: int
    length: int


class Stored(NamedTuple):
    """A chunk that lies in a pack: what the index keeps.

    Attributes:
        id: Its name.
        place: Of its frame.
        raw_length: Of its decoded content, bytes.
    """

    id: ChunkId
    place: Place
    raw_length: int


def pack_path(directory: Path, pack: int) -> Path:
    """Path of pack number `pack`."""
    return directory / f"{_NAME}{pack:08d}"


def pack_numbers(directory: Path) -> list[int]:
    """Numbers of the packs in `directory`, ascending."""
    names = os.listdir(directory)
    return sorted(int(name[5:]) for name in names if name.startswith(_NAME) and name[5:].isdecimal())


def pack_writer(directory: Path, pack: int) -> int | None:
    """The number of the writer that made the pack; None where there is no whole header (yet)."""
    try:
        with pack_path(directory, pack).open("rb") as file:
            header = file.read(PACK_HEADER_BYTES)
    except FileNotFoundError:
        return None
    if len(header) < PACK_HEADER_BYTES or header[:8] != MAGIC:
        return None
    writer: int = _PACK_HEADER.unpack_from(header)[3]
    return writer


def pack_header(pack: int, writer: int, salt: bytes) -> bytes:
    """The first PACK_HEADER_BYTES of a pack."""
    header = _PACK_HEADER.pack(MAGIC, VERSION, pack, writer, salt)
    return header + _CRC.pack(crc32(header))


def entry_header(id: ChunkId, length: int, seed: int) -> bytes:
    """The ENTRY_HEADER_BYTES before a frame of `length` bytes; `seed` is the CRC-32 of the pack's salt."""
    header = _pack_entry(ENTRY_MAGIC, id, length)
    return header + _pack_crc(crc32(header, seed))


def scan_pack(directory: Path, pack: int, *, verified: bool) -> Iterator[Stored]:
    """See PackReader.scan."""
    path = pack_path(directory, pack)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(PACK_HEADER_BYTES)
        if len(header) < PACK_HEADER_BYTES:
            return
        seed = crc32(check_pack_header(path, header))
        offset = PACK_HEADER_BYTES
        while offset + ENTRY_HEADER_BYTES <= size:
            file.seek(offset)
            header = file.read(ENTRY_HEADER_BYTES)
            found = read_entry_header(header, seed)
            if found is None:
                return
            id, length = found
            offset += ENTRY_HEADER_BYTES
            if offset + length > size:
                return
            place = Place(pack, offset, length)
            offset += length
            try:
                frame = file.read(length if verified else min(length, FRAME_OVERHEAD))
                raw = raw_length(frame)
                if verified and chunk_id(decode(frame)) != id:
                    continue
            except FrameDamaged:
                continue
            yield Stored(id, place, raw)


def read_entry_header(header: bytes, seed: int | None) -> tuple[ChunkId, int] | None:
    """(chunk id, frame length) of an entry's header, or None if it is none.

    Args:
        header: ENTRY_HEADER_BYTES, or fewer at the end of a file.
        seed: The CRC-32 of the pack's salt; None if that is lost: then the sum is not looked at.
    """
    if len(header) != ENTRY_HEADER_BYTES:
        return None
    magic, id, length = _ENTRY_HEADER.unpack_from(header)
    if magic != ENTRY_MAGIC:
        return None
    if seed is not None and _CRC.unpack_from(header, _ENTRY_HEADER.size)[0] != crc32(
        header[: _ENTRY_HEADER.size], seed
    ):
        return None
    return ChunkId(id), length


def check_pack_header(path: Path, header: bytes) -> bytes:
    """Validate a pack's header; returns its salt. Raises PackDamaged, VersionUnknown."""
    magic, version, _pack, _writer, salt = _PACK_HEADER.unpack_from(header)
    if magic != MAGIC:
        raise PackDamaged(path, "not a pack file")
    # The sum first: a flipped byte is no later version.
    (crc,) = _CRC.unpack_from(header, _PACK_HEADER.size)
    if crc != crc32(header[: _PACK_HEADER.size]):
        raise PackDamaged(path, "checksum of its header")
    if version != VERSION:
        raise VersionUnknown(path, version)
    assert isinstance(salt, bytes)
    return salt
