"""What control would lose with its process while a kernel goes on: tickets, links, results; in a memory file.

Every change is one JSON line appended to a descriptor of which somebody else keeps a copy; a process that takes
over reads them. A line that was cut short by a SIGKILL has not happened. Invariant: lines read in order give what
is in memory; when there are too many, they are written anew. Must not know: who keeps the copy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from heliosfs.control.reply import Reply

GROWN_BYTES: Final = 1 << 15
"""Whoever takes over reads this much, 0.5 ms, before he answers anybody."""

Line: TypeAlias = Mapping[str, object]
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
"""As json.dumps, which makes such an encoder for each line: 1 us."""


class Memory:
    """Lines in a file of memory. Appending one costs about 5 us.

    Attributes:
        fd: Of which somebody who outlives this process is to have a copy.
    """

    def __init__(self, keep: Callable[[int], object], fd: int | None = None) -> None:
        """
        Args:
            keep: Given each new descriptor.
            fd: What a former process has left; it is owned from now on.
        """
        self._keep = keep
        self._anew: Callable[[], Iterable[Line]] = tuple
        if fd is None:
            self._begin()
        else:
            self.fd = fd
            self._size = os.fstat(fd).st_size
            self._limit = GROWN_BYTES

    def _begin(self) -> None:
        self.fd = os.memfd_create("heliosfs control", os.MFD_CLOEXEC)
        self._size = 0
        self._limit = GROWN_BYTES
        self._keep(self.fd)

    def renewed_by(self, anew: Callable[[], Iterable[Line]]) -> None:
        """Where the lines come from that say all there is, when there are too many."""
        self._anew = anew

    def add(self, line: Line) -> None:
        """Remember one more thing."""
        self._append(line)
        if self._size > self._limit:
            self._renew()

    def _append(self, line: Line) -> None:
        data = _encode(line).encode() + b"\n"
        os.pwrite(self.fd, data, self._size)
        self._size += len(data)

    def _renew(self) -> None:
        """A new file that says the same; the old one counts until the new one is kept."""
        old, keep, self._keep = self.fd, self._keep, lambda _fd: None
        self._begin()
        self._keep = keep
        for line in self._anew():
            self._append(line)
        self._limit = max(GROWN_BYTES, 2 * self._size)
        keep(self.fd)
        os.close(old)

    def lines(self) -> list[dict[str, Any]]:
        """All that a former process has remembered, in order. What stands behind the last whole line is dropped."""
        data = os.pread(self.fd, self._size, 0)
        whole, newline, _ = data.rpartition(b"\n")
        self._size = len(whole) + len(newline)
        # At once: a call for each line takes three times as long.
        found: list[dict[str, Any]] = json.loads(b"[%b]" % whole.replace(b"\n", b","))
        return found

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


def reply_to_json(reply: Reply) -> list[object]:
    """A reply as it is remembered."""
    return [
        reply.verb,
        reply.id,
        reply.name,
        reply.durable,
        reply.time_ns,
        dict(reply.extra),
        reply.errno,
        reply.error,
    ]


def reply_from_json(stored: list[Any]) -> Reply:
    """The inverse."""
    return Reply(*stored)
