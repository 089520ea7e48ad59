"""What supervisor and workers say to each other: one JSON object a message, with descriptors beside it.

Over a socketpair of SOCK_SEQPACKET, so a message is whole or absent. Imports the standard library alone: the
supervisor lives on it.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

NOTE: Final = "note"
"""Under this name that is kept which whoever follows needs, too."""
_UCRED: Final = struct.Struct("3i")
_MESSAGE_MAX: Final = 1 << 17
_DESCRIPTORS_MAX: Final = 250
"""The kernel passes 253 at a time."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new line."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def maker_of(line: socket.socket) -> int:
    """Process id of who made this line with `pair`."""
    pid: int = _UCRED.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0]
    return pid


def say(line: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()) -> bool:
    """Send a message with descriptors. False: nobody listens. Raises BlockingIOError: nobody reads."""
    data = json.dumps(message).encode()
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        line.sendmsg([data], beside, socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def hear(line: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors, which are closed on exec; None: the other end is gone.

    Raises:
        BlockingIOError: There is none yet, on a non-blocking line.
    """
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(line, _MESSAGE_MAX, _DESCRIPTORS_MAX)
            break
        except ConnectionResetError:
            # Who is gone has not heard all that we said. That comes once, and before his own last words.
            continue
    for fd in fds:
        os.set_inheritable(fd, False)
    if not data:
        return None
    message = json.loads(data)
    assert isinstance(message, dict)
    return message, fds


class Outbox:
    """Messages for a non-blocking line, in their order: what it does not take now waits. Owns not the line."""

    __slots__ = ("_line", "_waiting")

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._waiting: deque[tuple[Mapping[str, object], list[int]]] = deque()

    @property
    def waiting(self) -> bool:
        """Whether there is something that was not sent."""
        return bool(self._waiting)

    def say(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> bool:
        """Send a message with descriptors, or have it wait, with copies of them. False: nobody listens."""
        if not self.flush():
            return False
        if not self._waiting:
            try:
                return say(self._line, message, fds)
            except (BlockingIOError, TimeoutError):
                pass
        self._waiting.append((message, [os.dup(fd) for fd in fds]))
        return True

    def flush(self) -> bool:
        """Send what has waited, as far as the line takes it. False: nobody listens."""
        while self._waiting:
            message, fds = self._waiting[0]
            try:
                if not say(self._line, message, fds):
                    return False
            except (BlockingIOError, TimeoutError):
                return True
            del self._waiting[0]
            for fd in fds:
                os.close(fd)
        return True

    def close(self) -> None:
        """Forget what has waited."""
        for _, fds in self._waiting:
            for fd in fds:
                os.close(fd)
        self._waiting.clear()
