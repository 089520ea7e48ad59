"""Content: READ, WRITE, FSYNC, and the calls around an open file, which hold nothing here."""

from __future__ import annotations

import errno
import os
from collections.abc import Coroutine, Sequence
from typing import Any

from heliosfs.core.errors import NeedPages
from heliosfs.core.extent import Piece
from heliosfs.core.ids import NodeId, view_of
from heliosfs.filesystem.door import NeedRoom
from heliosfs.transport.kernel.handlers import Answer, Handlers, Header
from heliosfs.transport.kernel.wire import (
    BODY,
    DIRECT_HANDLE,
    FOPEN_KEEP_CACHE,
    MAX_WRITE,
    OPEN_OUT,
    WRITE_KILL_SUIDGID,
    WRITE_OUT,
    Layouts,
)
from heliosfs.transport.requests import is_control

_WRITING = os.O_WRONLY | os.O_RDWR
_OPENED = OPEN_OUT.pack(0, FOPEN_KEEP_CACHE, 0)
_WRITE_AT = BODY + Layouts.WRITE.size
_unpack_read = Layouts.READ.unpack_from
_unpack_write = Layouts.WRITE.unpack_from


class DataHandlers(Handlers):
    """Requests carry the node, so nothing is kept between them, but for what `cache=shared` keeps."""

    def open(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """ENOSYS: open files hold nothing here, and the kernel need not ask again. `cache=shared`: how to read."""
        sharing = self.sharing
        if sharing is None:
            return -errno.ENOSYS
        node = self.node(head[3])
        flags: int = Layouts.OPEN.unpack_from(view, BODY)[0]
        if is_control(node):
            return _OPENED
        if flags & _WRITING and self.fs.is_snapshot(view_of(node)):
            return -errno.EROFS
        return sharing.open(node, flags)

    def opendir(self, head: Header, view: memoryview, end: int) -> Answer:
        """ENOSYS in every mode: listings are cached."""
        return -errno.ENOSYS

    def release(self, head: Header, view: memoryview, end: int) -> Answer:
        """Comes for what CREATE has opened, alone, unless OPEN is answered, too."""
        if self.sharing is not None:
            self.sharing.release(self.node(head[3]), Layouts.RELEASE.unpack_from(view, BODY)[0])
        return 0

    def read(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: pread(2)."""
        node = self.node(head[3])
        _, offset, size, _, _, _, _ = _unpack_read(view, BODY)
        if is_control(node):
            return self._read_control(node, offset, size)
        plan = self.fs.try_plan_read(node, offset, size)
        data = self.fs.reader.at_hand(plan)
        if data is not None:
            return data
        if size > MAX_WRITE:
            # No kernel asks so, and holes would be as many zeros.
            plan = self.fs.try_plan_read(node, offset, MAX_WRITE)
        return self._read_cold(plan)

    async def _read_cold(self, plan: Sequence[Piece]) -> Answer:
        return await self.fs.reader.read(plan)

    async def _read_control(self, node: NodeId, offset: int, size: int) -> Answer:
        await self.dropped(node)
        data = await self.control.read(node, offset, size)
        self.read_tickets.add(node)
        return data

    def write(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: pwrite(2).

        A refused write-back of a mapping would stay visible, so the kernel forgets it.
        """
        node = self.node(head[3])
        handle, offset, size, write_flags, _, flags, _ = _unpack_write(view, BODY)
        stop = _WRITE_AT + size
        if stop > end:
            return -errno.EINVAL
        if is_control(node):
            return self._write_control(node, offset, view[_WRITE_AT:stop].tobytes(), head)
        fs = self.fs
        try:
            if flags & os.O_APPEND:
                # After a restore made the file shorter the kernel appends at the end that it remembers.
                offset = min(offset, fs.try_getattr(node).size)
            kill = self.killing(node, head) if write_flags & WRITE_KILL_SUIDGID else 0
            written = fs.promise_write(node, offset, view[_WRITE_AT:stop], kill_set_id=kill)
            if self.waits_for_the_disk(handle, flags):
                fs.keep()
                return self.synced(node, written)
            return WRITE_OUT.pack(written, 0)
        except (NeedPages, NeedRoom):
            raise
        except Exception:
            self.drop_pages(node)
            raise

    def waits_for_the_disk(self, handle: int, flags: int) -> bool:
        """Whether a write is answered when it is durable: RWF_DSYNC, past the page cache. No FSYNC follows it."""
        return bool(flags & os.O_DSYNC) and handle == DIRECT_HANDLE and self.sharing is None

    async def synced(self, node: NodeId, written: int) -> Answer:
        """The reply to a write, once that survives power loss."""
        await self.fs.fsync(node)
        return WRITE_OUT.pack(written, 0)

    async def _write_control(self, node: NodeId, offset: int, content: bytes, head: Header) -> Answer:
        end = offset + len(content)
        before = (await self.control.getattr(node, self.caller(head))).size
        written = await self.control.write(node, offset, content, self.caller(head))
        if node in self.read_tickets:
            # A page that was read is in the cache, with what was written now on top of it; and the size that the
            # kernel asks for while we have that dropped counts for nothing.
            size = (await self.control.getattr(node, self.caller(head))).size
            self.read_tickets.discard(node)
            self.drop_pages(node, size if size > max(before, end) else 0)
        return WRITE_OUT.pack(written, 0)

    def flush(self, head: Header, view: memoryview, end: int) -> Answer:
        """Nothing is kept back, so close(2) need not ask. ENOSYS makes this the last FLUSH of the connection."""
        return -errno.ENOSYS

    async def fsync(self, head: Header, view: memoryview, end: int) -> Answer:
        """Source: fsync(2), fdatasync(2), of files and directories: the log holds all, so they are the same."""
        node = self.node(head[3])
        if not is_control(node):
            await self.fs.fsync(node)
        return 0
