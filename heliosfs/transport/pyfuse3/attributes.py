"""Attributes out and in: GETATTR, SETATTR, STATFS, and the two ways to fill a reply with an inode.

Filling a reply is the hottest code of this transport: one function each, no loops, no calls that can be
saved.
"""

from __future__ import annotations

from typing import Final

import pyfuse3
from pyfuse3 import EntryAttributes, RequestContext, SetattrFields, StatvfsData

from heliosfs.core.ids import NodeId
from heliosfs.filesystem.types import Attributes, Entry, SetAttr
from heliosfs.transport.pyfuse3.requests import Handlers, caller_of
from heliosfs.transport.requests import FOREVER_S, is_control, is_control_root

_NOTHING: Final = SetAttr()
_TICK_S: Final = 1e-6
"""The kernel rounds it up."""


def attributes_reply(node: NodeId, attr: Attributes, timeout_s: float) -> EntryAttributes:
    """A reply to GETATTR or SETATTR; node is what st_ino shows. 0.9 us."""
    reply = EntryAttributes()
    reply.st_ino = node
    reply.st_mode = attr.mode
    reply.st_nlink = attr.nlink
    reply.st_uid = attr.uid
    reply.st_gid = attr.gid
    reply.st_size = attr.size
    reply.st_blocks = attr.blocks
    reply.st_mtime_ns = attr.mtime_ns
    reply.st_ctime_ns = attr.ctime_ns
    reply.st_atime_ns = attr.atime_ns
    reply.attr_timeout = timeout_s
    rdev = attr.rdev
    if rdev:
        reply.st_rdev = rdev
    return reply


def entry_reply(entry: Entry, *, settling: bool = False) -> EntryAttributes:
    """A reply that hands out an entry. The caller counts the lookup.

    A name in the control tree is good for this once, the attributes of the root that it leads to as any others.
    Those of `.helios` are good for a tick of the kernel's clock: who walks through it has just looked it up.
    """
    node, attr, generation, cacheable = entry
    if is_control(node):
        reply = attributes_reply(node, attr, _TICK_S if is_control_root(node) else 0)
    else:
        reply = attributes_reply(node, attr, 0 if settling else FOREVER_S)
    reply.entry_timeout = FOREVER_S if cacheable and not settling else 0
    if generation:
        reply.generation = generation
    return reply


def absent_reply() -> EntryAttributes:
    """A reply to LOOKUP that makes the kernel remember that there is no such name."""
    reply = EntryAttributes()
    reply.st_ino = 0
    reply.entry_timeout = FOREVER_S
    return reply


def wanted(fields: SetattrFields, attr: EntryAttributes) -> SetAttr:
    """What a SETATTR asks for. ctime is the filesystem's own to set, so the kernel's is not taken."""
    return SetAttr(
        mode=attr.st_mode if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        size=attr.st_size if fields.update_size else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
    )


class AttributeHandlers(Handlers):
    """GETATTR, SETATTR, STATFS.

    libfuse does not negotiate HANDLE_KILLPRIV: before a write, and with a truncation, of somebody without
    CAP_FSETID the kernel itself asks for the mode without set-id bits. What it leaves to us is open(2) with
    O_TRUNC, and set-group-ID without group execute, for which it sends a SETATTR that sets nothing.
    """

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Source: stat(2)."""
        node = self.root if inode == 1 else NodeId(inode)
        try:
            if is_control(node):
                return self._control_reply(node, await self.control.getattr(node, caller_of(ctx)))
            if node in self.settling:
                await self.invalidator.settled(node)
            return attributes_reply(node, await self.fs.getattr(node), self.valid_s(node))
        except Exception as error:
            raise self.refusal("getattr", node, error) from None

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Source: chmod(2), chown(2), truncate(2), utimensat(2)."""
        node = self.root if inode == 1 else NodeId(inode)
        caller = caller_of(ctx)
        change = wanted(fields, attr)
        try:
            if caller.uid and (change.size is not None or change == _NOTHING):
                change = await self.without_privileges(node, change, ctx)
            if is_control(node):
                touched = change.mtime_ns is not None and change.size is None
                new = await self.control.setattr(node, change, touched, caller)
                self.start_after_reply()
                return self._control_reply(node, new)
            return attributes_reply(node, await self.fs.setattr(node, change, caller), self.valid_s(node))
        except Exception as error:
            raise self.refusal("setattr", node, error) from None

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Source: statvfs(3)."""
        try:
            numbers = await self.fs.statfs()
        except Exception as error:
            raise self.refusal("statfs", self.root, error) from None
        reply = StatvfsData()
        reply.f_bsize = numbers.f_bsize
        reply.f_frsize = numbers.f_frsize
        reply.f_blocks = numbers.f_blocks
        reply.f_bfree = numbers.f_bfree
        reply.f_bavail = numbers.f_bavail
        reply.f_files = numbers.f_files
        reply.f_ffree = numbers.f_ffree
        reply.f_favail = numbers.f_favail
        reply.f_namemax = numbers.f_namemax
        return reply

    def valid_s(self, node: NodeId) -> int:
        """How long the kernel may keep a node's attributes."""
        return 0 if node in self.settling else FOREVER_S

    def _control_reply(self, node: NodeId, attr: Attributes) -> pyfuse3.EntryAttributes:
        return attributes_reply(NodeId(getattr(attr, "st_ino_constant", node)), attr, 0)
