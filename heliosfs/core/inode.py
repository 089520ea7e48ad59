"""One file, directory, link or device: its record.

An inode is edited in place only by the view in which it was born after that view's last freeze
(`View.edit`); everybody else treats it as immutable (invariant 3). Must not know: names, views, the log.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import Final

from heliosfs.core.ids import Ino, Lsn
from heliosfs.core.radix import Tree

NO_XATTRS: Final[Mapping[bytes, bytes]] = {}
MAX_SIZE: Final = (1 << 63) - 1
BLOCK: Final = 512


class Inode:
    """What stat(2) shows and where the content is.

    Attributes:
        ino: Its number.
        born: Log position of the record that made this copy; 0 for one decoded from a page.
        mode: Type and permission bits.
        size: Bytes; for a directory the number of its entries; for a link the length of its target.
        allocated: Bytes of a regular file that are data, not hole.
        mtime_ns, ctime_ns, btime_ns: Nanoseconds since 1970, may be negative. ctime is unique per change in a
            store (the door's clock never stands still), so equal numbers and ctimes mean equal records.
        atime_set_ns: What utimensat set, None if it never did.
        parent: Of a directory: the directory that holds it (its own number for the root). Of a regular file
            that was made without a name and has none yet: the directory it was made in. Else 0.
        target: Of a symbolic link: where it points.
        xattrs: Never edited, only replaced.
        tree: Directory entries or extents.
    """

    __slots__ = (
        "allocated",
        "atime_set_ns",
        "born",
        "btime_ns",
        "ctime_ns",
        "gid",
        "ino",
        "mode",
        "mtime_ns",
        "nlink",
        "parent",
        "rdev",
        "size",
        "target",
        "tree",
        "uid",
        "xattrs",
    )

    def __init__(
        self,
        ino: Ino,
        born: Lsn,
        mode: int,
        uid: int,
        gid: int,
        time_ns: int,
        *,
        nlink: int = 1,
        rdev: int = 0,
        parent: Ino = Ino(0),  # noqa: B008 - a NewType of int
        target: bytes = b"",
        xattrs: Mapping[bytes, bytes] = NO_XATTRS,
    ) -> None:
        self.ino = ino
        self.born = born
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.nlink = nlink
        self.rdev = rdev
        self.size = len(target)
        self.allocated = 0
        self.mtime_ns = time_ns
        self.ctime_ns = time_ns
        self.btime_ns = time_ns
        self.atime_set_ns: int | None = None
        self.parent = parent
        self.target = target
        self.xattrs = xattrs
        self.tree: Tree = None

    def copy(self, born: Lsn) -> Inode:
        """A copy that may be edited, sharing trees and xattrs. About 1 us."""
        new = object.__new__(Inode)
        new.ino = self.ino
        new.born = born
        new.mode = self.mode
        new.uid = self.uid
        new.gid = self.gid
        new.nlink = self.nlink
        new.rdev = self.rdev
        new.size = self.size
        new.allocated = self.allocated
        new.mtime_ns = self.mtime_ns
        new.ctime_ns = self.ctime_ns
        new.btime_ns = self.btime_ns
        new.atime_set_ns = self.atime_set_ns
        new.parent = self.parent
        new.target = self.target
        new.xattrs = self.xattrs
        new.tree = self.tree
        return new

    @property
    def atime_ns(self) -> int:
        """Last access as stat shows it: reads are not recorded, so mtime unless utimensat set it."""
        atime = self.atime_set_ns
        return self.mtime_ns if atime is None else atime

    @property
    def blocks(self) -> int:
        """st_blocks: 512-byte blocks allocated."""
        return (self.allocated + BLOCK - 1) // BLOCK

    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.mode & 0o170000 == stat.S_IFDIR

    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.mode & 0o170000 == stat.S_IFREG

    def __repr__(self) -> str:
        return f"<Inode {self.ino} {stat.filemode(self.mode)} size={self.size} nlink={self.nlink}>"


def same_record(a: Inode | None, b: Inode | None) -> bool:
    """Whether two versions of one inode number are the same version. O(1); see `ctime_ns`."""
    if a is b:
        return True
    return a is not None and b is not None and a.ctime_ns == b.ctime_ns and a.nlink == b.nlink
