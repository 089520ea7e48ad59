"""Takes request after request from /dev/fuse and answers each; one task leads, others follow.

The leader reads a request, calls its handler, writes the reply, and reads the next: no task is made and the loop
is not turned for a request that does not wait for anything. When a handler suspends, the leader hands the lead to
another task, ends that request on its own, and joins the followers.

What a handler has promised is kept right after its reply, while the caller wakes up.

Invariants: one task reads at a time, always to the same buffer; every request that wants a reply gets exactly one;
what a handler raises ends its request and nothing else; other tasks of the loop get a turn after TURN_REQUESTS
requests and while polling; no CPU when nothing comes in. Must not know: what a request asks for.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Final, Protocol

import trio

from heliosfs.core.errors import Damaged, FsError, NeedPages
from heliosfs.core.ids import NodeId
from heliosfs.core.unanswered import Asked, Unanswered
from heliosfs.filesystem.door import NeedRoom
from heliosfs.transport.errnos import errno_of
from heliosfs.transport.kernel.handlers import Answer, Handler, Header
from heliosfs.transport.kernel.interrupts import Interrupts
from heliosfs.transport.kernel.wire import (
    BODY,
    BY_OPCODE,
    IN_HEADER,
    LEAST,
    ONCE,
    OPCODES,
    OUT_HEADER,
    REQUEST_MAX,
    Malformed,
)
from heliosfs.transport.polling import TURN_REQUESTS, Poller
from heliosfs.transport.requests import AfterReply, run_logged
from heliosfs.transport.waking import WakeUps

_log = logging.getLogger("heliosfs.transport")

_MAX_TASKS: Final = 500
"""Requests in progress at a time: each fsync and each cold read holds a task while it waits."""
_KEPT_TASKS: Final = 8
_JOINED: Final = 4096
"""Bodies up to this many bytes are copied behind their header: cheaper than a second buffer."""
_UNKNOWN: Final = BY_OPCODE[1]._replace(name="unknown")

RETRIED: Final = (NeedPages, NeedRoom)
"""What a handler raises to be called again; it has changed nothing."""


class Trace(Protocol):
    """Is told of every request; see tracing.py."""

    def read(self, head: Header, view: memoryview, end: int) -> None: ...
    def replied(self, head: Header, answer: Answer) -> None: ...
    def ended(self) -> None: ...


class Asker(Protocol):
    """Where it is said who asks, for the log to write down."""

    connection: int
    request: int


class Promises(Protocol):
    """What a handler has answered before it was done; see Door.promise."""

    owed: Any

    def keep(self) -> None: ...


class Settle(Protocol):
    """Calls until what is asked for is there; see Door.settled."""

    async def __call__(self, act: Callable[..., Any], *args: Any) -> Any: ...


class Pump:
    """Serves one descriptor.

    Attributes:
        requests: How many were read.
    """

    def __init__(
        self,
        fd: int,
        handlers: Sequence[Handler | None],
        settle: Settle,
        after_reply: AfterReply,
        asked: Callable[[], None],
        asker: Asker,
        connection: int,
        unanswered: Unanswered,
        promises: Promises,
        interrupts: Interrupts,
        trace: Trace | None = None,
        drained: Callable[[], None] | None = None,
        wake_ups: WakeUps | None = None,
    ) -> None:
        """
        Args:
            wake_ups: Are made quick under load.
            asker: Is told which request of `connection` goes on, before it does.
            unanswered: Gets an entry for each request that waits for something, until it has been answered.
            promises: Kept right after the reply.
            interrupts: Is told of requests that wait.
            drained: Called whenever nothing waits to be read.
            fd: /dev/fuse, non-blocking, INIT answered.
            handlers: By opcode, OPCODES of them; None: ENOSYS.
            asked: Called before each handler: this session's request is being answered now.
        """
        assert len(handlers) == OPCODES
        self._fd = fd
        self._handlers = handlers
        self._settle = settle
        self._after_reply = after_reply
        self._asked = asked
        self._trace = trace
        self._asker = asker
        self._connection = connection
        self._unanswered = unanswered
        self._promises = promises
        self._interrupts = interrupts
        self._drained = drained
        self._poller = Poller(fd, wake_ups)
        self._leader: trio.lowlevel.Task | None = None
        self._followers: list[trio.lowlevel.Task] = []
        self._tasks = 0
        self._ended = False
        self._buffer = request_buffer()
        self.requests = 0

    async def run(self) -> None:
        """Serve until the connection ends or `stop`; returns when every request read has been answered."""
        async with trio.open_nursery() as self._nursery:
            self._start()

    def stop(self) -> None:
        """Read nothing more."""
        if not self._ended:
            self._ended = True
            self._poller.close()
            for task in self._followers:
                trio.lowlevel.reschedule(task)
            self._followers.clear()

    # --- leading and following -----------------------------------------------------------------------

    def _start(self) -> None:
        self._tasks += 1
        self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        me = trio.lowlevel.current_task()
        try:
            while not self._ended:
                if self._leader is None:
                    self._leader = me
                    await self._lead(me)
                elif len(self._followers) >= _KEPT_TASKS:
                    return
                else:
                    await self._follow(me)
        finally:
            self._tasks -= 1
            if self._leader is me:
                self._leader = None

    async def _follow(self, me: trio.lowlevel.Task) -> None:
        self._followers.append(me)

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._followers.remove(me)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    def _hand_over(self) -> None:
        """Whoever leads is about to suspend inside a request. Who has done so before leads no more."""
        if self._leader is not trio.lowlevel.current_task():
            return
        self._leader = None
        if self._followers:
            trio.lowlevel.reschedule(self._followers.pop())
        elif self._tasks < _MAX_TASKS and not self._ended:
            self._start()

    async def _lead(self, me: trio.lowlevel.Task) -> None:
        """Read and answer until a request has suspended, or nothing more comes."""
        fd, handlers, trace, asked = self._fd, self._handlers, self._trace, self._asked
        asker, connection, unanswered = self._asker, self._connection, self._unanswered
        promises, drained, glance = self._promises, self._drained, self._poller.glance
        buffer = self._buffer
        buffers = [buffer]
        view = memoryview(buffer)
        waiting: list[bytes] = []
        unpack, pack, readv, write = IN_HEADER.unpack_from, OUT_HEADER.pack, os.readv, os.write
        after = self._after_reply.pending
        coroutine = types.CoroutineType
        turn = TURN_REQUESTS
        try:
            while not self._ended:
                try:
                    end = readv(fd, buffers)
                except BlockingIOError:
                    if drained is not None:
                        drained()
                    if not glance():
                        await self._wait()
                        turn = TURN_REQUESTS
                    continue
                except OSError as error:
                    self._read_failed(error)
                    continue
                if end < BODY:
                    self._end_of_stream(end)
                    continue
                self.requests += 1
                head = unpack(buffer)
                asker.connection = connection
                asker.request = head[2] & ONCE
                if trace is not None:
                    trace.read(head, view, end)
                answer: Any
                try:
                    opcode = head[1]
                    handler = handlers[opcode] if opcode < OPCODES else None
                    if handler is None:
                        answer = -errno.ENOSYS
                    elif head[0] != end or end < LEAST[opcode]:
                        answer = -errno.EINVAL
                    else:
                        asked()
                        answer = handler(head, view, end)
                        if answer.__class__ is coroutine:
                            answer = await self._waited(answer, head, partial(self._give_up, view[:end], waiting))
                except RETRIED:
                    assert handler is not None
                    answer = await self._again(handler, head, waiting.pop() if waiting else view[:end].tobytes())
                except Exception as error:
                    answer = -refusal_of(error, head)
                if answer.__class__ is bytes:
                    length = len(answer)
                    try:
                        if length <= _JOINED:
                            write(fd, pack(16 + length, 0, head[2]) + answer)
                        else:
                            os.writev(fd, (pack(16 + length, 0, head[2]), answer))
                    except OSError as error:
                        self._reply_failed(error, head)
                elif answer is not None:
                    try:
                        write(fd, pack(16, answer, head[2]))
                    except OSError as error:
                        self._reply_failed(error, head)
                if promises.owed is not None:
                    promises.keep()
                if unanswered:
                    unanswered.pop((connection, head[2] & ONCE), None)
                if trace is not None:
                    trace.replied(head, answer)
                if after:
                    for work in self._after_reply.take():
                        self._nursery.start_soon(run_logged, work)
                if self._leader is not me:
                    return
                turn -= 1
                if not turn:
                    turn = TURN_REQUESTS
                    await trio.lowlevel.checkpoint()
        finally:
            view.release()

    def _give_up(self, request: memoryview, waiting: list[bytes]) -> None:
        """A request begins to wait, and others are read to the buffer; yet it may have to be called again."""
        waiting.append(request.tobytes())
        self._hand_over()

    async def _again(self, handler: Handler, head: Header, request: bytes) -> Answer:
        """Provide what a handler has asked for, and call it again with a copy of its request."""
        try:
            return await self._waited(self._settled(handler, head, memoryview(request)), head, self._hand_over)
        except RETRIED as error:
            return self._interrupts.end(head, -refusal_of(error, head))

    async def _waited(self, work: Coroutine[Any, Any, Answer], head: Header, give_up: Callable[[], None]) -> Answer:
        """Await what a request waits for. None: its caller has been let go meanwhile. May raise RETRIED.

        Args:
            give_up: Called before it first suspends: others read and answer from then on.
        """
        who = (self._connection, head[2] & ONCE)
        self._unanswered.setdefault(who, [])
        answer: Answer
        try:
            answer = await _driven(work, partial(self._suspended, head, give_up), self._asker, who)
        except RETRIED:
            raise
        except Exception as error:
            answer = -refusal_of(error, head)
        return self._interrupts.end(head, answer)

    def _suspended(self, head: Header, give_up: Callable[[], None]) -> None:
        self._interrupts.begin(head)
        give_up()

    async def _settled(self, handler: Handler, head: Header, view: memoryview) -> Answer:
        def called() -> Answer | Coroutine[Any, Any, Answer]:
            self._asked()
            return handler(head, view, len(view))

        answer: Answer | Coroutine[Any, Any, Answer] = await self._settle(called)
        return await answer if isinstance(answer, Coroutine) else answer

    # --- the descriptor ------------------------------------------------------------------------------

    async def _wait(self) -> None:
        try:
            await self._poller.wait_longer()
        except trio.ClosedResourceError:
            self.stop()

    def _read_failed(self, error: OSError) -> None:
        """ENOENT: the request was taken back before it was read; EINTR; all else is the connection's end."""
        if error.errno not in (errno.ENOENT, errno.EINTR):
            if error.errno not in (errno.ENODEV, errno.ECONNABORTED):
                _log.error("reading requests: %s", error)
            self.stop()

    def _end_of_stream(self, length: int) -> None:
        if length:
            _log.error("a request of %d bytes has no header: dropped", length)
        else:
            self.stop()

    def _reply_failed(self, error: OSError, head: Header) -> None:
        """ENOENT: nobody waits any more. After the connection's end nobody does either."""
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED, errno.EPERM, errno.ENOTCONN):
            return
        _log.error("the kernel refused a reply to %s: %s", _name(head), error)
        try:
            os.write(self._fd, OUT_HEADER.pack(16, -errno.EIO, head[2]))
        except OSError as again:
            _log.error("and the error instead of it: %s", again)


