"""The store's socket: one JSON line in, one JSON line out (progress lines before it, where a verb has some).

A request is {"argv": [str, ...], "branch": str, "cwd_path": str | null}; a reply has the keys of control's
replies. Who asks is what the kernel says (SO_PEERCRED). Invariants: the socket has mode 0600, and who is neither
root nor the daemon's user gets EACCES whatever its mode; no line, however bad, ends more than its connection;
clients, what they may send and how long they may be silent are bounded. Must not know: what the verbs do.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import trio

from heliosfs.control.reply import encode_line
from heliosfs.core.errors import FsError
from heliosfs.daemon.address import SOCKET_NAME, socket_address
from heliosfs.filesystem.types import Caller
from heliosfs.transport.keeping import Keeper

_log = logging.getLogger("heliosfs.daemon")

LINE_MAX: Final = 1 << 17
"""Bytes of the longest request: words, among them paths, and what JSON makes of them."""
CONNECTIONS_MAX: Final = 64
"""Clients at a time. Each may hold LINE_MAX bytes of ours."""
IDLE_S: Final = 30.0
"""A client who neither completes a line nor takes his reply for so long is hung up on."""
_READ_SIZE: Final = 65536
_BACKLOG: Final = 64
_KEPT_NAME: Final = "socket"
_UCRED: Final = struct.Struct("3i")

Progress: TypeAlias = Callable[[Mapping[str, object]], Awaitable[None]]
"""Sends a progress line; raises trio.BrokenResourceError when nobody listens any more."""


@dataclass(slots=True, frozen=True)
class Request:
    """One line from a client, its shape checked.

    Attributes:
        argv: The words, at least one.
        branch: Path of the branch to act on.
        cwd_path: The caller's path inside that branch, or None.
        caller: Who asks, by the kernel's word.
    """

    argv: tuple[str, ...]
    branch: str
    cwd_path: str | None
    caller: Caller


Verb: TypeAlias = Callable[[Request, Progress], Awaitable[Mapping[str, object]]]
"""What answers a verb; it may raise FsError or OSError, which become replies."""


class Server:
    """Answers requests: verbs of the daemon from a table, all others by `other`.

    Args:
        operators: Who may ask at all, by user id: root, and whose the daemon and its store are.
    """

    def __init__(self, verbs: Mapping[str, Verb], other: Verb, *, operators: Collection[int] | None = None) -> None:
        self._verbs = dict(verbs)
        self._other = other
        self._operators = frozenset((0, os.geteuid())) if operators is None else frozenset(operators)
        self._connections = 0

    def register(self, name: str, verb: Verb) -> None:
        """Add a verb. One of the same name is replaced."""
        self._verbs[name] = verb

    async def serve_connection(self, stream: trio.SocketStream) -> None:
        """Answer one client until it hangs up, says nothing for IDLE_S, or may not ask."""
        caller = peer(stream.socket)
        self._connections += 1
        try:
            async with stream:
                # The socket's mode says the same; a directory's can be changed by mistake.
                if caller.uid not in self._operators:
                    await _send(stream, failure("", errno.EACCES, "only the store's owner or root may ask"))
                elif self._connections > CONNECTIONS_MAX:
                    await _send(
                        stream, failure("", errno.EAGAIN, f"{CONNECTIONS_MAX} clients are connected already")
                    )
                else:
                    await self._serve(stream, caller)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            self._connections -= 1

    async def _serve(self, stream: trio.SocketStream, caller: Caller) -> None:
        lines = _Lines(stream)
        try:
            while (line := await lines.next()) is not None:
                await _send(stream, await self._answer(line, caller, stream))
        except _LineTooLong:
            await _send(stream, failure("", errno.E2BIG, f"a line has {LINE_MAX} bytes at most"))

    async def _answer(self, line: bytes, caller: Caller, stream: trio.SocketStream) -> Mapping[str, object]:
        async def progress(state: Mapping[str, object]) -> None:
            await _send(stream, {"progress": state})

        try:
            request = parse_request(line, caller)
        except ValueError as error:
            return failure("", errno.EINVAL, str(error))
        verb = request.argv[0]
        try:
            return await self._verbs.get(verb, self._other)(request, progress)
        except (FsError, OSError) as error:
            return failure(verb, error.errno or errno.EIO, str(error))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception as error:
            _log.exception("%s failed", verb)
            return failure(verb, errno.EIO, f"unexpected {type(error).__name__}; see daemon.log")


@asynccontextmanager
async def listening(store: Path, server: Server, keeper: Keeper) -> AsyncIterator[None]:
    """Serve the store's socket inside the `async with`; its name is gone afterwards.

    The caller holds the store's lock, so a socket that lies there is a dead daemon's and is replaced; unless that
    has left the socket itself with `keeper`: then clients who have called meanwhile are answered.

    Raises:
        OSError: It can't be made.
    """
    name = store / SOCKET_NAME
    kept = keeper.found(_KEPT_NAME)
    bound = _bound(store) if kept is None else socket.socket(fileno=kept.fd)
    keeper.keep(_KEPT_NAME, bound.fileno(), {})
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, server.serve_connection, [listener])
            yield
            nursery.cancel_scope.cancel()
    finally:
        if not keeper.handing_over:
            name.unlink(missing_ok=True)


def _bound(store: Path) -> socket.socket:
    """A new socket under the store's name, listening."""
    (store / SOCKET_NAME).unlink(missing_ok=True)
    with socket_address(store) as address:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        umask = os.umask(0o177)
        try:
            bound.bind(address)
        finally:
            os.umask(umask)
    bound.listen(_BACKLOG)
    return bound


