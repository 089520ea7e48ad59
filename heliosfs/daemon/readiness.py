"""Who waits until a mount is live, and who tells him where nobody supervises. The format is in herald.py."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Final

from heliosfs.daemon.errors import FAILED, DaemonError
from heliosfs.daemon.herald import Herald

_LINE_MAX: Final = 65536


class Announcer(Herald):
    """The end of a daemon without a supervisor."""

    __slots__ = ()

    def failed(self, error: DaemonError) -> None:
        """The mount won't be live."""
        self.refuse(error.exit_code, error.message)


def wait_ready(descriptor: int, timeout_s: float) -> bool:
    """Wait for the daemon's word.

    Returns:
        True when mounted; False if it has closed the pipe without a word (it is dead).

    Raises:
        DaemonError: What it said; or, after `timeout_s`, that it says nothing.
    """
    deadline = time.monotonic() + timeout_s
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE_MAX:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise DaemonError(FAILED, f"the daemon is not ready after {timeout_s:.0f} s; it was ended")
        read = os.read(descriptor, 4096)
        if not read:
            return False
        line += read
    words = json.loads(line)
    if words["ok"]:
        return True
    raise DaemonError(int(words["exit"]), str(words["error"]))
