"""A store of chunks in a dict, for tests and for trees that need not outlive the process.

Invariant: keeps the same frames that packs would keep, so codec and verification are exercised alike.
Must not know: files, processes.
"""

from __future__ import annotations

from collections.abc import Sequence

from cas.codec import decode, encode
from cas.digest import ChunkId, chunk_id, verify
from cas.errors import ChunkDamaged, ChunkMissing, FrameDamaged
from cas.store import StoreStats


class MemoryStore:
    """A ChunkStore in memory; nothing survives the process, so `sync` has nothing to do.

    Attributes:
        frames: Chunk id -> frame; tests damage it to see that damage is found.
    """

    __slots__ = ("frames",)

    def __init__(self) -> None:
        self.frames: dict[ChunkId, bytes] = {}

    def put(self, data: bytes) -> ChunkId:
        """See ChunkStore."""
        id = chunk_id(data)
        if id not in self.frames:
            self.frames[id] = encode(data)
        return id

    def put_many(self, data: Sequence[bytes]) -> list[ChunkId]:
        """See ChunkStore."""
        framed = [(chunk_id(chunk), encode(chunk)) for chunk in data]
        for id, frame in framed:
            self.frames.setdefault(id, frame)
        return [id for id, _ in framed]

    def get(self, id: ChunkId) -> bytes:
        """See ChunkStore."""
        frame = self.frames.get(id)
        if frame is None:
            raise ChunkMissing(id)
        try:
            data = decode(frame)
        except FrameDamaged as error:
            raise ChunkDamaged(id, error.reason) from error
        verify(id, data)
        return data

    def has_many(self, ids: Sequence[ChunkId]) -> list[bool]:
        """See ChunkStore."""
        frames = self.frames
        return [id in frames for id in ids]

    def sync(self) -> None:
        """See ChunkStore."""

    def stats(self) -> StoreStats:
        """See ChunkStore; O(chunks) here."""
        frames = list(self.frames.values())
        raw = sum(int.from_bytes(frame[1:5], "little") for frame in frames)
        return StoreStats(len(frames), sum(map(len, frames)), raw)

    def close(self) -> None:
        """See ChunkStore."""
        self.frames.clear()
