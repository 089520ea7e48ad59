"""How often the kernel has been handed each node, so that we know what it may have cached.

Every positive reply to LOOKUP, MKNOD, MKDIR, SYMLINK, LINK, CREATE and every accepted READDIRPLUS entry
counts one; FORGET takes some back. A node that counts zero is in no kernel cache: no notification for it is
ever needed. Invariant: a node is in the table exactly while its count is above zero. Grouped by view, because
a discarded branch is dropped view by view. Owned by the loop's thread. Must not know: how a transport talks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from heliosfs.core.ids import INO_BITS, INO_MASK, ROOT_INO, Ino, NodeId, ViewNo

_BLOCK_BITS: Final = 6
_BLOCK: Final = 1 << _BLOCK_BITS
_LOW: Final = _BLOCK - 1
_FULL: Final = 255
_NONE: Final[dict[int, bytearray]] = {}


class LookupTable:
    """Counts by node id: a byte each, in blocks of 64 neighbouring numbers.

    A hundred forks that are listed from end to end are a hundred times the nodes; a dict of counts took
    100 bytes for each of them, this takes 3 where numbers lie together (they are leased in blocks).
    """

    __slots__ = ("_more", "_views")

    def __init__(self) -> None:
        self._views: dict[int, dict[int, bytearray]] = {}
        self._more: dict[int, int] = {}
        """What a node counts above _FULL."""

    def add(self, node: NodeId) -> None:
        """The kernel is being handed this node once more. O(1), 0.2 us."""
        blocks = self._views.get(node >> INO_BITS)
        if blocks is None:
            blocks = self._views[node >> INO_BITS] = {}
        ino = node & INO_MASK
        block = blocks.get(ino >> _BLOCK_BITS)
        if block is None:
            block = blocks[ino >> _BLOCK_BITS] = bytearray(_BLOCK)
        count = block[ino & _LOW]
        if count < _FULL:
            block[ino & _LOW] = count + 1
        else:
            self._more[node] = self._more.get(node, 0) + 1

    def forget(self, node: NodeId, count: int) -> bool:
        """The kernel gives back `count` lookups.

        Returns:
            True if none is left. A count below zero (it can't be: a kernel's or our bug) counts as none.
        """
        view = node >> INO_BITS
        ino = node & INO_MASK
        blocks = self._views.get(view, _NONE)
        block = blocks.get(ino >> _BLOCK_BITS)
        if block is None:
            return True
        left = block[ino & _LOW] + self._more.pop(node, 0) - count
        if left > 0:
            block[ino & _LOW] = min(left, _FULL)
            if left > _FULL:
                self._more[node] = left - _FULL
            return False
        block[ino & _LOW] = 0
        if block.count(0) == _BLOCK:
            del blocks[ino >> _BLOCK_BITS]
            if not blocks:
                del self._views[view]
        return True

    def knows(self, node: NodeId) -> bool:
        """Whether the kernel may have this node in a cache. O(1)."""
        ino = node & INO_MASK
        block = self._views.get(node >> INO_BITS, _NONE).get(ino >> _BLOCK_BITS)
        return block is not None and block[ino & _LOW] > 0

    def knows_any(self, view: ViewNo) -> bool:
        """Whether the kernel may have anything of a view in a cache. O(1)."""
        return view in self._views

    def known(self, view: ViewNo) -> Collection[Ino]:
        """The inode numbers of a view that the kernel may know: a copy, safe to keep. O(their number)."""
        return list(_present(self._views.get(view, _NONE)))

    def drain(self) -> list[NodeId]:
        """Every node still counted; the table is empty afterwards.

        At an unmount the kernel sends no FORGET.
        """
        nodes = [NodeId(view << INO_BITS | ino) for view, blocks in self._views.items() for ino in _present(blocks)]
        self._views.clear()
        self._more.clear()
        return nodes

    def __len__(self) -> int:
        return sum(_BLOCK - block.count(0) for blocks in self._views.values() for block in blocks.values())


class UncountedLookups(LookupTable):
    """For a kernel that another process has served before: how often it was handed what, nobody knows any more.

    So it is taken to know every node of a tree for ever. Nodes of view 0 are handed out once each: they can go.
    """

    __slots__ = ()

    def forget(self, node: NodeId, count: int) -> bool:
        """Never the last one, but of a ticket."""
        return super().forget(node, count) and node <= INO_MASK

    def knows(self, node: NodeId) -> bool:
        """It may."""
        return True

    def knows_any(self, view: ViewNo) -> bool:
        """It may."""
        return True

    def known(self, view: ViewNo) -> Collection[Ino]:
        """What was handed out since, and the root: no path into the view passes that by."""
        return {ROOT_INO, *super().known(view)}


def _present(blocks: dict[int, bytearray]) -> Iterator[Ino]:
    for number, block in blocks.items():
        for low, count in enumerate(block):
            if count:
                yield Ino(number << _BLOCK_BITS | low)
