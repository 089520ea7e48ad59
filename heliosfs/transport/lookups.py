"""How often the kernel has been handed each node, so that we know what it may have cached.

Every positive reply to LOOKUP, MKNOD, MKDIR, SYMLINK, LINK, CREATE and every READDIRPLUS entry with a node
counts one; FORGET takes some back. A node that counts zero is in no kernel cache: no notification for it is
ever needed. Invariant: a node is in the table exactly while its count is above zero. Grouped by view, because
a discarded branch is dropped view by view. Owned by the loop's thread. Must not know: how a transport talks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from heliosfs.core.ids import INO_BITS, INO_MASK, ROOT_INO, Ino, NodeId, ViewNo

FUSE_ROOT: Final = 1
"""The node id on the wire of the mounted branch's root, which the kernel knows always."""

_BLOCK_BITS: Final = 6
_BLOCK: Final = 1 << _BLOCK_BITS
_LOW: Final = _BLOCK - 1
_FULL: Final = 255


class LookupTable:
    """Counts by node id: a byte each, in blocks of 64 neighbouring numbers.

    A hundred forks that are listed from end to end are a hundred times the nodes; a dict of counts took
    100 bytes for each of them, this takes 3 where numbers lie together (they are leased in blocks).
    """

    __slots__ = ("_blocks", "_more", "_views")

    def __init__(self) -> None:
        self._blocks: dict[int, bytearray] = {}
        """Counts by node >> 6."""
        self._views: dict[int, set[int]] = {}
        """The numbers of each view's blocks."""
        self._more: dict[int, int] = {}
        """What a node counts above _FULL."""

    def add(self, node: NodeId) -> None:
        """The kernel is being handed this node once more. O(1), 0.15 us."""
        block = self._blocks.get(node >> _BLOCK_BITS)
        if block is None:
            block = self._blocks[node >> _BLOCK_BITS] = bytearray(_BLOCK)
            self._views.setdefault(node >> INO_BITS, set()).add(node >> _BLOCK_BITS)
        low = node & _LOW
        count = block[low]
        if count < _FULL:
            block[low] = count + 1
        else:
            self._more[node] = self._more.get(node, 0) + 1

    def forget(self, node: NodeId, count: int) -> bool:
        """The kernel gives back `count` lookups.

        Returns:
            True if none is left. A count below zero (it can't be: a kernel's or our bug) counts as none.
        """
        block = self._blocks.get(node >> _BLOCK_BITS)
        if block is None:
            return True
        low = node & _LOW
        left = block[low] - count
        if self._more:
            left += self._more.pop(node, 0)
        if left > 0:
            block[low] = min(left, _FULL)
            if left > _FULL:
                self._more[node] = left - _FULL
            return False
        block[low] = 0
        if block.count(0) == _BLOCK:
            del self._blocks[node >> _BLOCK_BITS]
            numbers = self._views[node >> INO_BITS]
            numbers.discard(node >> _BLOCK_BITS)
            if not numbers:
                del self._views[node >> INO_BITS]
        return True

    def knows(self, node: NodeId) -> bool:
        """Whether the kernel may have this node in a cache. O(1)."""
        return self.counts(node)

    def counts(self, node: NodeId) -> bool:
        """Whether the kernel has this node from us and has not given it back. O(1)."""
        block = self._blocks.get(node >> _BLOCK_BITS)
        return block is not None and block[node & _LOW] > 0

    def knows_any(self, view: ViewNo) -> bool:
        """Whether the kernel may have anything of a view in a cache. O(1)."""
        return view in self._views

    def known(self, view: ViewNo) -> Collection[Ino]:
        """The inode numbers of a view that the kernel may know: a copy, safe to keep. O(their number)."""
        return [Ino(node & INO_MASK) for node in self._present(self._views.get(view, ()))]

    def drain(self) -> list[NodeId]:
        """Every node still counted; the table is empty afterwards.

        At an unmount the kernel sends no FORGET.
        """
        nodes = list(self._present(self._blocks))
        self._blocks.clear()
        self._views.clear()
        self._more.clear()
        return nodes

    def _present(self, numbers: Iterable[int]) -> Iterator[NodeId]:
        for number in numbers:
            for low, count in enumerate(self._blocks[number]):
                if count:
                    yield NodeId(number << _BLOCK_BITS | low)

    def __len__(self) -> int:
        return sum(_BLOCK - block.count(0) for block in self._blocks.values())


class UncountedLookups(LookupTable):
    """For a kernel that another process has served before: how often it was handed what, nobody knows any more.

    So it is taken to know every node of a tree for ever. Nodes of view 0 are handed out once each: they can go.
    """

    __slots__ = ()

    def forget(self, node: NodeId, count: int) -> bool:
        """Never the last one, but of a ticket."""
        return super().forget(node, count) and node <= INO_MASK

    def counts(self, node: NodeId) -> bool:
        """Nobody knows."""
        return False

    def knows(self, node: NodeId) -> bool:
        """It may."""
        return True

    def knows_any(self, view: ViewNo) -> bool:
        """It may."""
        return True

    def known(self, view: ViewNo) -> Collection[Ino]:
        """What was handed out since, and the root: no path into the view passes that by."""
        return {ROOT_INO, *super().known(view)}
