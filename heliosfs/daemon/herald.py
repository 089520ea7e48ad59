"""One line over a pipe, from the daemon to the command that waits for it: mounted, or why not.

Format: a JSON object, {"ok": true} or {"ok": false, "exit": int, "error": str}, then end of file. Imports the
standard library alone.
"""

from __future__ import annotations

import json
import os


class Herald:
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

    def refuse(self, exit_code: int, error: str) -> None:
        """It won't be."""
        self._say({"ok": False, "exit": exit_code, "error": error})

    def leave(self) -> bool:
        """Close the pipe without a word: who waits reads our standard error. Whether anybody still waits."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

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
