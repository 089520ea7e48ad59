"""One node of a tree that comes from elsewhere: what an import hands to the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cas.digest import ChunkId
from heliosfs.core.inode import NO_XATTRS


@dataclass(slots=True)
class ImportedNode:
    """A file, directory, link or device of an imported tree.

    Attributes:
        parent: Index of its directory in the list of nodes; -1 for the root, which is node 0.
        size: Bytes of a regular file.
        extents: (offset, length, chunk) of a regular file, canonical; None: as the branch has it at this path.
        link_to: Index of the first node that is the same file (hard link), else -1.
        orig_uid, orig_gid: The owner at the source where an unprivileged import changed it, else -1.
    """

    parent: int
    name: bytes
    mode: int
    uid: int
    gid: int
    rdev: int
    mtime_ns: int
    size: int
    xattrs: Mapping[bytes, bytes] = field(default_factory=lambda: NO_XATTRS)
    target: bytes = b""
    extents: list[tuple[int, int, ChunkId]] | None = None
    link_to: int = -1
    orig_uid: int = -1
    orig_gid: int = -1