def parse_request(line: bytes, caller: Caller) -> Request:
    """Check a line. Raises ValueError in words for the client."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a JSON line: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("a request is a JSON object")
    argv = found.get("argv")
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        raise ValueError('"argv" must be a list of strings, and not empty')
    branch = found.get("branch") or "main"
    path = found.get("cwd_path")
    if not isinstance(branch, str) or not (path is None or isinstance(path, str)):
        raise ValueError('"branch" and "cwd_path" must be strings')
    return Request(tuple(argv), branch, path, caller)


def failure(verb: str, code: int, words: str) -> dict[str, object]:
    """A reply that says no, with the keys that every reply has."""
    return {
        "ok": False,
        "verb": verb,
        "id": None,
        "name": None,
        "errno": errno.errorcode.get(code, str(code)),
        "error": words,
        "durable": False,
        "time_ns": time.time_ns(),
    }


def success(verb: str, **more: object) -> dict[str, object]:
    """A reply of a daemon's verb that says yes."""
    reply = failure(verb, 0, "")
    reply.update({"ok": True, "errno": None, "error": None}, **more)
    return reply


def peer(connection: trio.socket.SocketType) -> Caller:
    """Who is at the other end."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Caller(uid, gid, pid)


class _LineTooLong(Exception):
    """A client sent more than LINE_MAX bytes without a newline."""


class _Lines:
    """The lines of a stream, their newlines taken off, blank ones left out."""

    __slots__ = ("_buffer", "_stream")

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> bytes | None:
        """The next line; None at the end, and where none is whole within IDLE_S. Raises _LineTooLong."""
        with trio.move_on_after(IDLE_S):
            return await self._next()
        return None

    async def _next(self) -> bytes | None:
        buffer = self._buffer
        searched = 0
        while True:
            end = buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                searched = 0
                if line.strip():
                    return line
                continue
            if len(buffer) > LINE_MAX:
                raise _LineTooLong
            searched = len(buffer)
            read = await self._stream.receive_some(_READ_SIZE)
            if not read:
                return None
            buffer += read


async def _send(stream: trio.SocketStream, reply: Mapping[str, object]) -> None:
    """Raises BrokenResourceError, too, where the client takes nothing for IDLE_S."""
    line = memoryview(encode_line(reply))
    for at in range(0, len(line), _READ_SIZE):
        with trio.move_on_after(IDLE_S) as limit:
            await stream.send_all(line[at : at + _READ_SIZE])
        if limit.cancelled_caught:
            raise trio.BrokenResourceError("the client takes nothing")
