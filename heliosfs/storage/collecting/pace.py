"""How fast a collection may go: slices of work on the loop, and rest in between when nobody waits for it."""

from __future__ import annotations

import time
from typing import Final

import trio

from heliosfs.storage.breath import SLICE_S

RESTFUL_S: Final = 0.0012
"""Rest after a slice of 0.4 ms of a collection that nobody waits for: a quarter of one core at most."""


class Pace:
    """As breath.Breath, with rest."""

    __slots__ = ("_rest_s", "_since")

    def __init__(self, *, restful: bool) -> None:
        self._rest_s = RESTFUL_S if restful else 0.0
        self._since = time.perf_counter()

    async def take(self) -> None:
        """Go on at once within the slice; let the loop run, and rest, at its end."""
        if time.perf_counter() - self._since > SLICE_S:
            await trio.sleep(self._rest_s)
            self._since = time.perf_counter()
