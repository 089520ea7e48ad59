"""How often the kernel has been handed each node, so that we know what it may have cached.

Every positive reply to LOOKUP, MKNOD, MKDIR, SYMLINK, LINK, CREATE and every accepted READDIRPLUS entry
counts one; FORGET takes some back. A node that counts zero is in no kernel cache: no notification for it is
ever needed. Invariant: a node is in the table exactly while its count is above zero. Grouped by view, because
a discarded branch is dropped view by view. Owned by the loop's thread. Must not know: how a transport talks.
"""

from __future__ import annotations

from collections.abc import Collection

from heliosfs.core.ids import INO_BITS, INO_MASK, Ino, NodeId, ViewNo

_NONE: dict[int, int] = {}


class LookupTable:
    """Counts by node id. About 100 bytes for a node that the kernel knows."""

    __slots__ = ("_views",)

    def __init__(self) -> None:
        self._views: dict[int, dict[int, int]] = {}

    def add(self, node: NodeId) -> None:
        """The kernel is being handed this node once more. O(1), 0.2 us."""
        counts = self._views.get(node >> INO_BITS)
        if counts is None:
            counts = self._views[node >> INO_BITS] = {}
        ino = node & INO_MASK
        counts[ino] = counts.get(ino, 0) + 1

    def forget(self, node: NodeId, count: int) -> bool:
        """The kernel gives back `count` lookups.

        Returns:
            True if none is left. A count below zero (it can't be: a kernel's or our bug) counts as none.
        """
        view = node >> INO_BITS
        counts = self._views.get(view, _NONE)
        ino = node & INO_MASK
        left = counts.get(ino, 0) - count
        if left > 0:
            counts[ino] = left
            return False
        counts.pop(ino, None)
        if not counts:
            self._views.pop(view, None)
        return True

    def knows(self, node: NodeId) -> bool:
        """Whether the kernel may have this node in a cache. O(1)."""
        return node & INO_MASK in self._views.get(node >> INO_BITS, _NONE)

    def known(self, view: ViewNo) -> Collection[Ino]:
        """The inode numbers of a view that the kernel may know: a copy, safe to keep. O(their number)."""
        return [Ino(ino) for ino in self._views.get(view, _NONE)]

    def drain(self) -> list[NodeId]:
        """Every node still counted; the table is empty afterwards.

        At an unmount the kernel sends no FORGET.
        """
        nodes = [NodeId(view << INO_BITS | ino) for view, counts in self._views.items() for ino in counts]
        self._views.clear()
        return nodes

    def __len__(self) -> int:
        return sum(len(counts) for counts in self._views.values())
