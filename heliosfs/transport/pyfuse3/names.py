"""Names: LOOKUP, MKNOD, MKDIR, SYMLINK, LINK, CREATE, UNLINK, RMDIR, RENAME, READLINK, FORGET."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Final

from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from heliosfs.core.errors import Damaged, FsError
from heliosfs.core.ids import NodeId
from heliosfs.filesystem.types import Entry
from heliosfs.transport.lookups import FUSE_ROOT
from heliosfs.transport.pyfuse3.attributes import absent_reply, attributes_reply, entry_reply
from heliosfs.transport.pyfuse3.requests import Handlers, caller_of
from heliosfs.transport.requests import CONTROL_NAME, FOREVER_S, is_control

_ABSENT: Final = absent_reply()


class NameHandlers(Handlers):
    """Everything that finds, makes or removes a name."""

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Find a name.

        A tree's absent names are remembered by the kernel, `.helios` and what it holds never are.
        """
        parent = self.root if parent_inode == 1 else NodeId(parent_inode)
        if is_control(parent) or name == CONTROL_NAME:
            return await self._lookup_control(parent, name, ctx)
        try:
            node, attr, generation, cacheable = await self.fs.lookup(parent, name)
        except FsError as error:
            if error.errno == errno.ENOENT:
                return _ABSENT
            if isinstance(error, Damaged):
                raise self.refusal("lookup", parent, error) from None
            raise FUSEError(error.errno) from None
        except Exception as error:
            raise self.refusal("lookup", parent, error) from None
        self.lookups.add(node)
        timeout_s = FOREVER_S if cacheable and node not in self.settling else 0
        reply = attributes_reply(node, attr, timeout_s)
        reply.entry_timeout = timeout_s
        if generation:
            reply.generation = generation
        return reply

    async def _lookup_control(self, parent: NodeId, name: bytes, ctx: RequestContext) -> EntryAttributes:
        try:
            if is_control(parent) or self.control.names_root(parent, name):
                return self._handed_out(await self.control.lookup(parent, name, caller_of(ctx)))
            return self._handed_out(await self.fs.lookup(parent, name))
        except Exception as error:
            raise self.refusal("lookup", parent, error) from None

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """Source: readlink(2)."""
        node = NodeId(inode)
        try:
            if is_control(node):
                return await self.control.readlink(node)
            return await self.fs.readlink(node)
        except Exception as error:
            raise self.refusal("readlink", node, error) from None

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Source: mknod(2). The kernel has applied the umask."""
        return await self._make("mknod", parent_inode, name, mode, ctx, rdev=rdev)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """Source: mkdir(2)."""
        return await self._make("mkdir", parent_inode, name, mode, ctx)

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """Source: symlink(2)."""
        return await self._make("symlink", parent_inode, name, stat.S_IFLNK | 0o777, ctx, target=target)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """Make a regular file and open it. Source: open(2) with O_CREAT."""
        try:
            reply = await self._make("create", parent_inode, name, mode & 0o7777 | stat.S_IFREG, ctx)
        except FUSEError as error:
            if error.errno == errno.EEXIST and not flags & os.O_EXCL:
                # A restore brought the name between LOOKUP and CREATE. After ESTALE open(2) looks it up anew.
                raise FUSEError(errno.ESTALE) from None
            raise
        node = reply.st_ino
        if is_control(node):
            self.openers[node] = caller_of(ctx)
            return FileInfo(node, True, False), reply
        return FileInfo(self.handles.make(NodeId(node), flags)), reply

    async def _make(
        self,
        operation: str,
        parent_inode: int,
        name: bytes,
        mode: int,
        ctx: RequestContext,
        *,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> EntryAttributes:
        parent = self.root if parent_inode == 1 else NodeId(parent_inode)
        caller = caller_of(ctx)
        try:
            if is_control(parent) or (name == CONTROL_NAME and self.control.names_root(parent, name)):
                entry = await self.control.make(parent, name, mode, caller, target=target)
                self.start_after_reply()
            else:
                entry = await self.fs.make(parent, name, mode, caller, rdev=rdev, target=target)
        except Exception as error:
            raise self.refusal(operation, parent, error) from None
        return self._handed_out(entry)

    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """Source: link(2). Control files can't be linked, and nothing can be linked into `.helios`."""
        node = NodeId(inode)
        parent = self.root if new_parent_inode == 1 else NodeId(new_parent_inode)
        if is_control(node) or is_control(parent):
            raise FUSEError(errno.EPERM)
        if new_name == CONTROL_NAME and self.control.names_root(parent, new_name):
            raise FUSEError(errno.EEXIST)
        try:
            return self._handed_out(await self.fs.link(node, parent, new_name, caller_of(ctx)))
        except Exception as error:
            raise self.refusal("link", node, error) from None

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Source: unlink(2)."""
        parent = self.root if parent_inode == 1 else NodeId(parent_inode)
        try:
            if is_control(parent) or (name == CONTROL_NAME and self.control.names_root(parent, name)):
                await self.control.unlink(parent, name, caller_of(ctx))
                self.start_after_reply()
            else:
                await self.fs.unlink(parent, name, caller_of(ctx))
        except Exception as error:
            raise self.refusal("unlink", parent, error) from None

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Source: rmdir(2)."""
        parent = self.root if parent_inode == 1 else NodeId(parent_inode)
        try:
            if is_control(parent) or (name == CONTROL_NAME and self.control.names_root(parent, name)):
                await self.control.rmdir(parent, name, caller_of(ctx))
                self.start_after_reply()
            else:
                await self.fs.rmdir(parent, name, caller_of(ctx))
        except Exception as error:
            raise self.refusal("rmdir", parent, error) from None

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """Source: rename(2), renameat2(2)."""
        root = self.root
        parent = root if parent_inode_old == 1 else NodeId(parent_inode_old)
        new_parent = root if parent_inode_new == 1 else NodeId(parent_inode_new)
        try:
            if self._concerns_control(parent, name_old) or self._concerns_control(new_parent, name_new):
                await self.control.rename(parent, name_old, new_parent, name_new, flags, caller_of(ctx))
                self.start_after_reply()
            else:
                await self.fs.rename(parent, name_old, new_parent, name_new, flags, caller_of(ctx))
        except Exception as error:
            raise self.refusal("rename", parent, error) from None

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """The kernel has dropped these nodes from its caches. No reply, no errors."""
        lookups, fs, control = self.lookups, self.fs, self.control
        for inode, count in inode_list:
            if inode == FUSE_ROOT:
                continue
            node = NodeId(inode)
            if lookups.forget(node, count):
                if is_control(node):
                    self.openers.pop(node, None)
                    control.forget(node)
                else:
                    fs.forget(node)

    def _concerns_control(self, parent: NodeId, name: bytes) -> bool:
        return is_control(parent) or (name == CONTROL_NAME and self.control.names_root(parent, name))

    def _handed_out(self, entry: Entry) -> EntryAttributes:
        self.lookups.add(entry.node)
        return entry_reply(entry, settling=entry.node in self.settling)
