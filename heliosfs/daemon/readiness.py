"""One line over a pipe, from the daemon to the command that waits for it: mounted, or why not.

Format: a JSON object, {"ok": true} or {"ok": false, "exit": int, "error": str}, then end of file.
"""

from __future__ import annotations

import json
import os
import select
import time
from typing import Final

from heliosfs.daemon.errors import FAILED, DaemonError

_LINE_MAX: Final = 65536


class Announcer:
    """The daemon's end. Speaks once; later words are lost on purpose."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int | None) -> None:
        """None: nobody waits."""
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def ready(self) -> None:
        """The mount is live."""
        self._say({"ok": True})

    def failed(self, error: DaemonError) -> None:
        """It won't be."""
        self._say({"ok": False, "exit": error.exit_code, "error": error.message})

    def _say(self, words: dict[str, object]) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            os.write(descriptor, json.dumps(words).encode() + b"\n")
        except BrokenPipeError:
            pass
        finally:
            os.close(descriptor)


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
