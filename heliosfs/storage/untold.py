"""Changes of trees that kernels are being told of: a cut that holds them is not committed before.

Who takes over a connection finds in the log what its kernel may not have been told (filesystem/continuing.py). A
cut relieves the log of it: committed half way through, with a death right after, it would leave a kernel with what
was, for good. Never for longer than UNTOLD_S: who keeps a kernel from being told may wait for the cut.
Must not know: what is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

UNTOLD_S: Final = 1.0


class Untold:
    """Of one store."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun: dict[trio.Event, float] = {}

    def begin(self) -> Callable[[], None]:
        """A change is about to be made that kernels are to be told of; what to call when they have been."""
        told = trio.Event()
        self._begun[told] = trio.current_time()

        def end() -> None:
            self._begun.pop(told, None)
            told.set()

        return end

    async def wait(self) -> None:
        """Return when kernels have been told of what has begun so far, or UNTOLD_S after it did."""
        for told, begun in list(self._begun.items()):
            with trio.move_on_at(begun + UNTOLD_S) as waited:
                await told.wait()
            if waited.cancelled_caught:
                self._begun.pop(told, None)
