"""Chunk ids: what a chunk is called, and whether bytes deserve a name.

Invariant: a ChunkId is the BLAKE3 hash (32 bytes, unkeyed) of the chunk's decoded bytes, whatever codec it is
stored with. Must not know: where chunks lie or how they are stored.
"""

from __future__ import annotations

from typing import Final, NewType

from blake3 import blake3

from cas.errors import ChunkDamaged

ChunkId = NewType("ChunkId", bytes)
"""BLAKE3 of a chunk's decoded bytes, ID_BYTES long."""

ID_BYTES: Final = 32


def chunk_id(data: bytes | bytearray | memoryview) -> ChunkId:
    """Name `data` (C-contiguous, any length, empty included).

    Releases the interpreter lock for long data. 0.5 us and 0.14 us per KiB (9.4 us for 64 KiB, 7 GB/s).
    """
    return blake3(data).digest()  # type: ignore[return-value]  # calling a NewType takes 0.05 us of 0.5


def verify(id: ChunkId, data: bytes | bytearray | memoryview) -> None:
    """Check that `data` is the content of chunk `id`; costs one `chunk_id`.

    Raises:
        ChunkDamaged: It is not.
    """
    if blake3(data).digest() != id:
        raise ChunkDamaged(id, "content does not match its BLAKE3")
