"""A kernel's end of a FUSE connection, made of a socket pair: sends requests, takes replies and notifications.

Each message is one datagram, as on /dev/fuse. Must not know: pytest.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import trio

from heliosfs.control.remembering import Memory
from heliosfs.control.tree import ControlTree
from heliosfs.core.ids import ViewNo
from heliosfs.filesystem import Filesystem, open_filesystem
from heliosfs.transport.keeping import Keeper, NobodyKeeps
from heliosfs.transport.kernel.negotiation import WANTED, Connection
from heliosfs.transport.kernel.session import KernelSession
from heliosfs.transport.kernel.wire import ENTRY_OUT, IN_HEADER, INIT, OUT_HEADER, RESENT, Layouts, Operation
from heliosfs.transport.registry import Registry
from heliosfs.transport.requests import DeferWork

CONNECTION = Connection(45, WANTED, no_open=True)
TIMEOUT_S = 20.0
_SO_SNDBUFFORCE = 32
"""As SO_SNDBUF, past the system's limit: a message of 1 MiB is one datagram."""


class Reply(NamedTuple):
    """What was answered: 0 or a negative errno, and the body."""

    error: int
    body: bytes
    unique: int


Again: TypeAlias = tuple[int, Operation, int, bytes]
"""A request that comes once more: the number that it had, operation, node, body."""


class Wire:
    """Sends requests as a kernel does."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.settimeout(TIMEOUT_S)
        self._unique = 2

    def send(self, operation: Operation | int, node: int, body: bytes = b"", *, uid: int = 0) -> int:
        """One request; its unique number."""
        self._unique += 2
        self.send_as(self._unique, operation, node, body, uid=uid)
        return self._unique

    def send_as(self, unique: int, operation: Operation | int, node: int, body: bytes, *, uid: int = 0) -> None:
        """One request with this number."""
        opcode = operation if isinstance(operation, int) else operation.opcode
        length = IN_HEADER.size + len(body)
        self.end.send(IN_HEADER.pack(length, opcode, unique, node, uid, uid, 1, 0, 0) + body)

    def receive(self) -> Reply:
        """The next reply, or notification (unique 0)."""
        data = self.end.recv(1 << 21)
        length, error, unique = OUT_HEADER.unpack_from(data)
        assert length == len(data), (length, len(data))
        return Reply(error, data[OUT_HEADER.size :], unique)

    def ask(self, operation: Operation | int, node: int, body: bytes = b"", *, uid: int = 0) -> Reply:
        """One request and its reply, which must come next."""
        unique = self.send(operation, node, body, uid=uid)
        reply = self.receive()
        assert reply.unique == unique
        return reply

    def entry(self, reply: Reply) -> tuple[int, ...]:
        """A successful reply's fuse_entry_out."""
        assert reply.error == 0, errno.errorcode.get(-reply.error)
        return ENTRY_OUT.unpack_from(reply.body)


def named(layout: struct.Struct, *fields: int, names: bytes) -> bytes:
    """The fixed part of a body, and names behind it."""
    return layout.pack(*fields) + names


def write_body(offset: int, data: bytes, *, flags: int = 0) -> bytes:
    """The body of a WRITE."""
    return Layouts.WRITE.pack(0, offset, len(data), 0, 0, flags, 0) + data


def read_body(offset: int, size: int) -> bytes:
    """The body of a READ or READDIR."""
    return Layouts.READ.pack(0, offset, size, 0, 0, 0, 0)


class Server:
    """A session of a real filesystem, run in a thread of its own; `fs` is its filesystem."""

    def __init__(
        self,
        store: Path,
        connection: Connection = CONNECTION,
        *,
        number: int = 0,
        again: bool = False,
        waiting: Sequence[Again] = (),
        memory: Memory | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """
        Args:
            memory: Of what control files hold; with `again`, what that process has remembered.
            number: Of the connection, in the log's records.
            again: Go on with what a former process has left.
            waiting: Requests that are to be read before all others.
        """
        self.fs: Filesystem
        self._number = number
        self._again = again
        self._memory = memory
        self._keeper = keeper or NobodyKeeps()
        self._store = store
        self._connection = connection
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, self._theirs):
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE if os.geteuid() == 0 else socket.SO_SNDBUF, 4 << 20)
        self._theirs.setblocking(False)
        self.wire = Wire(ours)
        for unique, operation, node, body in waiting:
            self.wire.send_as(unique | RESENT, operation, node, body)
        self._ready = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(TIMEOUT_S)

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:
            self.error = error
            self._ready.set()

    async def _serve(self) -> None:
        connections = [self._number] if self._again else []
        opened = open_filesystem(self._store, create=True, background=False, connections=connections)
        async with opened as self.fs:
            self._registry = Registry(self.fs)
            self._token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as self._nursery:
                serve = partial(self._session().serve_agreed, number=self._number, again=self._again)
                await self._nursery.start(serve, self._theirs.fileno(), self._connection)
                self._ready.set()

    def _session(self) -> KernelSession:
        def make_control(after_reply: DeferWork, by_page: bool) -> ControlTree:
            control = ControlTree(
                self.fs, visible=False, after_reply=after_reply, by_page=by_page, memory=self._memory
            )
            if self._again and self._memory is not None:
                control.recall()
            return control

        return KernelSession(
            self.fs, self._registry, make_control, ViewNo(1), Path("/nowhere"), set(), keeper=self._keeper
        )

    @contextmanager
    def connected(self, init: bytes) -> Iterator[tuple[Wire, Reply]]:
        """One more kernel, which begins with this INIT: its end, and the reply to it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        wire = Wire(ours)
        wire.send(INIT, 0, init)
        ended = threading.Event()

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            try:
                session = self._session()
                connection = await session._agree(theirs.fileno())
                await session.serve_agreed(theirs.fileno(), connection, task_status=task_status)
            finally:
                ended.set()

        trio.from_thread.run(self._nursery.start, serve, trio_token=self._token)
        try:
            yield wire, wire.receive()
        finally:
            ours.close()
            assert ended.wait(TIMEOUT_S)
            theirs.close()

    def fail(self) -> None:
        """Something else in the process fails: the session is cancelled."""
        trio.from_thread.run_sync(self._nursery.cancel_scope.cancel, trio_token=self._token)
        self._thread.join(TIMEOUT_S)

    def close(self) -> None:
        """Hang up; returns when the session has ended. Raises what it died of."""
        self.wire.end.close()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        self._theirs.close()
        if self.error is not None:
            raise self.error
