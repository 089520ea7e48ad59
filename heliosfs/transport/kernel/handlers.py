"""What all request handlers of this transport share. A handler is a method that takes one request and answers.

It gets the request's header, the buffer it lies in, and where it ends; what it answers goes out at once. Node ids
are all the state there is: without OPEN there are no handles, so a request means the same to the next process.

Invariants: a handler that returns without a coroutine has not suspended; it raises NeedPages or NeedRoom only
before its first change, and is then called again with a copy of the request. A coroutine keeps nothing of the
buffer, which the next request overwrites. Must not know: descriptors, tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from heliosfs.core.attributes import KILL_SET_ID, KILL_SET_ID_OF_A_GROUP
from heliosfs.core.ids import NodeId
from heliosfs.filesystem.types import Caller
from heliosfs.transport.kernel.wire import Flag
from heliosfs.transport.membership import is_member
from heliosfs.transport.requests import AfterReply, Served, is_control

if TYPE_CHECKING:
    from heliosfs.control.tree import ControlTree
    from heliosfs.filesystem import Filesystem
    from heliosfs.transport.invalidate import CacheInvalidator
    from heliosfs.transport.kernel.negotiation import Connection
    from heliosfs.transport.kernel.sharing import SharedOpens
    from heliosfs.transport.lookups import LookupTable

Header: TypeAlias = tuple[int, ...]
"""Length, opcode, unique, node, uid, gid, pid, extensions, padding."""

Answer: TypeAlias = bytes | int | None
"""The body of a reply; or a negative errno, 0 for a body without bytes; None: this request gets no reply."""

Handler: TypeAlias = Callable[[Header, memoryview, int], Answer | Coroutine[Any, Any, Answer]]


class Handlers(Served):
    """State of one session, seen by its handlers.

    Attributes:
        connection: What was agreed on with the kernel.
        read_tickets: Control files that the kernel may have pages of.
        dropping: Nodes whose pages are about to be dropped, and what is set when they are.
        forgotten: Frees an unlinked inode that no kernel knows any more.
        sharing: With `-o cache=shared`: what is open, and how it is read; else None.
        umask_bits: What of a request's umask is ours to take off; 0 where the kernel has done so.
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
        connection: Connection,
        forgotten: Callable[[NodeId], None],
        sharing: SharedOpens | None = None,
    ) -> None:
        super().__init__(fs, control, root, lookups, invalidator, after_reply, nursery)
        self.connection = connection
        self.forgotten = forgotten
        self.sharing = sharing
        self.umask_bits = 0o777 if connection.has(Flag.DONT_MASK) else 0
        self.read_tickets: set[NodeId] = set()
        self.dropping: dict[NodeId, trio.Event] = {}
        self._caller = Caller(0, 0)
        self._caller_key: tuple[int, ...] = ()

    def caller(self, head: Header) -> Caller:
        """Who asks. The pid is a thread's, and 0 from outside our pid namespace."""
        key = head[4:7]
        if key != self._caller_key:
            self._caller_key = key
            self._caller = Caller(*key)
        return self._caller

    def killing(self, node: NodeId, head: Header) -> int:
        """What a change of content by somebody without CAP_FSETID takes away, as SetAttr has it. 1 us."""
        attr = self.fs.try_getattr(node)
        # Set-group-ID without group execute stays for members, and in a chown(2) by root: the one case in which it
        # matters who it is.
        if attr.mode & 0o2010 != 0o2000 or head[4] == 0 or is_member(self.caller(head), attr.gid):
            return KILL_SET_ID
        return KILL_SET_ID_OF_A_GROUP

    def node(self, wire: int) -> NodeId:
        """The node that a request means."""
        return self.root if wire == 1 else NodeId(wire)

    def drop_pages(self, node: NodeId, grown: int = 0) -> None:
        """Have the kernel forget a node's pages once the present reply is out; `dropped` waits for it.

        Args:
            grown: Tell it first that the file has this many bytes.
        """
        if node not in self.dropping:
            self.dropping[node] = trio.Event()
            self.after_reply.add(lambda: self._drop(node, grown))

    async def _drop(self, node: NodeId, grown: int) -> None:
        try:
            await self.invalidator.drop_data(node, grown)
        finally:
            self.dropping.pop(node).set()

    async def dropped(self, node: NodeId) -> None:
        """Return when what `drop_pages` has put off for a node is done."""
        dropping = self.dropping.get(node)
        if dropping is not None:
            await dropping.wait()


__all__ = ["Answer", "Handler", "Handlers", "Header", "is_control"]
