"""Tickets: one node for each LOOKUP of a control file, so that a reply belongs to its caller.

With one inode for all callers the kernel's page cache gave a third of concurrent readers somebody else's
reply. A ticket lives from its LOOKUP to the kernel's FORGET and holds the command given through it, its reply
and what a reader has begun to read. Invariant: node ids are never used again. Must not know: files, verbs.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import trio

from heliosfs.control.files import LATEST_INDEX, ControlFile
from heliosfs.control.nodes import LINK_MODE, Attributes, shown_ino
from heliosfs.control.reply import Reply
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import CONTROL_VIEW, Ino, NodeId, ViewNo, node_id
from heliosfs.filesystem.types import BranchInfo

Line: TypeAlias = Mapping[str, object]

_FIRST_TICKET = 2
"""Node id 1 is FUSE's root."""
_RESERVE: Final = 1 << 16
"""Node ids that are set apart at a time: a process that takes over begins behind them."""
_FURTHEST: Final = 1 << 40
"""Bytes from the start of a control file: no series of commands leads further, and all can hold such a size."""

TICKETS_MAX: Final = 4096
"""Control files of one branch that processes may hold open at a time."""
CONTENT_MAX: Final = 32 << 20
"""Bytes of replies and reports that the tickets of one branch hold before it gets no more."""


class Account:
    """What the tickets of one branch take, so that one agent cannot take all of the daemon's memory."""

    __slots__ = ("content_bytes", "tickets")

    def __init__(self) -> None:
        self.tickets = 0
        self.content_bytes = 0


class Ticket(Attributes):
    """One lookup of a control file; its own attributes.

    Attributes:
        reply: Of the last command given through it, None before.
        content: What reading gives: pinned, so that what is read in parts is of one piece.
        by_page: Reads come from the page cache; see `page`.
        node: Its node id, once it is kept.
    """

    __slots__ = ("_behind", "_lock", "_start", "account", "by_page", "content", "file", "node", "reply", "view")

    def __init__(self, file: ControlFile, branch: BranchInfo, *, by_page: bool) -> None:
        view = branch.view
        super().__init__(
            file.mode, branch.owner_uid, branch.owner_gid, 0, branch.created_ns, shown_ino(view, file.index)
        )
        self.file = file
        self.view = view
        self.reply: Reply | None = None
        self.content = b""
        self.by_page = by_page
        self.account: Account | None = None
        self.node = NodeId(0)
        self._lock: trio.Lock | None = None
        self._behind = 0
        self._start: int | None = 0

    def wrote(self, position: int) -> None:
        """The writer's file position is here now. Far out, where no series of commands leads, the reply is not."""
        if position > _FURTHEST:
            position = 0
        self._behind = position
        self._start = None
        if self.by_page:
            self.size = position + len(self.content)

    @property
    def behind(self) -> int:
        """Where the last write has left its descriptor."""
        return self._behind

    def page(self, offset: int, size: int) -> bytes:
        """What a read gives where `by_page`, which says nothing of where the reader is: blanks in place of what the
        last command has written, then the reply. It is whole from there, and one JSON line from the start.
        """
        blanks = self._behind
        if offset >= blanks:
            return self.content[offset - blanks : offset - blanks + size]
        return b" " * min(size, blanks - offset) + self.content[: max(size - blanks + offset, 0)]

    def part(self, offset: int, size: int) -> bytes:
        """What a read gives: from the start, or from where the last write left its descriptor.

        So `exec 3<>ctl; echo ls >&3; cat <&3` gives the whole reply, as pread(2) at 0 does. Which
        of the two a reader does shows in the first read after a write.
        """
        start = self._start
        if not offset:
            start = self._start = 0
        elif start is None:
            start = self._start = self._behind if offset == self._behind else 0
        return self.content[offset - start : offset - start + size] if offset >= start else b""

    def show(self, content: bytes, time_ns: int) -> None:
        """From now on it holds this."""
        if self.account is not None:
            self.account.content_bytes += len(content) - len(self.content)
        self.content = content
        self.size = len(content) + (self._behind if self.by_page else 0)
        self.mtime_ns = time_ns

    def show_reply(self, reply: Reply) -> None:
        """From now on it holds this reply."""
        line = reply.line
        if self.content is not line:
            self.show(line, reply.time_ns)

    async def begin(self) -> None:
        """Wait for the turn of one command; where nobody else is at it, this does not give way."""
        lock = self._lock
        if lock is None:
            lock = self._lock = trio.Lock()
        try:
            lock.acquire_nowait()
        except trio.WouldBlock:
            await lock.acquire()

    def end(self) -> None:
        """The turn that `begin` gave is over."""
        assert self._lock is not None
        self._lock.release()


class LatestLink(Attributes):
    """`snapshots/latest` while it has one target: the kernel keeps a link's text as long as its node."""

    __slots__ = ("node", "target", "view")

    def __init__(self, branch: BranchInfo, target: bytes, node: NodeId) -> None:
        super().__init__(
            LINK_MODE,
            branch.owner_uid,
            branch.owner_gid,
            len(target),
            branch.created_ns,
            shown_ino(branch.view, LATEST_INDEX),
        )
        self.view = branch.view
        self.target = target
        self.node = node


