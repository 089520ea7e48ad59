"""Copying chunks into a pack of their own, so that the packs they lie in can go.

Invariants: a frame is copied as it is, and only after it was decoded and found to be its chunk; what is told was
synced, its pack's name included; a copy that fails leaves no file. Must not know: why, the index.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cas.codec import decode
from cas.digest import ChunkId, verify
from cas.errors import ChunkDamaged, FrameDamaged
from cas.packfile import Stored, pack_path
from cas.packs import PackReader, PackWriter

_BATCH_BYTES: Final = 8 << 20
_BATCH_CHUNKS: Final = 256


def copy_chunks(packs: Path, writer: int, reader: PackReader, entries: Sequence[Stored]) -> list[Stored]:
    """Copy chunks into new packs. Where they lie now; those whose bytes are damaged are left out.

    Raises:
        OSError: They can't be written or synced (ENOSPC, EIO); what had been written is removed.
    """
    # A writer of its own: if its sync fails nothing that somebody was told is in doubt.
    target = PackWriter(packs, writer)
    copied: list[Stored] = []
    batch: list[tuple[Stored, bytes]] = []
    size = 0
    try:
        for entry in entries:
            frame = _verified(reader, entry)
            if frame is None:
                continue
            batch.append((entry, frame))
            size += len(frame)
            if size >= _BATCH_BYTES or len(batch) >= _BATCH_CHUNKS:
                copied += _append(target, batch)
                batch, size = [], 0
        copied += _append(target, batch)
        target.close()
    except OSError:
        _discard(target, packs)
        raise
    return copied


def _verified(reader: PackReader, entry: Stored) -> bytes | None:
    """The chunk's frame, None if it is damaged. Raises OSError for anything but damage."""
    try:
        frame = reader.read_frame(entry.place)
        verify(entry.id, decode(frame))
    except (FrameDamaged, ChunkDamaged):
        return None
    return frame


def _append(target: PackWriter, batch: list[tuple[Stored, bytes]]) -> list[Stored]:
    places = target.append_many([(ChunkId(entry.id), frame) for entry, frame in batch])
    return [Stored(entry.id, place, entry.raw_length) for (entry, _), place in zip(batch, places, strict=True)]


def _discard(target: PackWriter, packs: Path) -> None:
    """Nobody was told of these packs: their room is wanted."""
    target.abandon()
    for pack in target.made:
        os.unlink(pack_path(packs, pack))
