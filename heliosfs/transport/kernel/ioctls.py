"""IOCTL: a command to the control directory, or to one of its files, and its reply in one round trip.

No other file has ioctls. What is answered is never ENOSYS: the kernel asks for each one anew.
"""

from __future__ import annotations

import errno
from collections.abc import Coroutine
from typing import Any, Final

from heliosfs.core.ids import NodeId
from heliosfs.filesystem.types import Caller
from heliosfs.transport.kernel.data import DataHandlers
from heliosfs.transport.kernel.handlers import Answer, Header
from heliosfs.transport.kernel.wire import BODY, IOCTL_OUT, Layouts
from heliosfs.transport.requests import is_control

_DATA_AT: Final = BODY + Layouts.IOCTL.size


class IoctlHandlers(DataHandlers):
    """The kernel copies what the call's number says: no more than 16,383 bytes each way."""

    def ioctl(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: ioctl(2)."""
        node = self.node(head[3])
        _, _, number, _, given, room = Layouts.IOCTL.unpack_from(view, BODY)
        if not is_control(node):
            return -errno.ENOTTY
        stop = _DATA_AT + given
        if stop > end:
            return -errno.EINVAL
        return self._command(node, number, view[_DATA_AT:stop].tobytes(), room, self.caller(head))

    async def _command(self, node: NodeId, number: int, data: bytes, room: int, caller: Caller) -> Answer:
        return self.commanded(node, room, await self.control.ioctl(node, number, data, caller))

    def commanded(self, node: NodeId, room: int, answered: tuple[int, bytes]) -> Answer:
        """The reply to a command: its errno and, whatever that is, its line."""
        refused, structure = answered
        if len(structure) > room:
            return -errno.EINVAL
        if node in self.read_tickets:
            self.read_tickets.discard(node)
            self.drop_pages(node)
        return IOCTL_OUT.pack(-refused, 0, 0, 0) + structure
