"""Ranges of a file's content: copied as references, allocated, zeroed, cut out; where data and holes are.

Rules of copy_file_range(2), fallocate(2) and lseek(2). No byte is moved: extents are shared, moved or dropped.
Space is not reserved: what fallocate(2) allocates stays a hole until it is written. Must not know: FUSE, disks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from heliosfs.core import extent, radix
from heliosfs.core.attributes import drop_capability
from heliosfs.core.data import regular
from heliosfs.core.errors import FsError
from heliosfs.core.ids import Ino, Lsn, ViewNo
from heliosfs.core.inode import MAX_SIZE, Inode
from heliosfs.core.oplog import CopyRange, Fallocate

if TYPE_CHECKING:
    from heliosfs.core.engine import Engine, Placed

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE, UNSHARE_RANGE = 1, 2, 8, 16, 32, 64
BLOCK: Final = 4096
"""What collapse and insert align to, and what holes are shown in multiples of: as ext4's blocks."""

COPY_EXTENTS: Final = 1024
"""Extents that one record copies: they cost 5 to 10 us each, and nobody else is served meanwhile."""

_MODES: Final = frozenset(
    (
        0,
        KEEP_SIZE,
        PUNCH_HOLE | KEEP_SIZE,
        ZERO_RANGE,
        ZERO_RANGE | KEEP_SIZE,
        COLLAPSE_RANGE,
        INSERT_RANGE,
        UNSHARE_RANGE,
        UNSHARE_RANGE | KEEP_SIZE,
    )
)


# --- copies ----------------------------------------------------------------------------------------------


def plan_copy(
    engine: Engine,
    source: tuple[ViewNo, Ino],
    source_offset: int,
    target: tuple[ViewNo, Ino],
    offset: int,
    length: int,
    now_ns: int,
) -> CopyRange | None:
    """Plan a copy of what the source has of `length` bytes from `source_offset`. None: it has nothing there.

    Of more than COPY_EXTENTS extents the first ones are copied, as copy_file_range(2) may; all of them where a
    whole file is cloned. Source and target may be of different views, and the source's may be a snapshot's.

    Raises:
        FsError: EISDIR, EINVAL (no regular file, a negative argument, overlapping ranges of one file),
            EFBIG, EROFS (the target is in a snapshot), ESTALE.
    """
    engine.writable(target[0])
    origin = engine.inode(*source)
    inode = engine.inode(*target)
    if origin.is_dir() or inode.is_dir():
        raise FsError(errno.EISDIR)
    if not (origin.is_file() and inode.is_file()) or min(source_offset, offset, length) < 0:
        raise FsError(errno.EINVAL)
    if offset >= MAX_SIZE:
        raise FsError(errno.EFBIG)
    length = min(length, origin.size - source_offset, MAX_SIZE - offset)
    if length <= 0:
        return None
    if source == target and offset < source_offset + length and source_offset < offset + length:
        raise FsError(errno.EINVAL)
    record = CopyRange(target[0], target[1], offset, source[0], source[1], source_offset, length, now_ns)
    if not _takes_all(record, origin, inode):
        # Walked here, too, so that pages which are missing are loaded before anything has changed.
        end = source_offset + length
        taken = extent.slice_of(origin.tree, source_offset, end, engine.pages, COPY_EXTENTS + 1)
        if len(taken) > COPY_EXTENTS:
            record.length = taken[-1][0] - source_offset
        extent.punch(inode.tree, offset, offset + record.length, engine.pages)
    return record


def apply_copy(engine: Engine, record: CopyRange, place: Placed) -> Inode:
    """The target after the copy. O(extents of the range), O(1) where a whole file becomes another."""
    branch = engine.branches[record.view]
    origin = engine.inode(record.source_view, record.source_ino)
    inode = engine.edit(branch, record.ino, Lsn(place.lsn))
    begin, end = record.offset, record.offset + record.length
    if _takes_all(record, origin, inode):
        inode.tree, inode.allocated = origin.tree, origin.allocated
    else:
        taken = extent.slice_of(
            origin.tree, record.source_offset, record.source_offset + record.length, engine.pages
        )
        by = begin - record.source_offset
        laid = [(at + by, piece) for at, piece in taken] if by else taken
        inode.tree, added = extent.graft(inode.tree, begin, end, laid, engine.pages)
        inode.allocated += added
    _grow(engine, record, inode, end)
    _changed(inode, record.now_ns)
    return inode


def _takes_all(record: CopyRange, origin: Inode, inode: Inode) -> bool:
    """Whether the target's whole content becomes the source's whole content, as in a clone."""
    return not record.offset and not record.source_offset and origin.size == record.length >= inode.size


# --- fallocate -------------------------------------------------------------------------------------------