class Tickets:
    """Every ticket and link that the kernel may know."""

    __slots__ = ("_accounts", "_links", "_next", "_nodes", "_remember", "_reserved")

    def __init__(self, remember: Callable[[Line], None]) -> None:
        """
        Args:
            remember: Told of every change, in lines that `recall` takes.
        """
        self._remember = remember
        self._next = self._reserved = _FIRST_TICKET
        self._nodes: dict[NodeId, Ticket | LatestLink] = {}
        self._links: dict[ViewNo, LatestLink] = {}
        self._accounts: dict[ViewNo, Account] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def fresh(self) -> NodeId:
        """A node id that was never used. Nothing is kept of it: listings hand out thousands."""
        number = self._next
        if number >= self._reserved:
            self._reserved = number + _RESERVE
            self._remember({"reserved": self._reserved})
        self._next = number + 1
        return node_id(CONTROL_VIEW, Ino(number))

    def add(self, ticket: Ticket) -> NodeId:
        """Keep a ticket until `forget`. Its node id."""
        node = self.fresh()
        self._put(ticket, node)
        self._remember(_ticket_line(ticket))
        return node

    def _put(self, ticket: Ticket, node: NodeId) -> None:
        account = self._accounts.setdefault(ticket.view, Account())
        account.tickets += 1
        account.content_bytes += len(ticket.content)
        ticket.account = account
        ticket.node = node
        self._nodes[node] = ticket

    def check_room(self, view: ViewNo) -> None:
        """Whether a branch may have one more ticket, or one more reply. Raises FsError ENFILE."""
        account = self._accounts.get(view)
        if account is None:
            return
        if account.tickets >= TICKETS_MAX or account.content_bytes > CONTENT_MAX:
            raise FsError(errno.ENFILE, "too many control files of this branch are open: close some")

    def link(self, branch: BranchInfo, target: bytes) -> LatestLink:
        """The link to this target: the one before if the target is the same, else a new node."""
        link = self._links.get(branch.view)
        if link is None or link.target != target:
            link = self._put_link(branch, target, self.fresh())
            self._remember(_link_line(link))
        return link

    def _put_link(self, branch: BranchInfo, target: bytes, node: NodeId) -> LatestLink:
        link = self._links[branch.view] = LatestLink(branch, target, node)
        self._nodes[node] = link
        return link

    def known_link(self, view: ViewNo, target: bytes) -> LatestLink | None:
        """The link to this target if there is one."""
        link = self._links.get(view)
        return link if link is not None and link.target == target else None

    def holds(self, node: NodeId) -> bool:
        """Whether the node is a ticket."""
        return isinstance(self._nodes.get(node), Ticket)

    def ticket(self, node: NodeId) -> Ticket:
        """The ticket of a node id. Raises StaleHandle."""
        found = self._nodes.get(node)
        if not isinstance(found, Ticket):
            raise StaleHandle("this control file was not looked up")
        return found

    def find(self, node: NodeId) -> Ticket | LatestLink:
        """What a node id stands for. Raises StaleHandle."""
        found = self._nodes.get(node)
        if found is None:
            raise StaleHandle("this control file was not looked up")
        return found

    def forget(self, node: NodeId) -> None:
        """The kernel does not know the node any more. No error for one that was never kept."""
        if node in self._nodes:
            self._drop(node)
            self._remember({"forgotten": node})

    def _drop(self, node: NodeId) -> None:
        found = self._nodes.pop(node, None)
        if isinstance(found, LatestLink) and self._links.get(found.view) is found:
            del self._links[found.view]
        elif isinstance(found, Ticket):
            account = self._accounts[found.view]
            account.tickets -= 1
            account.content_bytes -= len(found.content)
            if not account.tickets:
                del self._accounts[found.view]

    # --- another process goes on ---------------------------------------------------------------------

    def lines(self) -> Iterator[Line]:
        """All there is, as `recall` takes it. O(tickets)."""
        yield {"reserved": self._reserved}
        for found in self._nodes.values():
            yield _ticket_line(found) if isinstance(found, Ticket) else _link_line(found)

    def tickets(self) -> Iterator[Ticket]:
        """Every ticket."""
        return (found for found in self._nodes.values() if isinstance(found, Ticket))

    def recall(self, line: Mapping[str, Any], branch: BranchInfo | None, make: Callable[[str], Ticket]) -> None:
        """Take in a line of a former process.

        Args:
            branch: Whose view the line names; None if it is dead.
            make: Makes the ticket of the file with this name.
        """
        if "reserved" in line:
            self._next = self._reserved = line["reserved"]
        elif "forgotten" in line:
            self._drop(NodeId(line["forgotten"]))
        elif branch is not None and "ticket" in line:
            self._put(make(line["file"]), NodeId(line["ticket"]))
        elif branch is not None and "link" in line:
            self._put_link(branch, bytes.fromhex(line["target"]), NodeId(line["link"]))


def _ticket_line(ticket: Ticket) -> Line:
    return {"ticket": ticket.node, "view": ticket.view, "file": ticket.file.name.decode()}


def _link_line(link: LatestLink) -> Line:
    return {"link": link.node, "view": link.view, "target": link.target.hex()}
