"""Long work on the loop, in slices: a request waits no longer than one of them."""

from __future__ import annotations

import time
from typing import Final

import trio

SLICE_S: Final = 0.0004


class Breath:
    """Lets other tasks run after each slice of work."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def take(self) -> None:
        """Go on at once within the slice; let the loop run at its end."""
        if time.perf_counter() - self._since > SLICE_S:
            await trio.lowlevel.checkpoint()
            self._since = time.perf_counter()