def request_buffer() -> mmap.mmap:
    """Room for any request, in memory as a whole. Takes 0.5 ms.

    A process that is killed while the kernel copies a request to a page that is not there yet, or is shared with a
    fork, does not get that page any more; the kernel then ends the request with EIO (fuse_dev_do_read), instead of
    sending it again to whoever goes on. Seen five times in 80 kills beside writes of 1 MiB on a loaded machine.
    """
    buffer = mmap.mmap(-1, REQUEST_MAX, mmap.MAP_PRIVATE | mmap.MAP_POPULATE)
    # A fork would leave our pages read-only.
    buffer.madvise(mmap.MADV_DONTFORK)
    return buffer


def refusal_of(error: Exception, head: Header) -> int:
    """The errno for what a handler has raised."""
    if isinstance(error, FsError) and not isinstance(error, Damaged):
        return error.errno
    if isinstance(error, Malformed):
        _log.warning("a malformed %s: %s", _name(head), error)
        return errno.EINVAL
    return errno_of(error, _name(head).lower(), NodeId(head[3]))


def _name(head: Header) -> str:
    return BY_OPCODE.get(head[1], _UNKNOWN).name


@types.coroutine
def _driven(
    work: Coroutine[Any, Any, Answer], suspended: Callable[[], None], asker: Asker, asked: Asked
) -> Generator[Any, Any, Answer]:
    """Await `work`; call `suspended` right before it first gives way. For work that does not, 0.4 us.

    Each time it goes on, `asker` is told whom it serves.
    """
    try:
        trap = work.send(None)
    except StopIteration as done:
        answer: Answer = done.value
        return answer
    suspended()
    while True:
        asker.request = 0
        try:
            sent = yield trap
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:
            asker.connection, asker.request = asked
            try:
                trap = work.throw(error)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
        else:
            asker.connection, asker.request = asked
            try:
                trap = work.send(sent)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
