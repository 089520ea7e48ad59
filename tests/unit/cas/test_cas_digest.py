"""Chunk ids against BLAKE3's published test vectors, and verification."""

from __future__ import annotations

import pytest

from cas.digest import ID_BYTES, ChunkId, chunk_id, verify
from cas.errors import (
    CasError,
    ChunkDamaged,
    ChunkMissing,
    FrameDamaged,
    PackDamaged,
    StoreLocked,
    VersionUnknown,
)


def test_ids_are_plain_blake3() -> None:
    # From the test vectors of the BLAKE3 project: input bytes count 0..250 over and over.
    assert chunk_id(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert chunk_id(b"\0").hex() == "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"
    assert len(chunk_id(b"x")) == ID_BYTES


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_any_buffer_has_the_same_id(make: type) -> None:
    assert chunk_id(make(b"abc" * 1000)) == chunk_id(b"abc" * 1000)


def test_verify_names_the_chunk_it_refuses() -> None:
    id = chunk_id(b"right")
    verify(id, b"right")
    with pytest.raises(ChunkDamaged) as caught:
        verify(id, b"wrong")
    assert caught.value.id == id
    assert id.hex() in str(caught.value)


def test_errors_carry_their_data_and_say_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    id = ChunkId(bytes(range(32)))
    assert id.hex() in str(ChunkMissing(id))
    assert ChunkMissing(id).id == id
    assert "sum" in str(PackDamaged(tmp_path, "sum"))
    assert "7" in str(VersionUnknown(tmp_path, 7))
    assert "process 12" in str(StoreLocked(tmp_path, 12))
    assert "another process" in str(StoreLocked(tmp_path, None))
    for kind in (ChunkMissing, ChunkDamaged, FrameDamaged, PackDamaged, VersionUnknown, StoreLocked):
        assert issubclass(kind, CasError)