def plan_fallocate(
    engine: Engine, view: ViewNo, ino: Ino, mode: int, offset: int, length: int, now_ns: int
) -> Fallocate:
    """Plan fallocate(2).

    Raises:
        FsError: EINVAL (negative or empty range; collapse and insert: not in multiples of BLOCK, or not before
            the end of the file), EOPNOTSUPP (other flags), EISDIR, ENODEV (no regular file), EFBIG, EROFS,
            ESTALE.
    """
    if offset < 0 or length <= 0:
        raise FsError(errno.EINVAL)
    if mode not in _MODES:
        raise FsError(errno.EOPNOTSUPP)
    engine.writable(view)
    inode = engine.inode(view, ino)
    if not inode.is_file():
        raise FsError(errno.EISDIR if inode.is_dir() else errno.ENODEV)
    end = offset + length
    if end > MAX_SIZE:
        raise FsError(errno.EFBIG)
    if mode & (COLLAPSE_RANGE | INSERT_RANGE):
        if offset % BLOCK or length % BLOCK:
            raise FsError(errno.EINVAL)
        if mode & INSERT_RANGE and inode.size + length > MAX_SIZE:
            raise FsError(errno.EFBIG)
        if (end if mode & COLLAPSE_RANGE else offset) >= inode.size:
            raise FsError(errno.EINVAL)
        extent.shift(inode.tree, offset, BLOCK, engine.pages)
    elif mode & (PUNCH_HOLE | ZERO_RANGE):
        extent.punch(inode.tree, offset, end, engine.pages)
    return Fallocate(view, ino, mode, offset, length, now_ns)


def apply_fallocate(engine: Engine, record: Fallocate, place: Placed) -> Inode:
    """The inode after the change. O(extents of the range); behind it too for collapse and insert."""
    branch = engine.branches[record.view]
    inode = engine.edit(branch, record.ino, Lsn(place.lsn))
    mode, offset, length = record.mode, record.offset, record.length
    end = offset + length
    if mode & (PUNCH_HOLE | ZERO_RANGE | COLLAPSE_RANGE):
        inode.tree, freed = extent.punch(inode.tree, offset, end, engine.pages)
        inode.allocated -= freed
    if mode & COLLAPSE_RANGE:
        inode.tree = extent.shift(inode.tree, end, -length, engine.pages)
        _resize(engine, record, inode, inode.size - length)
    elif mode & INSERT_RANGE:
        inode.tree = extent.shift(inode.tree, offset, length, engine.pages)
        _resize(engine, record, inode, inode.size + length)
    elif not mode & KEEP_SIZE:
        _grow(engine, record, inode, end)
    _changed(inode, record.now_ns)
    return inode


def space_wanted(inode: Inode, mode: int, offset: int, length: int, engine: Engine) -> int:
    """Bytes that fallocate(2) promises to be writable and that are not there yet. O(extents of the range)."""
    if mode & (PUNCH_HOLE | COLLAPSE_RANGE | INSERT_RANGE):
        return 0
    if mode & ZERO_RANGE:
        return length
    present = extent.slice_of(inode.tree, offset, offset + length, engine.pages)
    return length - sum([piece.length for _, piece in present])


# --- holes -----------------------------------------------------------------------------------------------


def plan_seek(engine: Engine, view: ViewNo, ino: Ino, offset: int, whence: int) -> int:
    """Where the next data (SEEK_DATA) or hole (SEEK_HOLE) at or behind `offset` begins.

    In multiples of BLOCK, as a filesystem with blocks says it: a block is a hole if nothing in it is data.
    The end of the file counts as a hole. O(log n + extents passed).

    Raises:
        FsError: ENXIO (not before the end of the file, or no data behind), EINVAL, EISDIR, ESTALE.
    """
    inode = regular(engine, view, ino)
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise FsError(errno.EINVAL)
    if not 0 <= offset < inode.size:
        raise FsError(errno.ENXIO)
    begin = offset - offset % BLOCK
    position = begin
    for at, piece in _from(inode, begin, engine):
        if at - at % BLOCK > position:
            if whence == os.SEEK_HOLE:
                break
            position = at - at % BLOCK
        if whence == os.SEEK_DATA:
            return max(offset, position)
        position = max(position, -(-(at + piece.length) // BLOCK) * BLOCK)
    else:
        if whence == os.SEEK_DATA:
            raise FsError(errno.ENXIO)
    return min(max(offset, position), inode.size)


def _from(inode: Inode, begin: int, engine: Engine) -> Iterator[tuple[int, extent.Extent]]:
    """Extents that end behind `begin`, in order."""
    first = radix.floor(inode.tree, begin, engine.pages)
    for at, piece in radix.items(inode.tree, engine.pages, first[0] if first is not None else begin):
        if at + piece.length > begin:
            yield at, piece


# --- sizes and times -------------------------------------------------------------------------------------


def _grow(engine: Engine, record: CopyRange | Fallocate, inode: Inode, end: int) -> None:
    if end > inode.size:
        _resize(engine, record, inode, end)


def _resize(engine: Engine, record: CopyRange | Fallocate, inode: Inode, size: int) -> None:
    if inode.nlink:
        engine.branches[record.view].head.size_bytes += size - inode.size
    inode.size = size


def _changed(inode: Inode, now_ns: int) -> None:
    inode.mtime_ns = inode.ctime_ns = now_ns
    if inode.xattrs:
        drop_capability(inode)
