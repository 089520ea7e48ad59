"""What all request handlers share: the filesystem, the control tree, the lookup table, and how to refuse.

Invariant: between the filesystem's answer and the reply nothing is awaited, so the order of replies and of cache
notifications is the order of changes. (A direct write's reply says nothing but how much.) Must not know: what any
request does.
"""

from __future__ import annotations

import stat

import pyfuse3
import trio
from pyfuse3 import FUSEError, RequestContext

from heliosfs.core.attributes import without_set_id
from heliosfs.core.errors import Damaged, FsError
from heliosfs.core.ids import NodeId
from heliosfs.filesystem.types import Caller, SetAttr
from heliosfs.transport.errnos import errno_of
from heliosfs.transport.membership import is_member
from heliosfs.transport.pyfuse3.handles import OpenHandles
from heliosfs.transport.requests import Served, is_control, run_logged


def caller_of(ctx: RequestContext) -> Caller:
    """Who asks. The pid is a thread's, and 0 from outside our pid namespace."""
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


class Handlers(Served, pyfuse3.Operations):
    """State of one session, seen by its handlers.

    Attributes:
        openers: Who opened a control node that is known to the kernel: WRITE and READDIR don't say who asks.
        initialised: Set when the kernel's INIT has arrived.
        handles: Of open files.
        drops_awaited: Direct writes that are applied and wait for their pages to be dropped.
        dropping: Nodes whose pages are about to be dropped because a write was refused.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = True

    def prepare(self) -> None:
        """What is this transport's own."""
        self.initialised = trio.Event()
        self.openers: dict[int, Caller] = {}
        self.handles = OpenHandles()
        self.drops_awaited = 0
        self.dropping: set[NodeId] = set()

    def init(self) -> None:
        """Called by pyfuse3 inside INIT."""
        self.initialised.set()

    async def without_privileges(self, node: NodeId, change: SetAttr, ctx: RequestContext) -> SetAttr:
        """The change of content that somebody but root asks for, with what it does to the mode."""
        if is_control(node):
            return change
        attr = await self.fs.getattr(node)
        if change.mode is not None or not attr.mode & 0o6000 or not stat.S_ISREG(attr.mode):
            return change
        return change._replace(mode=without_set_id(attr.mode, member=is_member(caller_of(ctx), attr.gid)))

    def refusal(self, operation: str, node: int, error: Exception) -> FUSEError:
        """The error to raise for what an operation raised. Starts what waits for the reply, too."""
        self.start_after_reply()
        if isinstance(error, FsError) and not isinstance(error, Damaged):
            return FUSEError(error.errno)
        if isinstance(error, FUSEError):
            return error
        return FUSEError(errno_of(error, operation, node))

    def start_after_reply(self) -> None:
        """Start what control wants done after this reply. A handler's last act.

        Nothing may be awaited after it.
        """
        for work in self.after_reply.take():
            self.nursery.start_soon(run_logged, work)
