"""`-o cache=shared`: reads of stored files are the kernel's own, from one backing file for all that have a content.

An inode is in one of two modes as long as it is open (the kernel refuses, with EIO, to mix them): *cached*, its
pages its own and every request ours; or *passed through*, opens for reading alone, the pages the backing file's. So
a file is passed through only if it is stored, and nobody has it open otherwise; whoever opens it for writing
meanwhile, or after its content has changed, gets the same backing file with DIRECT_IO, which makes his reads and
writes requests. From the last close on it may be either again.

What a handle reads that was passed through before a change is the content of before, until it is opened again
(docs/transport-kernel.md). Invariants: a backing id is given back when the last handle that got it is; the counts
here are never below the kernel's. Must not know: paths, how backing files are made.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from typing import TYPE_CHECKING, Final

from heliosfs.core.ids import NodeId
from heliosfs.transport.kernel.wire import (
    FOPEN_DIRECT_IO,
    FOPEN_KEEP_CACHE,
    FOPEN_PASSTHROUGH,
    OPEN_OUT,
)

if TYPE_CHECKING:
    from heliosfs.filesystem import Filesystem
    from heliosfs.storage.backing import BackingFile

_log = logging.getLogger("heliosfs.transport")

_BACKING_OPEN: Final = 0x4010E501
_BACKING_CLOSE: Final = 0x4004E502
_BACKING_MAP: Final = struct.Struct("=iIQ")
_BACKING_ID: Final = struct.Struct("=I")

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_CACHED: Final = 1
_PASSED: Final = 2
CACHED_OPEN: Final = OPEN_OUT.pack(_CACHED, FOPEN_KEEP_CACHE, 0)
"""What the reply to OPEN or CREATE says of a file whose reads come to us."""


def may_pass_through(fd: int) -> bool:
    """Whether the kernel lets this process pass reads through on an agreed connection.

    That takes CAP_SYS_ADMIN in the first user namespace, which root of another one has not.
    """
    try:
        fcntl.ioctl(fd, _BACKING_OPEN, bytearray(_BACKING_MAP.pack(-1, 0, 0)), True)
    except OSError as error:
        return error.errno == errno.EBADF  # It has come as far as looking at the descriptor.
    return False


class _Opens:
    """How one inode is open."""

    __slots__ = ("cached", "passed")

    def __init__(self) -> None:
        self.cached = 0
        self.passed: _Passed | None = None


class _Passed:
    """A backing file that the kernel knows by an id, and how many handles have it."""

    __slots__ = ("file", "handles", "id")

    def __init__(self, file: BackingFile, id_: int) -> None:
        self.file = file
        self.id = id_
        self.handles = 1


class SharedOpens:
    """What is open on one connection, and how."""

    def __init__(self, fd: int, fs: Filesystem) -> None:
        self._fd = fd
        self._fs = fs
        self._nodes: dict[NodeId, _Opens] = {}

    async def open(self, node: NodeId, flags: int) -> bytes:
        """Open a regular file; the body of the reply. Raises FsError ESTALE, EIO.

        Suspends where a backing file has to be made.
        """
        writing = bool(flags & _WRITING)
        opens = self._nodes.get(node)
        if opens is None and not writing:
            file = await self._fs.backing(node)
            if file is not None:
                id_ = None
                try:
                    id_ = self._pass(node, file)
                finally:
                    if id_ is None:
                        self._fs.backings.give_back(file)
                if id_ is not None:
                    return OPEN_OUT.pack(_PASSED, FOPEN_PASSTHROUGH, id_)
            # Somebody may have opened it meanwhile: what is noted now counts.
            opens = self._nodes.get(node)
        if opens is None:
            opens = self._nodes[node] = _Opens()
        if opens.passed is None:
            opens.cached += 1
            return CACHED_OPEN
        same = not writing and self._fs.backing_key(node) == opens.passed.file.key
        opens.passed.handles += 1
        mode = FOPEN_PASSTHROUGH if same else FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO
        return OPEN_OUT.pack(_PASSED, mode, opens.passed.id)

    def created(self, node: NodeId) -> None:
        """CREATE has opened a new file, in its reply."""
        self._nodes.setdefault(node, _Opens()).cached += 1

    def release(self, node: NodeId, handle: int) -> None:
        """A handle is closed for good."""
        opens = self._nodes.get(node)
        if opens is None:
            return
        if handle == _CACHED:
            opens.cached -= 1
        elif handle == _PASSED and opens.passed is not None:
            opens.passed.handles -= 1
            if not opens.passed.handles:
                self._give_back(opens)
        if opens.cached <= 0 and opens.passed is None:
            del self._nodes[node]

    def forget(self, node: NodeId) -> None:
        """The kernel knows the node no longer, so nothing of it is open (a reply to OPEN may have found nobody)."""
        opens = self._nodes.pop(node, None)
        if opens is not None and opens.passed is not None:
            self._give_back(opens)

    def close(self) -> None:
        """The connection has ended, and with it every backing id."""
        for opens in self._nodes.values():
            if opens.passed is not None:
                self._fs.backings.give_back(opens.passed.file)
        self._nodes.clear()

    def _pass(self, node: NodeId, file: BackingFile) -> int | None:
        """Begin to pass a node's reads through, if nobody has opened or changed it while the file was made.

        Returns:
            The backing id.
        """
        if node in self._nodes or self._fs.backing_key(node) != file.key:
            return None
        try:
            id_: int = fcntl.ioctl(self._fd, _BACKING_OPEN, bytearray(_BACKING_MAP.pack(file.fd, 0, 0)), True)
        except OSError as error:
            _log.warning("the kernel takes no backing file: %s", error)
            return None
        opens = self._nodes[node] = _Opens()
        opens.passed = _Passed(file, id_)
        return id_

    def _give_back(self, opens: _Opens) -> None:
        assert opens.passed is not None
        try:
            fcntl.ioctl(self._fd, _BACKING_CLOSE, _BACKING_ID.pack(opens.passed.id))
        except OSError as error:
            _log.warning("the kernel does not give a backing file back: %s", error)
        self._fs.backings.give_back(opens.passed.file)
        opens.passed = None
