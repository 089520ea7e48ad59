"""What the handlers of both transports share: whose node it is, and work that waits for a reply.

Invariant: between the filesystem's answer and the reply nothing is awaited, so the order of replies and of cache
notifications is the order of changes. Must not know: how a request arrives.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from heliosfs.core.ids import FIRST_CONTROL_INO, INO_MASK, NodeId
from heliosfs.filesystem.types import Caller

if TYPE_CHECKING:
    from heliosfs.control.tree import ControlTree
    from heliosfs.filesystem import Filesystem
    from heliosfs.transport.invalidate import CacheInvalidator
    from heliosfs.transport.lookups import LookupTable

_log = logging.getLogger("heliosfs.transport")

FOREVER_S: Final = 1_000_000_000
"""32 years: this daemon owns every change and says what must be forgotten. (The kernel clamps it to its own.)"""
CONTROL_NAME: Final = b".helios"
UNKNOWN_CALLER: Final = Caller(0, 0)
"""WRITE and READDIR do not say who asks; the kernel has checked him at open(2)."""

Work: TypeAlias = Callable[[], Awaitable[None]]
DeferWork: TypeAlias = Callable[[Work], None]
"""Do something once the reply to the present request has gone out."""
MakeControl: TypeAlias = "Callable[[DeferWork, bool], ControlTree]"
"""Makes a session's control tree. The second argument: reads of control files go through the page cache."""


def is_control(node: int) -> bool:
    """Whether a node is a ticket (view 0) or a branch's control directory. Two comparisons."""
    return node <= INO_MASK or node & INO_MASK >= FIRST_CONTROL_INO


def is_control_root(node: int) -> bool:
    """Whether a control node is some branch's `.helios` itself."""
    return node & INO_MASK == FIRST_CONTROL_INO


class AfterReply:
    """Work that must wait until a request's reply has gone out, because the caller holds a lock until then.

    A session's task serves one request at a time, so the task names the request.
    """

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending: dict[trio.lowlevel.Task, list[Work]] = {}

    def add(self, work: Work) -> None:
        """Run `work` after the reply to the request that the current task serves."""
        self.pending.setdefault(trio.lowlevel.current_task(), []).append(work)

    def take(self) -> Sequence[Work]:
        """The current task's work, no longer pending."""
        return self.pending.pop(trio.lowlevel.current_task(), ()) if self.pending else ()


async def run_logged(work: Work) -> None:
    """Do deferred work; what it raises has nobody to be told to."""
    try:
        await work()
    except Exception:
        _log.exception("work after a reply failed")


class Served:
    """What the handlers of a session share, on either transport.

    Attributes:
        root: Node id of the mounted branch's root, which is 1 on the wire.
        settling: Directories whose attributes no reply may give to keep; see CacheInvalidator.
    """

    def __init__(
        self,
        fs: Filesystem,
        control: ControlTree,
        root: NodeId,
        lookups: LookupTable,
        invalidator: CacheInvalidator,
        after_reply: AfterReply,
        nursery: trio.Nursery,
    ) -> None:
        self.fs = fs
        self.control = control
        self.root = root
        self.lookups = lookups
        self.invalidator = invalidator
        self.after_reply = after_reply
        self.nursery = nursery
        self.settling = invalidator.settling
        self.prepare()

    def prepare(self) -> None:
        """Make what a transport adds."""
