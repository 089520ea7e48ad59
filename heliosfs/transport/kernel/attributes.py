"""Attributes out and in: GETATTR, STATX, SETATTR, ACCESS, STATFS."""

from __future__ import annotations

import errno
import time
from collections.abc import Coroutine
from typing import Any, Final

from heliosfs.core.ids import NodeId
from heliosfs.filesystem.types import Caller, SetAttr
from heliosfs.transport.kernel.handlers import Answer, Handlers, Header
from heliosfs.transport.kernel.replies import (
    ATTRIBUTES,
    attributes_body,
    control_body,
    entry_body,
    shown_ino,
    statx_body,
)
from heliosfs.transport.kernel.wire import BODY, STATFS_OUT, Layouts, SetAttrBit
from heliosfs.transport.membership import is_member
from heliosfs.transport.requests import FOREVER_S, is_control

_SECOND: Final = 1_000_000_000
_SIGN: Final = 1 << 63
_NOTHING: Final = SetAttr()


def wanted(view: memoryview) -> SetAttr:
    """What a SETATTR asks for. ctime is the filesystem's own to set, so the kernel's is not taken."""
    bits, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = Layouts.SETATTR.unpack_from(
        view, BODY
    )
    return SetAttr(
        mode=mode if bits & SetAttrBit.MODE else None,
        uid=uid if bits & SetAttrBit.UID else None,
        gid=gid if bits & SetAttrBit.GID else None,
        size=size if bits & SetAttrBit.SIZE else None,
        atime_ns=_time_ns(bits & SetAttrBit.ATIME_NOW, atime, atime_ns) if bits & SetAttrBit.ATIME else None,
        mtime_ns=_time_ns(bits & SetAttrBit.MTIME_NOW, mtime, mtime_ns) if bits & SetAttrBit.MTIME else None,
        kill_set_id=bool(bits & SetAttrBit.KILL_SUIDGID),
    )


def _time_ns(now: int, seconds: int, nanoseconds: int) -> int:
    if now:
        return time.time_ns()
    return (seconds - ((seconds & _SIGN) << 1)) * _SECOND + nanoseconds


class AttributeHandlers(Handlers):
    """GETATTR, STATX, SETATTR, ACCESS, STATFS."""

    def getattr(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: stat(2)."""
        node = self.node(head[3])
        if is_control(node):
            if node in self.dropping:
                return self._getattr_dropped(node)
            return control_body(node, self.control.try_getattr(node))
        if node in self.settling:
            return self._getattr_settled(node)
        return entry_body(0, node, self.fs.try_getattr(node), 0, FOREVER_S)[ATTRIBUTES]

    async def _getattr_settled(self, node: NodeId) -> Answer:
        await self.invalidator.settled(node)
        return attributes_body(node, await self.fs.getattr(node), self.valid_s(node))

    def valid_s(self, node: NodeId) -> int:
        """How long the kernel may keep a node's attributes."""
        return 0 if node in self.settling else FOREVER_S

    async def _getattr_dropped(self, node: NodeId) -> Answer:
        # A reader comes here before he reads what he has just written to: his own text must be gone then.
        await self.dropped(node)
        return control_body(node, self.control.try_getattr(node))

    def statx(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: statx(2), where the time of birth is asked for."""
        node = self.node(head[3])
        if is_control(node):
            attr = self.control.try_getattr(node)
            return statx_body(shown_ino(node, attr), attr, 0)
        return statx_body(node, self.fs.try_getattr(node), self.valid_s(node))

    def setattr(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: chmod(2), chown(2), truncate(2), utimensat(2)."""
        node = self.node(head[3])
        change = wanted(view)
        if is_control(node):
            return self._setattr_control(node, change, self.caller(head))
        if change.kill_set_id:
            change = change._replace(kill_set_id=self.killing(node, head))
        if change == _NOTHING:
            return self._setattr_nothing(node, head)
        return entry_body(0, node, self.fs.try_setattr(node, change), 0, self.valid_s(node))[ATTRIBUTES]

    def _setattr_nothing(self, node: NodeId, head: Header) -> Answer:
        """chown(2) with neither user nor group: set-id bits go as with any other owner, by root and the owner.

        The kernel sends the same before FALLOCATE and COPY_FILE_RANGE of whoever may not keep set-id bits that are
        there, and no chown(2) of a stranger, who must not take them either, can be told from that. So his changes
        nothing, and the kernel is not to keep the mode: those two take the bits, but it asks for no mode then.
        """
        owner = self.fs.try_getattr(node).uid
        if head[4] not in (0, owner):
            return entry_body(0, node, self.fs.try_setattr(node, _NOTHING), 0, 0)[ATTRIBUTES]
        change = SetAttr(uid=owner, kill_set_id=self.killing(node, head))
        return entry_body(0, node, self.fs.try_setattr(node, change), 0, self.valid_s(node))[ATTRIBUTES]

    async def _setattr_control(self, node: NodeId, change: SetAttr, caller: Caller) -> Answer:
        touched = change.mtime_ns is not None and change.size is None
        attr = await self.control.setattr(node, change, touched, caller)
        return control_body(node, attr)

    def access(self, head: Header, view: memoryview, end: int) -> Answer:
        """Source: access(2), chdir(2). Comes where the kernel checks no permissions; else it need not ask: ENOSYS.

        Programs choose what to run by it, so on a trusted mount, too, it says what the mode bits say.
        """
        if not self.connection.trusted:
            return -errno.ENOSYS
        node = self.node(head[3])
        if is_control(node):
            return 0
        wanted = Layouts.ACCESS.unpack_from(view, BODY)[0] & 7
        inode = self.fs.try_getattr(node)
        mode = inode.mode
        if head[4] == 0:
            # CAP_DAC_OVERRIDE: all but to execute what nobody may. Source: capabilities(7).
            granted = 7 if inode.is_dir() or mode & 0o111 else 6
        elif head[4] == inode.uid:
            granted = mode >> 6
        elif is_member(self.caller(head), inode.gid):
            granted = mode >> 3
        else:
            granted = mode
        return -errno.EACCES if wanted & ~granted else 0

    def statfs(self, head: Header, view: memoryview, end: int) -> Answer:
        """Source: statvfs(3)."""
        numbers = self.fs.try_statfs()
        return STATFS_OUT.pack(
            numbers.f_blocks,
            numbers.f_bfree,
            numbers.f_bavail,
            numbers.f_files,
            numbers.f_ffree,
            numbers.f_bsize,
            numbers.f_namemax,
            numbers.f_frsize,
            0,
        )
