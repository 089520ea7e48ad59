"""Ranges of files: copies by reference, fallocate, holes; and files without a name.

Each operation comes twice, as in immediate.py and files.py: `try_` does it at once or raises NeedPages or NeedRoom.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import Final

from heliosfs.core import namespace, ranges
from heliosfs.core.errors import FsError
from heliosfs.core.ids import INO_BITS, INO_MASK, Ino, NodeId, ViewNo
from heliosfs.filesystem.door import NeedRoom
from heliosfs.filesystem.files import FileOperations
from heliosfs.filesystem.types import Caller, Entry

WHOLE_FILE: Final = (1 << 63) - 1
"""As length of a copy: all there is."""


class RangeOperations(FileOperations):
    """What pyfuse3 has no handler for; errors as in `FileOperations`."""

    def try_copy_range(
        self,
        source: NodeId,
        source_offset: int,
        target: NodeId,
        offset: int,
        length: int,
        flags: int,
        *,
        kill_set_id: int = 0,
    ) -> int:
        """Make a range of `target` hold what a range of `source` holds, as references: no data moves.

        One record, whole or not at all; O(extents of the range). Holes are copied as holes. The two may be in
        different branches, the source in a snapshot. A clone of a whole file is (source, 0, target, 0,
        WHOLE_FILE) to an empty file, and O(1).

        Args:
            kill_set_id: As for `try_write`, of the target.

        Returns:
            Bytes copied: less than asked where the source ends or has more than COPY_EXTENTS extents, 0 at or
            behind its end.

        Raises:
            FsError: EINVAL (flags, negative arguments, overlapping ranges of one file, no regular file), EISDIR,
                EFBIG. OSError: ENOSPC.
        """
        if flags:
            raise FsError(errno.EINVAL)
        if self.crowded:
            raise NeedRoom
        record = ranges.plan_copy(
            self.engine, _split(source), source_offset, _split(target), offset, length, self.now()
        )
        if record is None:
            return 0
        if kill_set_id and self.took_set_id(target, kill_set_id):
            record.now_ns = self.now()
        self.carry_out(record)
        return record.length

    def try_fallocate(self, node: NodeId, mode: int, offset: int, length: int, *, kill_set_id: int = 0) -> None:
        """fallocate(2), every mode of a local filesystem: 0, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, COLLAPSE_RANGE,
        INSERT_RANGE, UNSHARE_RANGE.

        No space is reserved: the range stays a hole, and what others write meanwhile may use up the disk. But a
        request for more than is free is refused.

        Args:
            kill_set_id: As for `try_write`.

        Raises:
            FsError: EINVAL, EOPNOTSUPP (flags), EISDIR, ENODEV, EFBIG, ENOSPC.
        """
        frees = bool(mode & (ranges.PUNCH_HOLE | ranges.COLLAPSE_RANGE))
        if self.crowded and not frees:
            raise NeedRoom
        view, ino = _split(node)
        record = ranges.plan_fallocate(self.engine, view, ino, mode, offset, length, self.now())
        wanted = ranges.space_wanted(self.engine.inode(view, ino), mode, offset, length, self.engine)
        if wanted and wanted > self.space.room(self.persister.unstored):
            raise FsError(errno.ENOSPC)
        if kill_set_id and self.took_set_id(node, kill_set_id):
            record.now_ns = self.now()
        (self.carry_out_release if frees else self.carry_out)(record)

    def try_seek(self, node: NodeId, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE. Raises FsError ENXIO (no data there), EINVAL."""
        return ranges.plan_seek(self.engine, *_split(node), offset, whence)

    def try_tmpfile(self, parent: NodeId, mode: int, caller: Caller, umask: int = 0) -> Entry:
        """A regular file without a name in a directory (O_TMPFILE); `umask` as of `try_make`.

        It has no link until `link` gives it one, and goes with the kernel's FORGET.
        Raises FsError ENOTDIR, ENOENT.
        """
        view, ino = _split(parent)
        plan, who = namespace.plan_make_unnamed, (caller.uid, caller.gid)
        return self.entry(view, self.try_change(plan, self.engine, view, ino, mode, *who, self.now(), umask))

    async def copy_range(
        self,
        source: NodeId,
        source_offset: int,
        target: NodeId,
        offset: int,
        length: int,
        flags: int,
        caller: Caller,
    ) -> int:
        """A range of a file becomes that of another, by reference. Returns bytes copied."""
        act = partial(self.try_copy_range, kill_set_id=caller.uid != 0)
        return await self.settled(act, source, source_offset, target, offset, length, flags)

    async def fallocate(self, node: NodeId, mode: int, offset: int, length: int, caller: Caller) -> None:
        """fallocate(2)."""
        await self.settled(partial(self.try_fallocate, kill_set_id=caller.uid != 0), node, mode, offset, length)

    async def seek(self, node: NodeId, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE. Raises FsError ENXIO, EINVAL."""
        return await self.settled(self.try_seek, node, offset, whence)

    async def tmpfile(self, parent: NodeId, mode: int, caller: Caller) -> Entry:
        """A regular file without a name. Raises FsError ENOTDIR, ENOENT."""
        return await self.settled(self.try_tmpfile, parent, mode, caller)


def _split(node: NodeId) -> tuple[ViewNo, Ino]:
    return ViewNo(node >> INO_BITS), Ino(node & INO_MASK)
