"""Content of regular files: write(2) and where read(2) finds its bytes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from heliosfs.core import extent
from heliosfs.core.attributes import drop_capability
from heliosfs.core.errors import FsError
from heliosfs.core.extent import Extent, LogData, Piece
from heliosfs.core.ids import Ino, Lsn, ViewNo
from heliosfs.core.inode import MAX_SIZE, Inode
from heliosfs.core.oplog import Write
from heliosfs.core.radix import Leaf

if TYPE_CHECKING:
    from heliosfs.core.engine import Engine, Placed


def regular(engine: Engine, view: ViewNo, ino: Ino) -> Inode:
    """The inode of a file with content. Raises FsError: ESTALE, EISDIR, EINVAL."""
    inode = engine.inode(view, ino)
    if not inode.is_file():
        raise FsError(errno.EISDIR if inode.is_dir() else errno.EINVAL)
    return inode


def plan_write(engine: Engine, view: ViewNo, ino: Ino, offset: int, length: int, now_ns: int) -> Write:
    """Plan a write of `length` > 0 bytes, which become the record's payload.

    Raises:
        FsError: EROFS, ESTALE, EISDIR, EINVAL (no regular file), EFBIG.
    """
    engine.writable(view)
    inode = regular(engine, view, ino)
    if offset < 0 or offset + length > MAX_SIZE:
        raise FsError(errno.EFBIG)
    if offset < inode.size and type(inode.tree) is not Leaf and inode.tree is not None:
        # So that applying it finds the pages. (A leaf has none below it.)
        extent.punch(inode.tree, offset, offset + length, engine.pages)
    return Write(view, ino, offset, now_ns)


def apply_write(engine: Engine, record: Write, place: Placed) -> Inode:
    """The inode after the write."""
    branch = engine.branches[record.view]
    inode = engine.edit(branch, record.ino, Lsn(place.lsn))
    length = place.length
    offset = record.offset
    source = LogData(place.life, place.offset, length, place.sums)
    if offset >= inode.size:
        inode.tree = extent.append(inode.tree, offset, Extent(length, source, 0), engine.pages)
        added = length
    else:
        inode.tree, added = extent.put(inode.tree, offset, Extent(length, source, 0), engine.pages)
    inode.allocated += added
    end = offset + length
    if end > inode.size:
        if inode.nlink:
            branch.head.size_bytes += end - inode.size
        inode.size = end
    inode.mtime_ns = inode.ctime_ns = record.now_ns
    if inode.xattrs:
        drop_capability(inode)
    return inode


def plan_read(engine: Engine, view: ViewNo, ino: Ino, offset: int, length: int) -> list[Piece]:
    """Describe how to satisfy a read, without performing it.

    Args:
        offset: Bytes from the start of the file, >= 0; may exceed its size.
        length: Bytes wanted, >= 0.

    Returns:
        Adjoining pieces in order, min(length, size - offset) bytes in all.

    Raises:
        FsError: ESTALE, EISDIR, EINVAL. NeedPages.
    """
    inode = regular(engine, view, ino)
    return extent.pieces(inode.tree, offset, min(length, inode.size - offset), engine.pages)
