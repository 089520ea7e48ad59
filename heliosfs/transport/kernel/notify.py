"""Notifications, as bytes for /dev/fuse: what the kernel is to forget, to learn, or to send again.

Called from a thread (invalidate.py says why): each write may wait for a lock or a page. Must not know: why.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from heliosfs.transport.kernel.wire import (
    INVAL_ENTRY_OUT,
    INVAL_INODE_OUT,
    NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_INODE,
    NOTIFY_RESEND,
    NOTIFY_STORE,
    OUT_HEADER,
    STORE_OUT,
)

_ALL: Final = 0
_ATTRIBUTES: Final = -1


class KernelNotifier:
    """Writes notifications to one connection. Every method may raise OSError, ENODEV when it has ended."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def inode(self, node: int, data: bool) -> None:
        """Forget an inode's attributes, and its pages if `data`. ENOENT: the kernel does not know it."""
        self._send(NOTIFY_INVAL_INODE, INVAL_INODE_OUT.pack(node, _ALL if data else _ATTRIBUTES, 0))

    def entry(self, parent: int, name: bytes) -> None:
        """Forget a name. ENOENT: the kernel does not know the directory or the name."""
        self._send(NOTIFY_INVAL_ENTRY, INVAL_ENTRY_OUT.pack(parent, len(name), 0), name + b"\0")

    def grow(self, node: int, size: int) -> None:
        """Extend the kernel's idea of a file to `size` > 0 bytes.

        One byte behind the old end moves the end; the page it lies in is not up to date, and is dropped next.
        """
        self.store(node, size - 1, b"\0")

    def store(self, node: int, offset: int, data: bytes) -> None:
        """Put bytes into a file's page cache unasked."""
        self._send(NOTIFY_STORE, STORE_OUT.pack(node, offset, len(data), 0), data)

    def resend(self) -> bool:
        """Have everything sent again that was read and not answered. False: this kernel can't (< 7.40)."""
        try:
            self._send(NOTIFY_RESEND)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
        return True

    def _send(self, code: int, *parts: bytes) -> None:
        length = OUT_HEADER.size + sum(map(len, parts))
        os.write(self._fd, b"".join((OUT_HEADER.pack(length, code, 0), *parts)))
