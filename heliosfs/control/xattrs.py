"""The attributes `user.helios.*`: those that give commands, and those that tell of a node.

Invariants: none is ever listed; the names that a command by attribute changes are told to the kernels after the
reply, because setxattr(2) holds the node's lock until then. Must not know: control files, verbs.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Awaitable, Callable
from typing import Final

from heliosfs.control.commands import Command
from heliosfs.control.door import Versions
from heliosfs.control.reply import Reply
from heliosfs.control.runner import Commands
from heliosfs.control.table import COMMAND_XATTRS, XattrForm
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import INO_MASK, ROOT_INO, NodeId, ViewNo, view_of
from heliosfs.filesystem.types import AfterReply, Caller

PREFIX: Final = b"user.helios."


class Xattrs:
    """Get and set; `node` is never one of the control tree's own."""

    def __init__(
        self,
        fs: Versions,
        commands: Commands,
        after_reply: AfterReply,
        record: Callable[[ViewNo, bytes, Reply], None],
    ) -> None:
        """
        Args:
            record: As `commands.record`, and remembered for a process that goes on.
        """
        self._fs = fs
        self._record = record
        self._commands = commands
        self._after_reply = after_reply
        self._tells: dict[bytes, Callable[[NodeId], Awaitable[bytes]]] = {
            PREFIX + b"root": self._root,
            PREFIX + b"hash": self._hash,
            PREFIX + b"durable": self._durable,
            PREFIX + b"id": self._id,
        }

    async def get(self, node: NodeId, name: bytes, caller: Caller) -> bytes:
        """A fact about the node, or the branch's last result of a command.

        Raises:
            FsError: ENODATA not here, nothing yet, or no such attribute; EACCES somebody else's results;
                ESTALE. `.root` and `.hash` wait until the state is persisted, and fail as reading does.
        """
        tell = self._tells.get(name)
        if tell is not None:
            return await tell(node)
        form = _FORMS.get(name)
        if form is None:
            raise FsError(errno.ENODATA)
        view = self._branch_view(node, form)
        if view is None:
            raise FsError(errno.ENODATA)
        self._commands.may(view, caller)
        reply = self._commands.last(view, form.name)
        if reply is None:
            raise FsError(errno.ENODATA, "nothing was done by it yet")
        return reply.line

    async def set(self, node: NodeId, name: bytes, value: bytes, caller: Caller) -> None:
        """Carry out a command. About 5 us beside what the filesystem takes.

        Raises:
            FsError: EPERM for one that only tells; EINVAL no such attribute, or a malformed value; EROFS in a
                snapshot; EACCES; ESTALE; as the command.
        """
        form = _FORMS.get(name)
        if form is None:
            if name in self._tells:
                raise FsError(errno.EPERM, "this attribute cannot be set")
            raise FsError(errno.EINVAL, "no such attribute")
        view = self._branch_view(node, form)
        if view is None:
            raise FsError(errno.EROFS)
        commands = self._commands
        try:
            command = await self._command(form, node, value)
        except FsError as error:
            commands.may(view, caller)
            reply = commands.refusal(form.name.decode(), error.errno, error.reason)
        else:
            reply = await commands.run(command, view, caller, later=self._after_reply)
        self._record(view, form.name, reply)
        reply.raise_refusal()

    def recall(self, node: NodeId, name: bytes, reply: Reply) -> None:
        """The reply to what a former process has set, unless that one has remembered it, with all it said."""
        form = _FORMS[name]
        view: ViewNo | None = None
        with contextlib.suppress(StaleHandle):
            view = self._branch_view(node, form)
        if view is not None:
            last = self._commands.last(view, form.name)
            if last is None or last.time_ns < reply.time_ns:
                self._record(view, form.name, reply)

    async def _command(self, form: XattrForm, node: NodeId, value: bytes) -> Command:
        view = view_of(node)
        if form.on_snapshot is not None and self._fs.is_snapshot(view):
            return form.on_snapshot(value, view)
        if form.on_path is not None and node & INO_MASK != ROOT_INO:
            return form.on_path(value, await self._fs.path_of(node))
        return form.on_branch(value)

    def _branch_view(self, node: NodeId, form: XattrForm) -> ViewNo | None:
        """The branch that the attribute acts on; None where a snapshot does not have it.

        Raises:
            StaleHandle: The node's view is dead.
        """
        view = view_of(node)
        if self._fs.is_branch(view):
            return view
        if not self._fs.is_snapshot(view):
            raise StaleHandle
        if form.on_snapshot is None or node & INO_MASK != ROOT_INO:
            return None
        return self._owner(view)[0]

    def _owner(self, view: ViewNo) -> tuple[ViewNo, bytes]:
        owner = self._commands.roots.owner(view)
        if owner is None:
            raise StaleHandle("this snapshot was not looked up")
        return owner

    async def _root(self, node: NodeId) -> bytes:
        self._only_roots(node)
        return (await self._fs.tree_root(view_of(node))).encode()

    async def _durable(self, node: NodeId) -> bytes:
        self._only_roots(node)
        return b"1" if self._fs.view_durable(view_of(node)) else b"0"

    async def _hash(self, node: NodeId) -> bytes:
        if not stat.S_ISREG((await self._fs.getattr(node)).mode):
            raise FsError(errno.ENODATA, "only a regular file has a hash")
        return (await self._fs.content_hash(node)).encode()

    async def _id(self, node: NodeId) -> bytes:
        """`main/exp@now:123`, `main@v1:123`: branch, version, inode number."""
        fs, view = self._fs, view_of(node)
        version = b"now"
        if fs.is_snapshot(view):
            view, version = self._owner(view)
        return b"%b@%b:%d" % (fs.branch(view).path, version, node & INO_MASK)

    @staticmethod
    def _only_roots(node: NodeId) -> None:
        if node & INO_MASK != ROOT_INO:
            raise FsError(errno.ENODATA, "only the root of a branch or snapshot has it")


_FORMS: Final = {PREFIX + name: form for name, form in COMMAND_XATTRS.items()}
