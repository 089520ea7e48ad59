"""The control tree as a transport sees it: `.helios` of every branch, answered request by request.

Invariants: nothing in it is cached by name; a command's reply is readable from the ticket that gave it, and
what waits for the kernel's locks is put off to after the reply (mkdir, rmdir, rename and setxattr hold one, a
write to a control file holds none that matters). Every method may raise FsError; ESTALE where the branch or
the ticket is gone. Must not know: FUSE, verbs.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Final

from heliosfs.control import ioctl
from heliosfs.control.again import reply_again
from heliosfs.control.commands import Command, check_owner
from heliosfs.control.directories import (
    Directories,
    Listed,
    make_command,
    remove_command,
    rename_command,
)
from heliosfs.control.door import Versions
from heliosfs.control.files import BY_NAME
from heliosfs.control.names import LATEST
from heliosfs.control.nodes import (
    BRANCHES,
    CONTROL_NAME,
    ROOT_DIRECTORY,
    SNAPSHOTS,
    Attributes,
    directory_attributes,
    directory_node,
    which_directory,
)
from heliosfs.control.openfiles import OpenFiles
from heliosfs.control.remembering import Memory
from heliosfs.control.reply import Reply
from heliosfs.control.runner import Commands
from heliosfs.control.table import CTL
from heliosfs.control.tickets import LatestLink, Ticket
from heliosfs.control.xattrs import PREFIX, Xattrs
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import FIRST_CONTROL_INO, INO_MASK, ROOT_INO, NodeId, view_of
from heliosfs.core.unanswered import Applied
from heliosfs.filesystem.types import AfterReply, BranchInfo, Caller, Entry, SetAttr

_NO_REPLACE: Final = 1
_WRITES: Final = os.O_WRONLY | os.O_RDWR


class ControlTree:
    """`.helios` of every branch of a filesystem.

    Args:
        visible: `.helios` is listed (`-o control=visible`).
        after_reply: Runs a function once the reply to the present request has gone out.
        commands: Shared by all front ends of one filesystem, so that they know of each other's results; its
            own by default.
        memory: Holds what a process needs that takes over this tree; None: nobody does.
        by_page: What is read of control files goes through the page cache (no direct I/O without OPEN).

    Attributes:
        commands: Runs the same commands for other front ends.
    """

    def __init__(
        self,
        fs: Versions,
        *,
        visible: bool,
        after_reply: AfterReply,
        commands: Commands | None = None,
        by_page: bool = False,
        memory: Memory | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.visible = visible
        self.commands = commands or Commands(fs, clock=clock)
        self._fs = fs
        self._after_reply = after_reply
        self._files = OpenFiles(fs, self.commands, memory, clock, by_page=by_page)
        self._tickets = self._files.tickets
        self._directories = Directories(fs, self._tickets, self.commands.roots)
        self._xattrs = Xattrs(fs, self.commands, after_reply, self._files.record)

    # --- another process goes on ---------------------------------------------------------------------

    def recall(self) -> None:
        """Go on where a former process has ended. Before the first request."""
        for branch_view, name, entry in self._fs.looked_up_snapshots():
            self.commands.roots.add(branch_view, name, entry._replace(cacheable=False))
        self._files.recall()

    def known_tickets(self) -> list[NodeId]:
        """Every ticket there is."""
        return [ticket.node for ticket in self._tickets.tickets()]

    def recall_reply(self, node: NodeId, applied: Sequence[Applied], behind: int | None) -> None:
        """See OpenFiles.recall_reply."""
        self._files.recall_reply(node, applied, behind)

    # --- what is ours --------------------------------------------------------------------------------

    def owns(self, node: NodeId) -> bool:
        """Whether the node is a ticket or a control directory. O(1)."""
        return node <= INO_MASK or node & INO_MASK >= FIRST_CONTROL_INO

    def names_root(self, parent: NodeId, name: bytes) -> bool:
        """Whether the name in this directory is the control tree of a live branch."""
        return name == CONTROL_NAME and parent & INO_MASK == ROOT_INO and self._fs.is_branch(view_of(parent))

    def is_ours(self, name: bytes) -> bool:
        """Whether an extended attribute is answered here."""
        return name.startswith(PREFIX)

    def listed_in(self, node: NodeId) -> tuple[bytes, Entry] | None:
        """What a listing of this directory shows besides the tree's own: `.helios`, where it is visible."""
        if not self.visible or not self.names_root(node, CONTROL_NAME):
            return None
        return CONTROL_NAME, self._root(self._fs.branch(view_of(node)))

    # --- names ---------------------------------------------------------------------------------------

    def try_lookup(self, parent: NodeId, name: bytes, caller: Caller) -> Entry | None:
        """Find a name in a control directory, or `.helios` in a branch's root. Never cached by name.

        None: it may be a snapshot, for which `lookup` has to be awaited.

        Raises:
            FsError: ENOENT; EACCES below `.helios` for others than the owner and root; ENOTDIR; ENFILE too
                many control files are open.
        """
        if not self.owns(parent):
            if self.names_root(parent, name):
                return self._root(self._fs.branch(view_of(parent)))
            raise FsError(errno.ENOENT)
        which, branch = self._directory(parent)
        check_owner(branch, caller)
        if which == ROOT_DIRECTORY:
            file = BY_NAME.get(name)
            if file is not None:
                ticket = self._files.look_up(file, branch)
                return Entry(ticket.node, ticket, 0, False)
        return self._directories.try_find(which, branch, name)

    async def lookup(self, parent: NodeId, name: bytes, caller: Caller) -> Entry:
        """As `try_lookup`, snapshots included."""
        found = self.try_lookup(parent, name, caller)
        return found or await self._directories.snapshot_root(view_of(parent), name)

    async def readdir(self, node: NodeId, cookie: int, limit: int, caller: Caller) -> Listed:
        """Entries behind a cookie, without `.` and `..`; [] at the end. See Directories.listing."""
        which, branch = self._directory(node)
        check_owner(branch, caller)
        return self._directories.listing(which, branch, cookie, limit)

    async def make(
        self, parent: NodeId, name: bytes, mode: int, caller: Caller, *, target: bytes | None = None
    ) -> Entry:
        """mkdir in `snapshots` takes a checkpoint, in `branches` it forks.

        Raises:
            FsError: EEXIST; EINVAL, ENAMETOOLONG for the name; EACCES; EPERM anything else than these two.
        """
        if not self.owns(parent):
            raise FsError(errno.EEXIST)
        which, branch = self._directory(parent)
        check_owner(branch, caller)
        command = make_command(which, name) if stat.S_ISDIR(mode) and target is None else None
        await self._change(command, branch, caller)
        return await self._directories.find(which, branch, name)

    async def unlink(self, parent: NodeId, name: bytes, caller: Caller) -> None:
        """Refused: EPERM; EISDIR for `.helios` itself; EACCES."""
        if not self.owns(parent):
            raise FsError(errno.EISDIR)
        check_owner(self._directory(parent)[1], caller)
        raise FsError(errno.EPERM)

    async def rmdir(self, parent: NodeId, name: bytes, caller: Caller) -> None:
        """rmdir in `snapshots` forgets, in `branches` it discards.

        Raises:
            FsError: ENOENT; EBUSY a branch with children or in use; EACCES; ENOTDIR latest; EPERM elsewhere.
        """
        if not self.owns(parent):
            raise FsError(errno.EPERM)
        which, branch = self._directory(parent)
        check_owner(branch, caller)
        if which == SNAPSHOTS and name == LATEST:
            raise FsError(errno.ENOTDIR)
        await self._change(remove_command(which, name), branch, caller)

    async def rename(
        self, parent: NodeId, name: bytes, new_parent: NodeId, new_name: bytes, flags: int, caller: Caller
    ) -> None:
        """rename within `snapshots` renames one.

        Raises:
            FsError: EXDEV into or out of a control directory; EINVAL flags other than RENAME_NOREPLACE, or a
                bad name; EEXIST; ENOENT; EACCES; EPERM elsewhere.
        """
        if parent != new_parent:
            raise FsError(errno.EXDEV)
        if not self.owns(parent):
            raise FsError(errno.EPERM)
        which, branch = self._directory(parent)
        check_owner(branch, caller)
        if flags & ~_NO_REPLACE:
            raise FsError(errno.EINVAL)
        if which == SNAPSHOTS and name == LATEST:
            raise FsError(errno.EPERM)
        await self._change(rename_command(which, name, new_name), branch, caller)

    async def readlink(self, node: NodeId) -> bytes:
        """The target of `latest`. Raises FsError EINVAL for what is no link."""
        found = self._tickets.find(node)
        if isinstance(found, LatestLink):
            return found.target
        raise FsError(errno.EINVAL)

    def forget(self, node: NodeId) -> None:
        """The kernel does not know the node any more: frees a ticket."""
        self._tickets.forget(node)

    # --- control files -------------------------------------------------------------------------------

    async def getattr(self, node: NodeId, caller: Caller) -> Attributes:
        """As `try_getattr`."""
        return self.try_getattr(node)

    def try_getattr(self, node: NodeId) -> Attributes:
        """Attributes of a control node; read them at once. A ticket without a command shows the last."""
        if node > INO_MASK:
            which, branch = self._directory(node)
            return directory_attributes(branch, which)
        found = self._tickets.find(node)
        branch = self._fs.branch(found.view)
        found.uid, found.gid = branch.owner_uid, branch.owner_gid
        if isinstance(found, Ticket):
            self._files.refresh(found)
        return found

    async def setattr(self, node: NodeId, change: SetAttr, touched: bool, caller: Caller) -> Attributes:
        """A touch is a command, a truncation none.

        Args:
            touched: mtime was asked for, without a size.

        Raises:
            FsError: EPERM for mode, owner, and for anything but a command's file; EINVAL where a touch says
                nothing; as the command.
        """
        if node > INO_MASK:
            raise FsError(errno.EPERM)
        ticket = self._tickets.ticket(node)
        form = ticket.file.form
        if change.mode is not None or change.uid is not None or change.gid is not None or form is None:
            raise FsError(errno.EPERM)
        if touched:
            (await self._files.give(ticket, form, None, caller)).raise_refusal()
        else:
            self.commands.may(ticket.view, caller)
        return ticket

    async def open(self, node: NodeId, flags: int, caller: Caller) -> None:
        """Nothing depends on it having been called.

        Raises:
            FsError: EACCES; EPERM to write where no command is taken.
        """
        if node > INO_MASK:
            check_owner(self._directory(node)[1], caller)
            return
        ticket = self._tickets.ticket(node)
        self.commands.may(ticket.view, caller)
        if ticket.file.form is None and flags & _WRITES:
            raise FsError(errno.EPERM)
        self._files.refresh(ticket)

    async def read(self, node: NodeId, offset: int, size: int) -> bytes:
        """See OpenFiles.read."""
        return self._files.read(node, offset, size)

    async def write(self, node: NodeId, offset: int, data: bytes, caller: Caller) -> int:
        """One command; its reply can be read back from the same node, also when it was refused.

        Returns:
            All of `data`'s length.

        Raises:
            FsError: EPERM where no command is taken; EINVAL, ENAMETOOLONG malformed; EACCES; as the command.
        """
        ticket = self._tickets.ticket(node)
        form = ticket.file.form
        if form is None:
            raise FsError(errno.EPERM)
        ticket.wrote(offset)
        (await self._files.give(ticket, form, data, caller, offset + len(data))).raise_refusal()
        return len(data)

    async def ioctl(self, node: NodeId, number: int, data: bytes, caller: Caller) -> tuple[int, bytes]:
        """One command and its reply: on `.helios` what `ctl` takes, on a command's file what that takes.

        Of a file the reply can be read, too, from its start and whole; of `.helios` it is the last result of `ctl`.

        Args:
            data: The structure of control/ioctl.py.

        Returns:
            0 or the command's errno, and the structure that answers it, whatever became of the command.

        Raises:
            FsError: ENOTTY another number, or a node that takes no commands; EINVAL a malformed structure; ESTALE.
        """
        if number != ioctl.NUMBER:
            raise FsError(errno.ENOTTY)
        if node > INO_MASK:
            which, branch = self._directory(node)
            if which != ROOT_DIRECTORY:
                raise FsError(errno.ENOTTY)
            reply = await self._files.run(CTL, branch.view, ioctl.command_in(data), caller)
            self._files.record(branch.view, CTL.name, reply)
        else:
            ticket = self._tickets.ticket(node)
            form = ticket.file.form
            if form is None:
                raise FsError(errno.ENOTTY)
            command = ioctl.command_in(data)
            ticket.wrote(0)
            reply = await self._files.give(ticket, form, command, caller)
        return reply.errno, _answer(reply)

    def answer_again(self, node: NodeId, applied: Sequence[Applied]) -> tuple[int, bytes] | None:
        """What `ioctl` answers where a former process has carried the command out; None: its records don't say."""
        reply = reply_again(applied)
        if reply is None:
            return None
        if node > INO_MASK:
            self._files.record(self._directory(node)[1].view, CTL.name, reply)
        else:
            self.recall_reply(node, applied, 0)
            reply = self._tickets.ticket(node).reply or reply
        return reply.errno, _answer(reply)

    # --- extended attributes -------------------------------------------------------------------------

    async def getxattr(self, node: NodeId, name: bytes, caller: Caller) -> bytes:
        """See Xattrs.get. Control nodes have none (ENODATA)."""
        if self.owns(node):
            raise FsError(errno.ENODATA)
        return await self._xattrs.get(node, name, caller)

    async def setxattr(self, node: NodeId, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        """See Xattrs.set. XATTR_CREATE and XATTR_REPLACE mean nothing to a command. Control nodes: EPERM."""
        if self.owns(node):
            raise FsError(errno.EPERM)
        await self._xattrs.set(node, name, value, caller)

    def recall_result(self, node: NodeId, name: bytes, applied: Sequence[Applied]) -> None:
        """The reply to a command by attribute that a former process has carried out, but perhaps not answered."""
        reply = reply_again(applied)
        if reply is not None:
            self._xattrs.recall(node, name, reply)

    # --- within --------------------------------------------------------------------------------------

    def _root(self, branch: BranchInfo) -> Entry:
        return Entry(directory_node(branch.view, ROOT_DIRECTORY), directory_attributes(branch, 0), 0, False)

    def _directory(self, node: NodeId) -> tuple[int, BranchInfo]:
        """Which control directory of which branch. Raises FsError ENOTDIR, ESTALE."""
        if node <= INO_MASK:
            self._tickets.find(node)
            raise FsError(errno.ENOTDIR)
        which = which_directory(node)
        if not ROOT_DIRECTORY <= which <= BRANCHES:
            raise StaleHandle
        return which, self._fs.branch(view_of(node))

    async def _change(self, command: Command | None, branch: BranchInfo, caller: Caller) -> None:
        """Run the command of a directory operation; None is EPERM."""
        if command is None:
            raise FsError(errno.EPERM)
        reply = await self.commands.run(command, branch.view, caller, later=self._after_reply)
        reply.raise_refusal()


def _answer(reply: Reply) -> bytes:
    line = reply.line
    whole = len(line)
    return ioctl.answer(line if whole <= ioctl.TEXT_MAX else reply.cut(), whole)
