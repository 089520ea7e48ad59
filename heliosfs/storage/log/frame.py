"""The bytes of the log: segment header and record, packed and unpacked. Documented in docs/format/log.md.

Invariants: everything is little endian; a record starts at a multiple of 8; a record says where it lies
(`lsn`) and its checksums are seeded by the life's salt, so bytes of an earlier life of the same file, or a
user's data that imitates a record, never pass for one.
Must not know: files, descriptors, what a record means.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from cas.checksum import crc32
from heliosfs.core.ids import Lsn

VERSION: Final = 0
HEADER_BYTES: Final = 4096
"""A segment's first block belongs to its header alone, so that no torn record write can touch it."""

COPY_OFFSETS: Final = (0, 2048)
"""The header is there twice: one flipped bit must not lose a whole life."""

BLOCK_BYTES: Final = 16384
"""Payload bytes under one checksum."""

RECORD_BYTES: Final = 56
"""A record's fixed part."""

KIND_MARK: Final = 0xFE
KIND_SEAL: Final = 0xFF
FIRST_INTERNAL_KIND: Final = 0xF0
"""Kinds from here on are the log's own and are not replayed."""

MAX_LENGTH: Final = 0xFFFF_FFF8

_MAGIC: Final = b"HeliosLg"
_HEADER: Final = struct.Struct("<8sIIQQQQQQ16s")
_RECORD: Final = struct.Struct("<IBBHIIQQQII")
_FOUND: Final = struct.Struct("<IIIBBHIIQQQII")
_U32: Final = struct.Struct("<I")

pack_rest: Final = _RECORD.pack
"""(length, kind, flags, 0, body length, payload length, lsn, durable, request, epoch, connection)."""

pack_u32: Final = _U32.pack


class Place(NamedTuple):
    """Where a record and its payload lie.

    Attributes:
        lsn: The record's position.
        end_lsn: Position after it; the record is durable once the log's durable position has reached this.
        life: Segment life of the payload.
        offset: Bytes from the start of the segment file to the payload.
        length: Bytes of payload.
        sums: One little endian crc32 for each `BLOCK_BYTES` of payload, seeded; b"" without payload.
        connection, request: Who asked for it; 0, 0 for nobody who waits for an answer.
    """

    lsn: Lsn
    end_lsn: Lsn
    life: int
    offset: int
    length: int
    sums: bytes
    connection: int = 0
    request: int = 0


@dataclass(frozen=True, slots=True)
class LifeHeader:
    """What the header of a segment says.

    Attributes:
        life: Number of this life, >= 1; rises with every life of any segment.
        base: Position of byte 0 of the file: position = base + offset.
        size: Bytes of the file that belong to this life, header included.
        durable: Durable position of the log when the life began.
        prev: The life before it; 0 for the first.
        prev_end: Position after that life's last record; bytes behind it never count.
        salt: 16 random bytes.
    """

    life: int
    base: int
    size: int
    durable: int
    prev: int
    prev_end: int
    salt: bytes


class NewerFormat(Exception):
    """A header of a later version.

    Attributes:
        version: The version found.
    """

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


class Record(NamedTuple):
    """One record's fixed part, after its checksum was found good.

    Attributes:
        length: Bytes in all, padding included; a multiple of 8.
        meta_length: Bytes before the payload.
        durable: Durable position of the log when it was appended.
    """

    length: int
    kind: int
    body_length: int
    payload_length: int
    meta_length: int
    durable: int
    request: int
    epoch: int
    connection: int


def seed_of(salt: bytes) -> int:
    """The start value of all checksums of a life."""
    return crc32(salt)


def marker_of(seed: int) -> bytes:
    """The 4 bytes by which records of a life are found without following their lengths."""
    return pack_u32(crc32(b"heliosfs record", seed))


def sums_length(payload_length: int) -> int:
    """Bytes of block checksums for a payload."""
    return (payload_length + BLOCK_BYTES - 1) // BLOCK_BYTES * 4


