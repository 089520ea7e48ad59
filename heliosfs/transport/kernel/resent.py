"""Requests that come a second time, because the process that had read them is dead.

What has changed something already is answered from what the log says of it, once; all else is simply done. The
table of handlers is wrapped for as long as such requests may come, and not a moment longer, so that they cost the
others nothing. Invariants: a request that was applied is never applied again; a caller of a command hears of its
success when kernels have been told of it. Must not know: how requests are read.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

import trio

from heliosfs.core import oplog
from heliosfs.core.ids import node_id
from heliosfs.core.unanswered import Applied, Unanswered
from heliosfs.transport.kernel import wire
from heliosfs.transport.kernel.handlers import Answer, Handler, Header
from heliosfs.transport.kernel.operations import HeliosHandlers
from heliosfs.transport.kernel.replies import attributes_body, control_body
from heliosfs.transport.kernel.wire import BODY, COPY_OUT, RESENT, SETATTR, WRITE_OUT, Layouts, name_at
from heliosfs.transport.requests import is_control

_Again: TypeAlias = Callable[[Header, memoryview, int, list[Applied]], Answer | Coroutine[Any, Any, Answer]]

_OTHER_QUEUES: Final = frozenset(("FORGET", "BATCH_FORGET", "INTERRUPT"))
"""They overtake what is sent again."""
_NO_BODY: Final = (
    "UNLINK",
    "RMDIR",
    "RENAME",
    "RENAME2",
    "REMOVEXATTR",
    "FALLOCATE",
)
_COMMANDS: Final = frozenset(
    record.KIND
    for record in (
        oplog.Checkpoint,
        oplog.Fork,
        oplog.Restore,
        oplog.RestorePath,
        oplog.ForgetSnapshot,
        oplog.RenameSnapshot,
        oplog.Discard,
    )
)


class Resent:
    """Stands before the handlers until all that was asked of a former process has been answered.

    Attributes:
        told: Set when the kernel has dropped what the former process may not have told it to.
    """

    def __init__(
        self,
        handlers: HeliosHandlers,
        table: list[Handler | None],
        connection: int,
        unanswered: Unanswered,
        *,
        refuse: bool,
        caught_up: Callable[[], None],
    ) -> None:
        """
        Args:
            table: By opcode; wrapped until `close`.
            refuse: Answer EIO to everything that comes again.
            caught_up: Called by `close`.
        """
        self._handlers = handlers
        self._table = table
        self._connection = connection
        self._unanswered = unanswered
        self._refuse = refuse
        self._caught_up = caught_up
        self._open = True
        self._left = {asked for asked in unanswered if asked[0] == connection}
        self.told = trio.Event()
        self._closed = trio.Event()
        self._commands = 0
        self._fewer = trio.Event()
        self._bare = list(table)
        answers = self._answers()
        for opcode, handler in enumerate(self._bare):
            if handler is not None:
                name = wire.BY_OPCODE[opcode].name
                table[opcode] = self._wrapped(handler, answers.get(name), name not in _OTHER_QUEUES)

    def close(self) -> None:
        """Nothing comes again from now on."""
        if self._open:
            self._open = False
            self._closed.set()
            self._table[:] = self._bare
            for asked in self._left:
                self._unanswered.pop(asked, None)
            self._caught_up()

    def _wrapped(self, handler: Handler, again: _Again | None, queued: bool) -> Handler:
        def ask(head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
            unique = head[2]
            if not unique & RESENT:
                if queued:
                    # What is sent again comes before everything else that is asked.
                    self.close()
                return handler(head, view, end)
            if self._refuse:
                return -errno.EIO
            asked = (self._connection, unique & ~RESENT)
            self._left.discard(asked)
            applied = self._unanswered.get(asked)
            if not applied or again is None or not _carried_out(head[1], applied):
                return handler(head, view, end)
            answer = again(head, view, end, applied)
            if not isinstance(answer, Coroutine) or not _is_command(applied):
                return answer
            self._commands += 1
            return self._counted(answer)

        return ask

    async def _counted(self, command: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            return await command
        finally:
            self._commands -= 1
            self._fewer.set()

    async def answered(self) -> None:
        """Return when commands that came again have their replies, and no further one can come.

        (A reply goes out in the turn of the loop in which its command ends.)
        """
        await self._closed.wait()
        while self._commands:
            self._fewer = trio.Event()
            await self._fewer.wait()

    # --- answers -------------------------------------------------------------------------------------

    def _answers(self) -> dict[str, _Again]:
        answers: dict[str, _Again] = dict.fromkeys(("MKNOD", "SYMLINK", "LINK"), self._entry)
        answers.update(dict.fromkeys(_NO_BODY, self._nothing))
        answers["MKDIR"] = self._mkdir
        answers["CREATE"] = answers["TMPFILE"] = self._opened
        answers["SETATTR"] = self._attributes
        answers["SETXATTR"] = self._attribute_set
        answers["WRITE"] = self._written
        answers["IOCTL"] = self._by_ioctl
        answers["COPY_FILE_RANGE"] = lambda head, view, end, applied: WRITE_OUT.pack(_copied(applied), 0)
        answers["COPY_FILE_RANGE_64"] = lambda head, view, end, applied: COPY_OUT.pack(_copied(applied))
        return answers

    def _entry(self, head: Header, view: memoryview, end: int, applied: list[Applied]) -> Answer:
        """What was made then, as it is now."""
        for entry in applied:
            record = oplog.decode(entry.kind, entry.body)
            if isinstance(record, oplog.Make | oplog.MakeUnnamed | oplog.Link):
                fs = self._handlers.fs
                inode = fs.try_getattr(node_id(record.view, record.ino))
                return self._handlers.handed_out(fs.entry(record.view, inode))
        raise AssertionError("a name was made by a record of another kind")

    def _opened(self, head: Header, view: memoryview, end: int, applied: list[Applied]) -> Answer:
        entry = self._entry(head, view, end, applied)
        assert isinstance(entry, bytes)
        return entry + self._handlers.opened_by(Layouts.CREATE.unpack_from(view, BODY)[0])

    def _mkdir(
        self, head: Header, view: memoryview, end: int, applied: list[Applied]
    ) -> Answer | Coroutine[Any, Any, Answer]:
        if not _is_command(applied):
            return self._entry(head, view, end, applied)
        name = name_at(view, BODY + Layouts.MKDIR.size, end)
        return self._mkdir_control(head, name)

    async def _mkdir_control(self, head: Header, name: bytes) -> Answer:
        await self.told.wait()
        handlers = self._handlers
        parent = handlers.node(head[3])
        return handlers.handed_out(await handlers.control.lookup(parent, name, handlers.caller(head)))

    def _nothing(
        self, head: Header, view: memoryview, end: int, applied: list[Applied]
    ) -> Answer | Coroutine[Any, Any, Answer]:
        return self._nothing_when_told() if _is_command(applied) else 0

    async def _nothing_when_told(self) -> Answer:
        await self.told.wait()
        return 0

    def _attribute_set(
        self, head: Header, view: memoryview, end: int, applied: list[Applied]
    ) -> Answer | Coroutine[Any, Any, Answer]:
        handlers = self._handlers
        node = handlers.node(head[3])
        name = name_at(view, BODY + handlers.setxattr_layout.size, end)
        if not _is_command(applied):
            handlers.mode_may_differ(node, name)
            return 0
        handlers.control.recall_result(node, name, applied)
        return self._nothing_when_told()

    def _attributes(
        self, head: Header, view: memoryview, end: int, applied: list[Applied]
    ) -> Answer | Coroutine[Any, Any, Answer]:
        node = self._handlers.node(head[3])
        if is_control(node):
            if not _is_command(applied):
                return self._handlers.setattr(head, view, end)
            return self._touched(head, applied)
        # Not to be kept: for some of these the first answer was not, either.
        return attributes_body(node, self._handlers.fs.try_getattr(node), 0)

    async def _touched(self, head: Header, applied: list[Applied]) -> Answer:
        handlers = self._handlers
        await self._recall(head, applied, None)
        node = handlers.node(head[3])
        await handlers.dropped(node)
        return control_body(node, handlers.control.try_getattr(node))

    def _written(
        self, head: Header, view: memoryview, end: int, applied: list[Applied]
    ) -> Answer | Coroutine[Any, Any, Answer]:
        handlers = self._handlers
        handle, offset, size, _, _, flags, _ = Layouts.WRITE.unpack_from(view, BODY)
        node = handlers.node(head[3])
        if is_control(node):
            if not _is_command(applied):
                # A policy, or snapshots that one gave up: the record does not say what was answered.
                return handlers.write(head, view, end)
            return self._commanded(head, applied, offset + size, size)
        if handlers.waits_for_the_disk(handle, flags):
            return handlers.synced(node, size)
        return WRITE_OUT.pack(size, 0)

    async def _commanded(self, head: Header, applied: list[Applied], behind: int, size: int) -> Answer:
        await self._recall(head, applied, behind)
        self._handlers.drop_pages(self._handlers.node(head[3]))
        return WRITE_OUT.pack(size, 0)

    async def _by_ioctl(self, head: Header, view: memoryview, end: int, applied: list[Applied]) -> Answer:
        handlers = self._handlers
        node = handlers.node(head[3])
        room = Layouts.IOCTL.unpack_from(view, BODY)[5]
        # What follows may suspend, and the buffer is the next request's then.
        request = view[:end].tobytes()
        await self.told.wait()
        answered = handlers.control.answer_again(node, applied)
        if answered is not None:
            return handlers.commanded(node, room, answered)
        answer = handlers.ioctl(head, memoryview(request), end)
        return await answer if isinstance(answer, Coroutine) else answer

    async def _recall(self, head: Header, applied: list[Applied], behind: int | None) -> None:
        """The ticket shows the reply to a command that a former process has carried out."""
        await self.told.wait()
        handlers = self._handlers
        handlers.control.recall_reply(handlers.node(head[3]), applied, behind)


def _carried_out(opcode: int, applied: list[Applied]) -> bool:
    """Whether these records are what was asked for.

    Somebody without CAP_FSETID has a file's set-id bits taken first, by a record of its own. Who asks for what they
    were taken for is not answered by that; done now, it finds none.
    """
    return opcode == SETATTR.opcode or any(entry.kind != oplog.SetAttributes.KIND for entry in applied)


def _copied(applied: list[Applied]) -> int:
    record = oplog.decode(applied[-1].kind, applied[-1].body)
    assert isinstance(record, oplog.CopyRange)
    return record.length


def _is_command(applied: list[Applied]) -> bool:
    """Whether a command of the control tree has made these records."""
    return any(entry.kind in _COMMANDS for entry in applied)
