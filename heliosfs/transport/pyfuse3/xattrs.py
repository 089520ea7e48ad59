"""Extended attributes. `user.helios.*` goes to control; a control file has none of its own."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from pyfuse3 import FUSEError, RequestContext

from heliosfs.core.acl import ACCESS
from heliosfs.core.ids import NodeId
from heliosfs.transport.membership import is_member
from heliosfs.transport.pyfuse3.requests import Handlers, caller_of
from heliosfs.transport.requests import is_control

_OURS: Final = b"user.helios."


class XattrHandlers(Handlers):
    """pyfuse3 itself turns XATTR_CREATE and XATTR_REPLACE into a getxattr before the setxattr."""

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """Source: getxattr(2). The kernel asks for security.capability before nearly every write."""
        node = self.root if inode == 1 else NodeId(inode)
        try:
            if name.startswith(_OURS):
                return await self.control.getxattr(node, name, caller_of(ctx))
            if is_control(node):
                raise FUSEError(errno.ENODATA)
            return await self.fs.getxattr(node, name)
        except Exception as error:
            raise self.refusal("getxattr", node, error) from None

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Source: setxattr(2)."""
        node = self.root if inode == 1 else NodeId(inode)
        try:
            if name.startswith(_OURS):
                await self.control.setxattr(node, name, value, 0, caller_of(ctx))
                self.start_after_reply()
            elif is_control(node):
                raise FUSEError(errno.EPERM)
            elif name == ACCESS and ctx.uid and not is_member(caller_of(ctx), (await self.fs.getattr(node)).gid):
                # Without SETXATTR_EXT the kernel leaves the set-group-ID bit to us.
                await self.fs.setxattr(node, name, value, 0, caller_of(ctx), kill_set_gid=True)
            else:
                await self.fs.setxattr(node, name, value, 0, caller_of(ctx))
        except Exception as error:
            raise self.refusal("setxattr", node, error) from None

    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """Source: listxattr(2). What control answers to is not listed, so that cp -a does not copy it."""
        node = self.root if inode == 1 else NodeId(inode)
        try:
            return () if is_control(node) else await self.fs.listxattr(node, trusted=ctx.uid == 0)
        except Exception as error:
            raise self.refusal("listxattr", node, error) from None

    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        """Source: removexattr(2)."""
        node = self.root if inode == 1 else NodeId(inode)
        try:
            if is_control(node) or name.startswith(_OURS):
                raise FUSEError(errno.EPERM)
            await self.fs.removexattr(node, name, caller_of(ctx))
        except Exception as error:
            raise self.refusal("removexattr", node, error) from None
