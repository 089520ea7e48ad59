"""What a store of chunks promises, whoever keeps it. One test-suite (tests/contract) holds every store to it.

Must not know: how any of them does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cas.digest import ChunkId


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Exact sums over the chunks that the store has now.

    Attributes:
        chunks: Their number.
        stored_bytes: Of their frames.
        raw_bytes: Of their decoded contents.
    """

    chunks: int
    stored_bytes: int
    raw_bytes: int


class ChunkStore(Protocol):
    """Chunks by their content's name. Chunks never change; to put one twice is to put it once.

    Every method may be called from any thread. Trouble of the operating system passes as OSError; a put
    that raised has put nothing.
    """

    def put(self, data: bytes) -> ChunkId:
        """Keep `data` (at most codec.MAX_CHUNK bytes) and return its name; idempotent.

        It can be read back at once; it survives a power cut once a later `sync` returned.
        """
        ...

    def put_many(self, data: Sequence[bytes]) -> list[ChunkId]:
        """`put` for each, all or none, cheaper than one by one; names in the same order."""
        ...

    def get(self, id: ChunkId) -> bytes:
        """The chunk's content, verified against its name.

        Raises:
            ChunkMissing: Never put.
            ChunkDamaged: Put, but what is there now is something else. Other chunks are not affected.
        """
        ...

    def has_many(self, ids: Sequence[ChunkId]) -> list[bool]:
        """Whether each was put; reads no chunk."""
        ...

    def sync(self) -> None:
        """Return when everything put before the call is safe from a power cut.

        Raises:
            OSError: It may not be. The store takes no further puts: what the kernel dropped cannot be known.
        """
        ...

    def stats(self) -> StoreStats:
        """Exact counters. O(1)."""
        ...

    def close(self) -> None:
        """Sync, then release everything. Idempotent; no other call may follow."""
        ...
