"""Control files that processes have looked up: the commands given through them, and their replies.

What a process needs that goes on in this one's place is remembered as it happens. Invariants: a command's reply is
readable from the ticket that gave it; a ticket that gave none shows the branch's last result of its file. Must not
know: names, directories, the kernel's locks.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from heliosfs.control.again import reply_again
from heliosfs.control.commands import Command
from heliosfs.control.door import Versions
from heliosfs.control.files import BY_NAME, ControlFile
from heliosfs.control.remembering import Memory, reply_from_json, reply_to_json
from heliosfs.control.reply import Reply
from heliosfs.control.runner import Commands
from heliosfs.control.table import FileForm
from heliosfs.control.tickets import Ticket, Tickets
from heliosfs.core.errors import FsError
from heliosfs.core.ids import NodeId, ViewNo
from heliosfs.core.unanswered import Applied
from heliosfs.filesystem.types import BranchInfo, Caller


class OpenFiles:
    """The tickets of one control tree.

    Attributes:
        tickets: By node; what is looked up is added to them.
    """

    def __init__(
        self, fs: Versions, commands: Commands, memory: Memory | None, clock: Callable[[], int], *, by_page: bool
    ) -> None:
        """
        Args:
            memory: Holds what a process needs that takes over; None: nobody does.
            by_page: What is read goes through the page cache.
        """
        self._fs = fs
        self._commands = commands
        self._memory = memory
        self._clock = clock
        self._by_page = by_page
        if memory is not None:
            memory.renewed_by(self._lines)
        self.tickets = Tickets(self._remember)

    def look_up(self, file: ControlFile, branch: BranchInfo) -> Ticket:
        """A new ticket. FsError ENFILE: the branch has too many."""
        self.tickets.check_room(branch.view)
        ticket = self._made(file, branch)
        self.tickets.add(ticket)
        return ticket

    def refresh(self, ticket: Ticket) -> None:
        """Show the ticket's own reply, else the branch's last result of its file. Reports stay."""
        form = ticket.file.form
        if form is None:
            return
        reply = ticket.reply or self._commands.last(ticket.view, form.name)
        if reply is not None:
            ticket.show_reply(reply)

    def read(self, node: NodeId, offset: int, size: int) -> bytes:
        """The reply, or what there is to report. What is read in several parts is of one piece. Raises FsError."""
        ticket = self.tickets.ticket(node)
        if not offset:
            self.refresh(ticket)
        return ticket.page(offset, size) if self._by_page else ticket.part(offset, size)

    async def give(
        self, ticket: Ticket, form: FileForm, data: bytes | None, caller: Caller, behind: int | None = None
    ) -> Reply:
        """Run the command that a ticket was given; its reply stays with the ticket.

        Args:
            data: None: by a touch.
            behind: Where the write of the command leaves its descriptor.
        """
        self.tickets.check_room(ticket.view)
        await ticket.begin()
        try:
            reply = await self.run(form, ticket.view, data, caller)
            self._answered(ticket, form, reply, behind if reply.ok else None)
        finally:
            ticket.end()
        return reply

    async def run(self, form: FileForm, view: ViewNo, data: bytes | None, caller: Caller) -> Reply:
        """Run the command that was given by bytes (None: by a touch); coherent when it returns."""
        commands = self._commands
        try:
            command = _touched(form) if data is None else form.written(data)
        except FsError as error:
            commands.may(view, caller)
            return commands.refusal(form.verb_of(data or b""), error.errno, error.reason)
        return await commands.run(command, view, caller)

    def record(self, view: ViewNo, kind: bytes, reply: Reply) -> None:
        """The reply, not given through a ticket, is the branch's last result of this kind; remembered. 6 us."""
        self._commands.record(view, kind, reply)
        if self._memory is not None:
            self._memory.add(_reply_line(NodeId(0), view, kind, reply, 0))

    # --- another process goes on ---------------------------------------------------------------------

    def recall(self) -> None:
        """Go on where a former process has ended: its tickets are ours. Before the first request."""
        memory = self._memory
        assert memory is not None
        lines = memory.lines()
        views = {ViewNo(line.get("view", 0)) for line in lines}
        branches = {view: self._fs.branch(view) for view in views if self._fs.is_branch(view)}
        # A number is used once. Most tickets are gone: what they would show is not made again.
        gone = {line["forgotten"] for line in lines if "forgotten" in line}
        for line in lines:
            view = ViewNo(line.get("view", 0))
            branch = branches.get(view)
            if "reply" in line:
                if branch is not None:
                    self._recall_line(line, view)
            elif line.get("ticket") not in gone:
                self.tickets.recall(line, branch, partial(self._made_again, branch))

    def recall_reply(self, node: NodeId, applied: Sequence[Applied], behind: int | None) -> None:
        """A ticket gets the reply to a command that a former process has carried out, but perhaps not answered.

        Args:
            behind: Where the write of the command has left its descriptor.
        """
        ticket = self.tickets.ticket(node)
        reply = reply_again(applied)
        form = ticket.file.form
        if reply is not None and form is not None:
            if ticket.reply is not None and ticket.reply.time_ns == reply.time_ns:
                # It was remembered, with all that the record does not say.
                reply = ticket.reply
            self._answered(ticket, form, reply, behind)

    def _made_again(self, branch: BranchInfo | None, file: str) -> Ticket:
        assert branch is not None
        return self._made(BY_NAME[file.encode()], branch)

    def _recall_line(self, line: dict[str, Any], view: ViewNo) -> None:
        reply = reply_from_json(line["reply"])
        kind = line["kind"].encode()
        last = self._commands.last(view, kind)
        # Each mountpoint has a memory, and they share the results.
        if last is None or last.time_ns <= reply.time_ns:
            self._commands.record(view, kind, reply)
        if self.tickets.holds(NodeId(line["by"])):
            ticket = self.tickets.ticket(NodeId(line["by"]))
            ticket.reply = reply
            ticket.show_reply(reply)
            ticket.wrote(line["behind"])

    def _remember(self, line: Mapping[str, object]) -> None:
        if self._memory is not None:
            self._memory.add(line)

    def _lines(self) -> Iterator[Mapping[str, object]]:
        """All that a process which takes over needs to know."""
        yield from self.tickets.lines()
        for view, kind, reply in self._commands.results():
            yield _reply_line(NodeId(0), view, kind, reply, 0)
        for ticket in self.tickets.tickets():
            if ticket.reply is not None and ticket.file.form is not None:
                yield _reply_line(ticket.node, ticket.view, ticket.file.form.name, ticket.reply, ticket.behind)

    # --- within --------------------------------------------------------------------------------------

    def _made(self, file: ControlFile, branch: BranchInfo) -> Ticket:
        ticket = Ticket(file, branch, by_page=self._by_page)
        if file.report is not None:
            ticket.show(file.report(self._fs, branch.view), self._clock())
        else:
            self.refresh(ticket)
        return ticket

    def _answered(self, ticket: Ticket, form: FileForm, reply: Reply, behind: int | None) -> None:
        """A command given through a ticket has its reply; the writer's file position is `behind` it."""
        ticket.reply = reply
        ticket.show_reply(reply)
        if behind is not None:
            ticket.wrote(behind)
        self._commands.record(ticket.view, form.name, reply)
        if self._memory is not None:
            self._memory.add(_reply_line(ticket.node, ticket.view, form.name, reply, ticket.behind))


def _reply_line(node: NodeId, view: ViewNo, kind: bytes, reply: Reply, behind: int) -> Mapping[str, object]:
    stored = reply_to_json(reply)
    return {"reply": stored, "by": node, "view": view, "kind": kind.decode(), "behind": behind}


def _touched(form: FileForm) -> Command:
    if form.touched is None:
        raise FsError(errno.EINVAL, "a touch says nothing here: write a line")
    return form.touched()
