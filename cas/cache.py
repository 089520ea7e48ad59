"""L1: decoded chunks in memory, under a budget of bytes.

A segmented LRU: two queues, each least recently used first. A new chunk enters on *trial*; a hit there takes
it to the *proven* queue, whose overflow goes back on trial; only what is on trial is evicted. With Zipf s=1.1
over four times the budget it hits 90.4 % where plain LRU hits 89.1 % and the best fixed set 92.5 % (32,768
chunks, warm), and one `grep -r` over everything leaves the proven chunks alone. Tried and dropped: admission
by a table of small counters (TinyLFU) gained 0.3 % with exact counts, and lost that to collisions in a table
of bearable size; S3-FIFO and ARC came to the same or less.

Invariants: the sum of lengths held is `bytes` and never exceeds the budget; hits + misses is the number of
`get`s; every chunk that entered is held, or was counted as evicted, or was dropped by `discard` or `clear`.
Must not know: where chunks come from. Not thread-safe: belongs to one thread, the loop's.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cas.digest import ChunkId

_PROVEN_SHARE: Final = 0.75
"""Of the budget: what the proven queue may hold. The rest always has room for the longest chunk kept."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What the cache did since it was made, and holds now.

    Attributes:
        hits: `get`s answered.
        misses: `get`s not answered.
        evictions: Chunks that were held and had to leave for others, or for a smaller budget.
        chunks: Held now.
        bytes: Of their contents.
        budget_bytes: What `bytes` may reach.
    """

    hits: int
    misses: int
    evictions: int
    chunks: int
    bytes: int
    budget_bytes: int


class ChunkCache:
    """Chunk id -> decoded content, for as long as it is worth its memory. A hit takes 0.2 us."""

    __slots__ = (
        "_budget",
        "_bytes",
        "_evictions",
        "_hits",
        "_misses",
        "_proven",
        "_proven_bytes",
        "_proven_max",
        "_trial",
    )

    def __init__(self, budget_bytes: int) -> None:
        """An empty cache of at most `budget_bytes` (>= 0) of content; each chunk costs 0.2 KiB beside it."""
        self._trial: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._proven: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._bytes = self._proven_bytes = 0
        self._hits = self._misses = self._evictions = 0
        self._budget = self._proven_max = 0
        self.resize(budget_bytes)

    def get(self, id: ChunkId) -> bytes | None:
        """The chunk's content if it is held."""
        proven = self._proven
        data = proven.get(id)
        if data is not None:
            proven.move_to_end(id)
            self._hits += 1
            return data
        data = self._trial.pop(id, None)
        if data is None:
            self._misses += 1
            return None
        self._hits += 1
        proven[id] = data
        self._proven_bytes += len(data)
        if self._proven_bytes > self._proven_max:
            self._demote()
        return data

    def put(self, id: ChunkId, data: bytes) -> None:
        """Offer a chunk, as read after a miss. One longer than a quarter of the budget is not kept."""
        size = len(data)
        if size * 4 > self._budget or id in self._proven or id in self._trial:
            return
        self._bytes += size
        if self._bytes > self._budget:
            self._evict()
        self._trial[id] = data

    def discard(self, id: ChunkId) -> None:
        """Drop a chunk if it is held."""
        data = self._trial.pop(id, None)
        if data is None:
            data = self._proven.pop(id, None)
            if data is None:
                return
            self._proven_bytes -= len(data)
        self._bytes -= len(data)

    def resize(self, budget_bytes: int) -> None:
        """Change the budget (>= 0); what no longer fits is evicted, least recently used first."""
        if budget_bytes < 0:
            raise ValueError(f"a budget of {budget_bytes} bytes")
        self._budget = budget_bytes
        self._proven_max = int(budget_bytes * _PROVEN_SHARE)
        self._demote()
        self._evict()

    def clear(self) -> None:
        """Drop everything held."""
        self._trial.clear()
        self._proven.clear()
        self._bytes = self._proven_bytes = 0

    def stats(self) -> CacheStats:
        """Exact counters. O(1)."""
        return CacheStats(self._hits, self._misses, self._evictions, len(self), self._bytes, self._budget)

    def __len__(self) -> int:
        return len(self._trial) + len(self._proven)

    def _demote(self) -> None:
        """Put the proven queue's overflow back on trial, as its newest."""
        while self._proven_bytes > self._proven_max:
            id, data = self._proven.popitem(last=False)
            self._proven_bytes -= len(data)
            self._trial[id] = data

    def _evict(self) -> None:
        """Evict from the trial queue until the budget is kept.

        That suffices: the proven queue holds at most 3/4 of the budget, a chunk to come at most 1/4.
        """
        trial = self._trial
        while self._bytes > self._budget:
            self._bytes -= len(trial.popitem(last=False)[1])
            self._evictions += 1
