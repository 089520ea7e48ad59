"""`-o debug=requests`: each request as one line of the log, and how many there were of each kind at the end.

    LOOKUP 10000000001 "setup.py" = 128 bytes <9 us>
    GETXATTR 10000000402 "security.capability" = ENODATA <6 us>

The time is from reading the request to its reply having been written. Must not know: handlers.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from time import perf_counter
from typing import Final

from heliosfs.transport.kernel.handlers import Answer, Header
from heliosfs.transport.kernel.wire import BODY, BY_OPCODE, OPERATIONS, Layouts

_log = logging.getLogger("heliosfs.requests")

_NAMED: Final = frozenset(
    (
        *("LOOKUP", "SYMLINK", "MKNOD", "MKDIR", "UNLINK", "RMDIR", "RENAME", "RENAME2", "LINK"),
        *("GETXATTR", "SETXATTR", "REMOVEXATTR", "CREATE"),
    )
)
_RANGED: Final = dict.fromkeys(("READ", "WRITE", "READDIR", "READDIRPLUS"), Layouts.READ)
"""Layouts that begin with handle, offset and size."""
_SHOWN: Final = 200
"""Bytes of names that a line shows at most."""


class RequestLog:
    """Told of each request by the pump.

    Attributes:
        counts: Requests so far by operation.
        setxattr: The layout of SETXATTR that was agreed on.
    """

    def __init__(self, log: logging.Logger = _log) -> None:
        self.counts: Counter[str] = Counter()
        self.setxattr = Layouts.SETXATTR_EXT
        self._log = log
        self._began: dict[int, tuple[float, str]] = {}

    def read(self, head: Header, view: memoryview, end: int) -> None:
        """A request has been read."""
        operation = BY_OPCODE.get(head[1])
        name = operation.name if operation is not None else f"opcode {head[1]}"
        self.counts[name] += 1
        line = f"{name} {head[3]:x}"
        if operation is not None and name in _NAMED:
            at = min(BODY + (self.setxattr if name == "SETXATTR" else operation.layout).size, end)
            text = view[at : min(end, at + _SHOWN)].tobytes().rstrip(b"\0")
            # Behind an attribute's name comes its value.
            text = text.partition(b"\0")[0] if name == "SETXATTR" else text.replace(b"\0", b" -> ")
            line += f' "{text.decode("utf-8", "backslashreplace")}"'
        elif name in _RANGED and end >= BODY + _RANGED[name].size:
            _, offset, size, *_ = _RANGED[name].unpack_from(view, BODY)
            line += f" {offset}+{size}"
        self._began[head[2]] = perf_counter(), line

    def replied(self, head: Header, answer: Answer) -> None:
        """Its reply has been written."""
        began, line = self._began.pop(head[2], (0.0, ""))
        if answer is None:
            result = "no reply"
        elif isinstance(answer, bytes):
            result = f"{len(answer)} bytes"
        else:
            result = errno.errorcode.get(-answer, str(answer)) if answer else "0"
        self._log.info("%s = %s <%.0f us>", line, result, (perf_counter() - began) * 1e6)

    def ended(self) -> None:
        """The session has ended: the counts, most frequent first."""
        for name, count in self.counts.most_common():
            self._log.info("%8d %s", count, name)
        self._log.info("%8d requests of %d kinds known", self.counts.total(), len(OPERATIONS))
