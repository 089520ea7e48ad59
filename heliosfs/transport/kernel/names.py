"""Names: LOOKUP, MKNOD, MKDIR, SYMLINK, LINK, CREATE, UNLINK, RMDIR, RENAME, READLINK, FORGET."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Coroutine
from struct import Struct
from typing import Any, Final

from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import INO_BITS, ROOT_INO, NodeId, ino_of, node_id, view_of
from heliosfs.filesystem.types import Caller, Entry
from heliosfs.transport.kernel.handlers import Answer, Handlers, Header
from heliosfs.transport.kernel.replies import ABSENT, entry_body, entry_reply, made_body
from heliosfs.transport.kernel.sharing import CACHED_OPEN
from heliosfs.transport.kernel.wire import (
    BODY,
    DIRECT_HANDLE,
    FOPEN_DIRECT_IO,
    OPEN_OUT,
    Layouts,
    name_at,
    names_at,
)
from heliosfs.transport.lookups import FUSE_ROOT
from heliosfs.transport.requests import CONTROL_NAME, FOREVER_S, is_control

_DOTS: Final = (b".", b"..")
_CREATE_AT: Final = BODY + Layouts.CREATE.size
_NODE: Final = Struct("=Q")
_OPENED: Final = OPEN_OUT.pack(0, 0, 0)
_DIRECT: Final = OPEN_OUT.pack(DIRECT_HANDLE, FOPEN_DIRECT_IO, 0)
_DIRECT_SINCE: Final = 40
"""Linux 6.9: since then the kernel throws away, before and after, what others have cached of the range."""
_MADE_BY_MKNOD: Final = frozenset((stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK))
_ACCESS: Final = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class NameHandlers(Handlers):
    """Everything that finds, makes or removes a name."""

    def lookup(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Find a name.

        A tree's absent names are remembered by the kernel, `.helios` and what it holds never are. `.` and `..`
        come from open_by_handle_at(2) alone.
        """
        parent = self.node(head[3])
        name = name_at(view, BODY, end)
        if is_control(parent) or (name == CONTROL_NAME and self.control.names_root(parent, name)):
            return self._lookup_control(parent, name, self.caller(head))
        if name in _DOTS:
            return self._dot(parent, name)
        found = self.fs.try_find(parent, name)
        if found is None:
            return -errno.ENOENT if name == CONTROL_NAME else ABSENT
        node, attr, generation, _ = found
        self.lookups.add(node)
        return entry_body(node, node, attr, generation, 0 if node in self.settling else FOREVER_S)

    def _dot(self, node: NodeId, name: bytes) -> Answer:
        """The node itself, or the directory above it.

        The kernel's root has another number than ours: by ours it would make a second one, and find no way from
        there to the first.
        """
        inode = self.fs.try_getattr(node)
        view = view_of(node)
        if name == b"..":
            if not inode.parent or ino_of(node) == ROOT_INO:
                raise StaleHandle("nothing is above it")
            node = node_id(view, inode.parent)
            inode = self.fs.try_getattr(node)
        if not inode.nlink:
            raise StaleHandle("it was removed")
        if node == self.root:
            return entry_body(FUSE_ROOT, node, inode, 0, 0 if node in self.settling else FOREVER_S)
        return self.handed_out(self.fs.entry(view, inode))

    def _lookup_control(self, parent: NodeId, name: bytes, caller: Caller) -> Answer | Coroutine[Any, Any, Answer]:
        if name in _DOTS:
            raise StaleHandle("control nodes have no file handles")
        entry = self.control.try_lookup(parent, name, caller)
        return self.handed_out(entry) if entry is not None else self._lookup_snapshot(parent, name, caller)

    async def _lookup_snapshot(self, parent: NodeId, name: bytes, caller: Caller) -> Answer:
        return self.handed_out(await self.control.lookup(parent, name, caller))

    def readlink(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: readlink(2)."""
        node = self.node(head[3])
        if is_control(node):
            return self.control.readlink(node)
        return self.fs.try_readlink(node)

    def mknod(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: mknod(2)."""
        mode, rdev, umask, _ = Layouts.MKNOD.unpack_from(view, BODY)
        if mode & ~0o7777 not in _MADE_BY_MKNOD:
            return -errno.EINVAL
        name = name_at(view, BODY + Layouts.MKNOD.size, end)
        return self._make(head, name, mode, umask, rdev=rdev)

    def mkdir(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: mkdir(2)."""
        mode, umask = Layouts.MKDIR.unpack_from(view, BODY)
        name = name_at(view, BODY + Layouts.MKDIR.size, end)
        return self._make(head, name, mode & 0o7777 | stat.S_IFDIR, umask)

    def symlink(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: symlink(2)."""
        name, target = names_at(view, BODY, end)
        return self._make(head, name, stat.S_IFLNK | 0o777, 0, target=target)

    def create(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Make a regular file and open it. Source: open(2) with O_CREAT."""
        flags, mode, umask, _ = Layouts.CREATE.unpack_from(view, BODY)
        name = name_at(view, _CREATE_AT, end)
        try:
            made = self._make(head, name, mode & 0o7777 | stat.S_IFREG, umask, opened=self.opened_by(flags))
            if self.sharing is not None and made.__class__ is bytes:
                self.fs.keep()
                self.sharing.created(NodeId(_NODE.unpack_from(made)[0]))
        except FsError as error:
            if error.errno == errno.EEXIST and not flags & os.O_EXCL:
                # A restore brought the name between LOOKUP and CREATE. After ESTALE open(2) looks it up anew.
                return -errno.ESTALE
            raise
        return made

    def opened_by(self, flags: int) -> bytes:
        """What the reply to CREATE says of a file that is open with these flags.

        Who only writes to it does so past the page cache: each write(2) is one WRITE, where the page cache ends a
        request at each page that it has not all of, and nobody asks for security.capability before the first.
        """
        if self.sharing is not None:
            return CACHED_OPEN
        if flags & _ACCESS != os.O_WRONLY or flags & os.O_DSYNC or self.connection.minor < _DIRECT_SINCE:
            return _OPENED
        return _DIRECT

    def _make(
        self,
        head: Header,
        name: bytes,
        mode: int,
        umask: int,
        *,
        rdev: int = 0,
        target: bytes = b"",
        opened: bytes = b"",
    ) -> Answer | Coroutine[Any, Any, Answer]:
        parent = self.node(head[3])
        if self._concerns_control(parent, name):
            return self._make_control(parent, name, mode & ~umask, self.caller(head), target or None, opened)
        fs = self.fs
        made = fs.promise_make(parent, name, mode, self.caller(head), umask & self.umask_bits, rdev, target)
        node = NodeId(made.view << INO_BITS | made.ino)
        self.lookups.add(node)
        if fs.owed is None:
            return entry_body(node, node, fs.try_getattr(node), 0, FOREVER_S) + opened
        return made_body(node, made) + opened

    async def _make_control(
        self, parent: NodeId, name: bytes, mode: int, caller: Caller, target: bytes | None, opened: bytes
    ) -> Answer:
        return self.handed_out(await self.control.make(parent, name, mode, caller, target=target)) + opened

    def link(self, head: Header, view: memoryview, end: int) -> Answer:
        """Source: link(2). Control files can't be linked, and nothing can be linked into `.helios`."""
        node = self.node(Layouts.LINK.unpack_from(view, BODY)[0])
        name = name_at(view, BODY + Layouts.LINK.size, end)
        parent = self.node(head[3])
        if is_control(node) or is_control(parent):
            return -errno.EPERM
        if name == CONTROL_NAME and self.control.names_root(parent, name):
            return -errno.EEXIST
        return self.handed_out(self.fs.try_link(node, parent, name))

    def unlink(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: unlink(2)."""
        parent = self.node(head[3])
        name = name_at(view, BODY, end)
        if self._concerns_control(parent, name):
            return _done(self.control.unlink(parent, name, self.caller(head)))
        self.fs.promise_unlink(parent, name)
        return 0

    def rmdir(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: rmdir(2)."""
        parent = self.node(head[3])
        name = name_at(view, BODY, end)
        if self._concerns_control(parent, name):
            return _done(self.control.rmdir(parent, name, self.caller(head)))
        self.fs.promise_rmdir(parent, name)
        return 0

    def rename(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: rename(2)."""
        to = Layouts.RENAME.unpack_from(view, BODY)[0]
        return self._rename(head, to, 0, *names_at(view, BODY + Layouts.RENAME.size, end))

    def rename2(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: renameat2(2)."""
        to, flags, _ = Layouts.RENAME2.unpack_from(view, BODY)
        return self._rename(head, to, flags, *names_at(view, BODY + Layouts.RENAME2.size, end))

    def _rename(
        self, head: Header, to: int, flags: int, name: bytes, new_name: bytes
    ) -> Answer | Coroutine[Any, Any, Answer]:
        parent = self.node(head[3])
        new_parent = self.node(to)
        if self._concerns_control(parent, name) or self._concerns_control(new_parent, new_name):
            return _done(self.control.rename(parent, name, new_parent, new_name, flags, self.caller(head)))
        self.fs.promise_rename(parent, name, new_parent, new_name, flags)
        return 0

    def forget(self, head: Header, view: memoryview, end: int) -> Answer:
        """The kernel has dropped a node from its caches. No reply, no errors."""
        self.uncount(head[3], Layouts.FORGET.unpack_from(view, BODY)[0])
        return None

    def batch_forget(self, head: Header, view: memoryview, end: int) -> Answer:
        """The same of many nodes."""
        at = BODY + Layouts.BATCH_FORGET.size
        size = Layouts.FORGET_ONE.size
        count = min(Layouts.BATCH_FORGET.unpack_from(view, BODY)[0], (end - at) // size)
        for node, nlookup in Layouts.FORGET_ONE.iter_unpack(view[at : at + count * size]):
            self.uncount(node, nlookup)
        return None

    def uncount(self, wire: int, count: int) -> None:
        """The kernel counts so many lookups of a node less than it was handed out."""
        if wire == FUSE_ROOT:
            return
        node = NodeId(wire)
        if self.lookups.forget(node, count):
            if is_control(node):
                self.read_tickets.discard(node)
                self.control.forget(node)
            else:
                if self.sharing is not None:
                    self.sharing.forget(node)
                self.forgotten(node)

    def _concerns_control(self, parent: NodeId, name: bytes) -> bool:
        return is_control(parent) or (name == CONTROL_NAME and self.control.names_root(parent, name))

    def handed_out(self, entry: Entry) -> bytes:
        """The reply that hands out an entry, its lookup counted."""
        self.lookups.add(entry.node)
        return entry_reply(entry, settling=entry.node in self.settling)


async def _done(work: Coroutine[Any, Any, None]) -> Answer:
    """The reply without a body, after some work."""
    await work
    return 0
