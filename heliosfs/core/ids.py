"""Integer and byte identities, each a type of its own, and the arithmetic of node ids.

A node id is `view << 40 | ino`: it means the same after a restart, in another process and to the kernel.
View 0 belongs to the control tree. Must not know: FUSE's root alias (the transport's concern).
"""

from __future__ import annotations

from typing import Final, NewType

Ino = NewType("Ino", int)
"""Inode number, 1 <= ino < 2**40; never reused within a store. 1 is the root of every branch."""

ViewNo = NewType("ViewNo", int)
"""Number of a view (a branch or a looked-up snapshot), 1 <= view < 2**23; never reused within a store."""

NodeId = NewType("NodeId", int)
"""`view << 40 | ino`; also what st_ino shows."""

Lsn = NewType("Lsn", int)
"""Position in the log: bytes since the store was made, over all segment lives. Never falls."""

BranchId = NewType("BranchId", int)
"""Number of a branch, >= 1, never reused."""

SnapshotId = NewType("SnapshotId", int)
"""Number of a snapshot: the log position that made it. Unique in the store."""

PageId = NewType("PageId", bytes)
"""BLAKE3 of an encoded page, 32 bytes."""

ROOT_INO: Final = Ino(1)
INO_BITS: Final = 40
INO_MASK: Final = (1 << INO_BITS) - 1
CONTROL_VIEW: Final = ViewNo(0)
FIRST_CONTROL_INO: Final = Ino(INO_MASK - 0xFF)
"""Inode numbers from here on name a branch's control directories; the allocator stays below."""

LEASE_INOS: Final = 1024
"""Inode numbers a branch takes from the store's counter at a time: keeps a page's 64 records together."""


def node_id(view: ViewNo, ino: Ino) -> NodeId:
    """Join a view and an inode number. O(1)."""
    return NodeId(view << INO_BITS | ino)


def view_of(node: NodeId) -> ViewNo:
    """The view part of a node id."""
    return ViewNo(node >> INO_BITS)


def ino_of(node: NodeId) -> Ino:
    """The inode part of a node id."""
    return Ino(node & INO_MASK)
