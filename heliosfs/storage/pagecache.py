"""The shared cache of decoded nodes, with its byte budget: what the core sees as `Pages`.

A page that is not there raises NeedPages, so that the shell loads it off the loop, except inside `blocking()`,
where it is loaded at once (a replay, and the rare page that only `apply` finds it needs). A look-up in a tree asks
for five to ten nodes, so a hit is one look into a dict and writes nothing: pages come in two generations, the young
one becomes the old one when it has half the budget, and what was not asked for since then is dropped. Owned by the
loop's thread. Must not know: what the pages mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from heliosfs.core import pages
from heliosfs.core.errors import NeedPages
from heliosfs.core.ids import PageId
from heliosfs.core.radix import Node
from heliosfs.storage.pagestore import PageStore

_WEIGHT: Final = 7
"""Bytes of Python objects for each byte of an encoded page; measured 5 (extents) to 8 (inodes)."""
_KEEP: Final = 64
"""Pages that stay whatever the budget: what a single call has had loaded must outlive its retry."""


class PageCache:
    """Decoded nodes by page id; above a budget those are dropped that were not asked for lately.

    Attributes:
        hits, misses, evictions: True counts since the start.
        used_bytes: Estimate of the memory of what is kept.
    """

    def __init__(self, store: PageStore, budget_bytes: int) -> None:
        self._store = store
        self._young: dict[PageId, Node] = {}
        self._old: dict[PageId, Node] = {}
        self._weights: dict[PageId, int] = {}
        """Of all that are kept."""
        self._young_bytes = 0
        self._blocking = 0
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._weights)

    def node(self, page_id: PageId) -> Node:
        """The node. Raises NeedPages when it is not in memory, Damaged. 0.1 us for one that was used lately."""
        found = self._young.get(page_id)
        if found is not None:
            self.hits += 1
            return found
        found = self._old.pop(page_id, None)
        if found is not None:
            self.hits += 1
            self._enter(page_id, found)
            return found
        if not self._blocking:
            raise NeedPages((page_id,))
        return self.add(page_id, self._store.load(page_id))

    def add(self, page_id: PageId, encoded: bytes) -> Node:
        """Decode a page that has been loaded and verified, and keep it."""
        self.misses += 1
        node = pages.decode(encoded)
        self.keep(page_id, node, len(encoded))
        return node

    def keep(self, page_id: PageId, node: Node, encoded_bytes: int) -> None:
        """Keep a node, dropping others to stay within the budget."""
        if page_id in self._young:
            return
        kept = self._old.pop(page_id, None)
        if kept is None:
            weight = encoded_bytes * _WEIGHT + 400
            self._weights[page_id] = weight
            self.used_bytes += weight
        self._enter(page_id, kept or node)

    def _enter(self, page_id: PageId, node: Node) -> None:
        """It is one of the young; if they have become too many, they are the old ones from now on."""
        self._young[page_id] = node
        self._young_bytes += self._weights[page_id]
        if self._young_bytes * 2 <= self.budget_bytes or len(self._young) < _KEEP:
            return
        for dropped in self._old:
            self.used_bytes -= self._weights.pop(dropped)
        self.evictions += len(self._old)
        self._old, self._young = self._young, {}
        self._young_bytes = 0

    def discard(self, page_id: PageId) -> None:
        """Drop a page if it is kept."""
        weight = self._weights.pop(page_id, None)
        if weight is None:
            return
        self.used_bytes -= weight
        if self._young.pop(page_id, None) is not None:
            self._young_bytes -= weight
        else:
            del self._old[page_id]

    def load(self, page_id: PageId) -> bytes:
        """The encoding from the store, for a thread; pass it to `add` on the loop."""
        return self._store.load(page_id)

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Within, missing pages are read at once instead of raising NeedPages."""
        self._blocking += 1
        try:
            yield
        finally:
            self._blocking -= 1

    def begin_blocking(self) -> None:
        """As entering `blocking()`, without a context manager's cost (for every apply)."""
        self._blocking += 1

    def end_blocking(self) -> None:
        """Ends `begin_blocking`."""
        self._blocking -= 1
