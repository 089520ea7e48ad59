"""Waiting for the next request: polls for a while before it sleeps, and gives way where that does not pay.

The cost of a request is the sleep and the wake-up, not the work: a daemon that looks for 200 us after its last
request answers twice as fast as one that blocks at once (DESIGN section 6). Invariants: other tasks of the loop
get a turn every STEP_S of polling; no CPU when nothing comes in. Must not know: what a request is.
"""

from __future__ import annotations

import select
from time import perf_counter
from typing import Final

import trio

TURN_REQUESTS: Final = 64
"""Requests in a row before the other tasks of the loop get a turn."""
STEP_S: Final = 60e-6
AWAKE_S: Final = 200e-6
"""How long the descriptor is polled after the last request: most are followed by another one."""
_ROBBED_S: Final = 500e-6
"""A turn of the loop takes about 15 us; this much longer, and the core was another process's."""
_PENANCE_S: Final = 0.05


class Poller:
    """Waits until one descriptor is readable."""

    def __init__(self, fd: int) -> None:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        self._fd = fd
        self._poll = poller.poll
        self._asleep_until = 0.0
        self._closing = False

    def close(self) -> None:
        """Wake whoever waits, and whoever is about to."""
        self._closing = True
        trio.lowlevel.notify_closing(self._fd)

    async def wait(self) -> None:
        """Return when a request can be read. Raises trio.ClosedResourceError after `close`."""
        poll = self._poll
        now = perf_counter()
        until = now + AWAKE_S if now > self._asleep_until else now
        while not self._closing:
            step = now + STEP_S
            while now < step:
                if poll(0):
                    return
                now = perf_counter()
            if now > until:
                break
            await trio.lowlevel.checkpoint()
            after = perf_counter()
            if after - now > _ROBBED_S:
                self._asleep_until = after + _PENANCE_S
                break
            now = after
        if self._closing:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._fd)
