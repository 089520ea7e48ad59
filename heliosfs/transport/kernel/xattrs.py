"""Extended attributes. `user.helios.*` goes to control; a control file has none of its own."""

from __future__ import annotations

import errno
from collections.abc import Coroutine
from struct import Struct
from typing import Any, Final

from heliosfs.core import acl
from heliosfs.core.ids import NodeId
from heliosfs.filesystem.types import Caller
from heliosfs.transport.kernel.handlers import Answer, Handlers, Header
from heliosfs.transport.kernel.wire import BODY, SETXATTR_ACL_KILL_SGID, XATTR_SIZE_OUT, Flag, Layouts, name_at
from heliosfs.transport.requests import is_control

_OURS: Final = b"user.helios."
_GET_AT: Final = BODY + Layouts.GETXATTR.size


def sized(value: bytes, room: int) -> Answer:
    """A value, or its size where no room was offered. Source: getxattr(2)."""
    if not room:
        return XATTR_SIZE_OUT.pack(len(value), 0)
    return value if len(value) <= room else -errno.ERANGE


class XattrHandlers(Handlers):
    """GETXATTR, SETXATTR, LISTXATTR, REMOVEXATTR."""

    def getxattr(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: getxattr(2). The kernel asks for security.capability before a file's first write."""
        node = self.node(head[3])
        room = Layouts.GETXATTR.unpack_from(view, BODY)[0]
        name = name_at(view, _GET_AT, end)
        if name.startswith(_OURS):
            return self._get_ours(node, name, room, self.caller(head))
        if is_control(node):
            return -errno.ENODATA
        value = self.fs.try_getxattr(node, name)
        return -errno.ENODATA if value is None else sized(value, room)

    async def _get_ours(self, node: NodeId, name: bytes, room: int, caller: Caller) -> Answer:
        return sized(await self.control.getxattr(node, name, caller), room)

    def setxattr(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: setxattr(2)."""
        layout = self.setxattr_layout
        size, flags, *more = layout.unpack_from(view, BODY)
        at = BODY + layout.size
        name = name_at(view, at, end)
        start = at + len(name) + 1
        if start + size > end:
            return -errno.EINVAL
        value = view[start : start + size].tobytes()
        node = self.node(head[3])
        if name.startswith(_OURS):
            return self._set_ours(node, name, value, self.caller(head))
        if is_control(node):
            return -errno.EPERM
        self.fs.try_setxattr(node, name, value, flags, kill_set_gid=bool(more and more[0] & SETXATTR_ACL_KILL_SGID))
        self.mode_may_differ(node, name)
        return 0

    def mode_may_differ(self, node: NodeId, name: bytes) -> None:
        """An attribute is set. A list changes the mode, which a kernel that knows of none does not expect."""
        if name == acl.ACCESS and self.connection.trusted:
            self.invalidator.forget_attributes(node)

    @property
    def setxattr_layout(self) -> Struct:
        """What this kernel's SETXATTR begins with."""
        return Layouts.SETXATTR_EXT if self.connection.has(Flag.SETXATTR_EXT) else Layouts.SETXATTR

    async def _set_ours(self, node: NodeId, name: bytes, value: bytes, caller: Caller) -> Answer:
        await self.control.setxattr(node, name, value, 0, caller)
        return 0

    def listxattr(self, head: Header, view: memoryview, end: int) -> Answer:
        """Source: listxattr(2). What control answers to is not listed, so that cp -a does not copy it."""
        node = self.node(head[3])
        room = Layouts.GETXATTR.unpack_from(view, BODY)[0]
        names = () if is_control(node) else self.fs.try_listxattr(node, trusted=head[4] == 0)
        return sized(b"".join(name + b"\0" for name in names), room)

    def removexattr(self, head: Header, view: memoryview, end: int) -> Answer:
        """Source: removexattr(2)."""
        node = self.node(head[3])
        name = name_at(view, BODY, end)
        if is_control(node) or name.startswith(_OURS):
            return -errno.EPERM
        self.fs.try_removexattr(node, name)
        return 0