def block_sums(payload: bytes | bytearray | memoryview, seed: int) -> bytes:
    """Seeded crc32 of each block of a payload. O(payload)."""
    length = len(payload)
    if length <= BLOCK_BYTES:
        return pack_u32(crc32(payload, seed)) if length else b""
    view = memoryview(payload)
    sums = [crc32(view[at : at + BLOCK_BYTES], seed) for at in range(0, length, BLOCK_BYTES)]
    return struct.pack(f"<{len(sums)}I", *sums)


def encode_header(header: LifeHeader) -> bytes:
    """The first block of a segment: `HEADER_BYTES` long."""
    fields = _HEADER.pack(
        _MAGIC,
        VERSION,
        0,
        header.life,
        header.base,
        header.size,
        header.durable,
        header.prev,
        header.prev_end,
        header.salt,
    )
    copy = fields + pack_u32(crc32(fields))
    block = bytearray(HEADER_BYTES)
    for at in COPY_OFFSETS:
        block[at : at + len(copy)] = copy
    return bytes(block)


def decode_header(block: bytes) -> LifeHeader | None:
    """The life that a segment's first block announces, or None if neither copy is whole.

    Where the copies differ (a power cut while the block was rewritten) the later life counts: the earlier
    one had been given up before the block was touched.

    Raises:
        NewerFormat: A whole copy has an unknown version.
    """
    found: LifeHeader | None = None
    for at in COPY_OFFSETS:
        end = at + _HEADER.size
        if len(block) < end + 4 or _U32.unpack_from(block, end)[0] != crc32(block[at:end]):
            continue
        magic, version, _, life, base, size, durable, prev, prev_end, salt = _HEADER.unpack_from(block, at)
        if magic != _MAGIC:
            continue
        if version > VERSION:
            raise NewerFormat(version)
        if found is None or life > found.life:
            found = LifeHeader(life, base, size, durable, prev, prev_end, salt)
    return found


def encode_record(
    seed: int,
    marker: bytes,
    lsn: int,
    durable: int,
    kind: int,
    body: bytes,
    payload: bytes | bytearray | memoryview = b"",
) -> bytes:
    """A whole record without its padding. Only for the log's own records; `Log.append` does this in place."""
    sums = block_sums(payload, seed)
    length = (RECORD_BYTES + len(body) + len(sums) + len(payload) + 7) & ~7
    rest = marker + pack_rest(length, kind, 0, 0, len(body), len(payload), lsn, durable, 0, 0, 0) + body + sums
    return b"".join((pack_u32(crc32(rest, seed)), rest, payload))


def peek_meta_length(window: bytes, at: int, marker: bytes, lsn: int, room: int) -> int:
    """Bytes that `decode_record` needs to see of the record at `window[at]`, or 0 if there is none.

    Args:
        window: At least `RECORD_BYTES` from `at` on.
        marker: Of the life.
        lsn: Position of `window[at]`.
        room: Bytes from there to the end of the segment.

    The lengths are plausible, not yet proved.
    """
    _, found, length, _, _, _, body, payload, position, _, _, _, _ = _FOUND.unpack_from(window, at)
    meta: int = RECORD_BYTES + body + sums_length(payload)
    if pack_u32(found) != marker or position != lsn or length > room or length != (meta + payload + 7) & ~7:
        return 0
    return meta


def decode_record(window: bytes, at: int, meta_length: int, seed: int) -> Record | None:
    """The record at `window[at]`, or None if its checksum is wrong. The payload is not looked at.

    Args:
        window: At least `meta_length` bytes from `at` on.
        meta_length: From `peek_meta_length`.
        seed: Of the life.
    """
    checksum, _, length, kind, _, _, body, payload, _, durable, request, epoch, connection = _FOUND.unpack_from(
        window, at
    )
    if crc32(memoryview(window)[at + 4 : at + meta_length], seed) != checksum:
        return None
    return Record(length, kind, body, payload, meta_length, durable, request, epoch, connection)
