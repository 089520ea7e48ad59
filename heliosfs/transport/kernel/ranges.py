"""Ranges of files, and files without a name: COPY_FILE_RANGE, FALLOCATE, LSEEK, TMPFILE."""

from __future__ import annotations

import errno
import stat
from typing import Final

from heliosfs.transport.kernel.handlers import Answer, Header
from heliosfs.transport.kernel.names import NameHandlers
from heliosfs.transport.kernel.wire import BODY, COPY_OUT, LSEEK_OUT, WRITE_OUT, Layouts
from heliosfs.transport.requests import is_control

_COPY_MAX: Final = (1 << 32) - 4096
"""Bytes that the reply to the older COPY_FILE_RANGE can report."""


class RangeHandlers(NameHandlers):
    """What pyfuse3 has no handlers for. Control files have no ranges."""

    def copy_file_range(self, head: Header, view: memoryview, end: int) -> Answer:
        """Source: copy_file_range(2). Copies by reference: no data moves."""
        copied = self._copy(head, view, _COPY_MAX)
        return copied if copied < 0 else WRITE_OUT.pack(copied, 0)

    def copy_file_range_64(self, head: Header, view: memoryview, end: int) -> Answer:
        """The same, with a reply that can report more than 4 GiB."""
        copied = self._copy(head, view, (1 << 63) - 1)
        return copied if copied < 0 else COPY_OUT.pack(copied)

    def _copy(self, head: Header, view: memoryview, most: int) -> int:
        _, source_offset, to, _, offset, length, flags = Layouts.COPY_FILE_RANGE.unpack_from(view, BODY)
        source, target = self.node(head[3]), self.node(to)
        if is_control(source) or is_control(target):
            return -errno.EXDEV
        # Unlike WRITE these two don't say whether set-id bits are to go.
        kill = self.killing(target, head) if head[4] else 0
        length = min(length, most)
        return self.fs.try_copy_range(source, source_offset, target, offset, length, flags, kill_set_id=kill)

    def fallocate(self, head: Header, view: memoryview, end: int) -> Answer:
        """Source: fallocate(2)."""
        _, offset, length, mode, _ = Layouts.FALLOCATE.unpack_from(view, BODY)
        node = self.node(head[3])
        if is_control(node):
            return -errno.EPERM
        kill = self.killing(node, head) if head[4] else 0
        self.fs.try_fallocate(node, mode, offset, length, kill_set_id=kill)
        return 0

    def lseek(self, head: Header, view: memoryview, end: int) -> Answer:
        """Source: lseek(2): SEEK_DATA and SEEK_HOLE alone; the kernel does the others."""
        _, offset, whence, _ = Layouts.LSEEK.unpack_from(view, BODY)
        node = self.node(head[3])
        if is_control(node):
            return -errno.EINVAL
        return LSEEK_OUT.pack(self.fs.try_seek(node, offset, whence))

    def tmpfile(self, head: Header, view: memoryview, end: int) -> Answer:
        """Source: open(2) with O_TMPFILE."""
        flags, mode, umask, _ = Layouts.CREATE.unpack_from(view, BODY)
        parent = self.node(head[3])
        if is_control(parent):
            return -errno.EOPNOTSUPP
        made = self.fs.try_tmpfile(parent, mode & 0o7777 | stat.S_IFREG, self.caller(head), umask & self.umask_bits)
        return self.handed_out(made) + self.opened_by(flags)
