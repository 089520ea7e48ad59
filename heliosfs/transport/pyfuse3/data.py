"""Content: OPEN, READ, WRITE, FSYNC and what ends a handle."""

from __future__ import annotations

import errno
import mmap
import os
from typing import Final

import trio
from pyfuse3 import FileInfo, FUSEError, RequestContext

from heliosfs.core.errors import FsError
from heliosfs.core.ids import NodeId, view_of
from heliosfs.filesystem.types import SetAttr
from heliosfs.transport.pyfuse3.requests import Handlers, caller_of
from heliosfs.transport.requests import UNKNOWN_CALLER, is_control

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_EMPTY: Final = SetAttr(size=0)

_DROP_S: Final = 0.1
"""How long the reply to a direct write waits for the file's pages to be dropped. Nearly always enough, and where it
is a mistake, because the page to drop is itself waiting for the reply, short."""
_DROPS_AWAITED: Final = 64
"""Writes that may wait so: a READ whose page is waited for must find a task. (AIO has at most 12 on their way.)"""


class DataHandlers(Handlers):
    """See `OpenHandles` for the handles."""

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Open a file or a control file. O_TRUNC is part of it (ATOMIC_O_TRUNC). Source: open(2).

        Raises:
            FUSEError: ESTALE; EROFS to write in a snapshot.
        """
        node = self.root if inode == 1 else NodeId(inode)
        try:
            if is_control(node):
                caller = caller_of(ctx)
                self.openers[node] = caller
                await self.control.open(node, flags, caller)
                return FileInfo(node, True, False)
            if flags & _WRITING:
                if self.fs.is_snapshot(view_of(node)):
                    raise FsError(errno.EROFS)
                if flags & os.O_TRUNC:
                    change = await self.without_privileges(node, _EMPTY, ctx) if ctx.uid else _EMPTY
                    await self.fs.setattr(node, change, caller_of(ctx))
                    return FileInfo(self.handles.make(node, flags))
            await self.fs.getattr(node)
        except Exception as error:
            raise self.refusal("open", node, error) from None
        return FileInfo(self.handles.make(node, flags))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Source: pread(2)."""
        node = self.handles.node(fh)
        try:
            if is_control(node):
                return await self.control.read(node, off, size)
            return await self.fs.read(node, off, size)
        except Exception as error:
            raise self.refusal("read", node, error) from None

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Source: pwrite(2).

        A refused write-back of a mapping would stay visible, so the kernel forgets it. So would what others have
        read while a direct write was on its way: libfuse agrees to ASYNC_DIO unasked, and then the kernel throws
        out the pages before a write that AIO has submitted, not after it.
        """
        node = self.handles.node(fh)
        if is_control(node):
            try:
                written = await self.control.write(node, off, buf, self.openers.get(node, UNKNOWN_CALLER))
                self.start_after_reply()
                return written
            except Exception as error:
                raise self.refusal("write", node, error) from None
        try:
            if self.handles.appends(fh):
                # After a restore made the file shorter the kernel appends at the end that it remembers.
                off = min(off, (await self.fs.getattr(node)).size)
            written = await self.fs.write(node, off, buf, UNKNOWN_CALLER)
            if self.handles.direct(fh):
                await self._drop_read_meanwhile(node, aligned=not (off | written) & mmap.PAGESIZE - 1)
            return written
        except Exception as error:
            refusal = self.refusal("write", node, error)
            if node not in self.dropping:
                self.dropping.add(node)
                self.nursery.start_soon(self._drop_refused, node)
            raise refusal from None

    async def _drop_refused(self, node: NodeId) -> None:
        self.dropping.discard(node)
        await self.invalidator.drop_data(node)

    async def _drop_read_meanwhile(self, node: NodeId, *, aligned: bool) -> None:
        """Drop the pages of a file that was opened with O_DIRECT, if it can be before the reply.

        The write may have come through the page cache all the same: from a mapping, or because O_DIRECT was taken
        back for a short end (dd). Then its page is locked until the reply. Nobody tells; it waits for whole pages
        alone, and not for long. What is not dropped by then is right after.
        """
        if not aligned or self.drops_awaited >= _DROPS_AWAITED:
            self.nursery.start_soon(self.invalidator.drop_data, node)
            return
        self.drops_awaited += 1
        try:
            with trio.move_on_after(_DROP_S) as waiting:
                await self.invalidator.drop_data(node)
        finally:
            self.drops_awaited -= 1
        if waiting.cancelled_caught:
            self.nursery.start_soon(self.invalidator.drop_data, node)

    async def flush(self, fh: int) -> None:
        """Nothing is kept back, so close(2) need not ask.

        ENOSYS makes this the last FLUSH of the connection.
        """
        raise FUSEError(errno.ENOSYS)

    async def release(self, fh: int) -> None:
        """RELEASE has no errors."""
        self.handles.release(fh)

    async def fsync(self, fh: int, datasync: bool) -> None:
        """Source: fsync(2), fdatasync(2): the log holds both, so they are the same."""
        await self._sync("fsync", fh)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Source: fsync(2) of a directory."""
        await self._sync("fsyncdir", fh)

    async def _sync(self, operation: str, fh: int) -> None:
        node = self.handles.node(fh)
        if is_control(node):
            return
        try:
            await self.fs.fsync(node)
        except Exception as error:
            raise self.refusal(operation, node, error) from None
