"""Waiting for the next request: polls for a while before it sleeps, and gives way where that does not pay.

The cost of a request is the sleep and the wake-up, not the work: a daemon that looks for 200 us after its last
request answers up to twice as fast as one that blocks at once (DESIGN section 6; limits: docs/performance.md).
Invariants: other tasks of the loop get a turn every STEP_S of polling, and after TURN_REQUESTS requests that each
came within one step; no CPU when nothing comes in. A process that goes before all others (daemon/priority.py) is
never robbed, but its clients may wait for the core on which it looks. While polling pays, cores are kept from
halting (waking.py). Must not know: what a request is.
"""

from __future__ import annotations

import os
import select
from time import perf_counter
from typing import Final

import trio

from heliosfs.transport.waking import WakeUps

TURN_REQUESTS: Final = 64
"""Requests in a row before the other tasks of the loop get a turn."""
STEP_S: Final = 60e-6
AWAKE_S: Final = 200e-6
"""How long the descriptor is polled after the last request: most are followed by another one."""
_ROBBED_S: Final = 500e-6
"""A turn of the loop takes about 15 us, a look 1; this much longer, and the core was another process's."""
_COUNT_S: Final = 0.005
"""For so long it is taken to be as crowded as it was."""
_PENANCE_S: Final = 0.05
_PENANCE_MAX_S: Final = 1.6
"""For how long it does not look after that: twice as long each time, until left alone for _FORGIVEN times that."""
_FORGIVEN: Final = 4
_CREDIT_MAX: Final = 12
_PAID: Final = 1
_IN_VAIN: Final = 4
_WOULD_HAVE_PAID: Final = 3
_NEAR_S: Final = 0.002
"""Requests that come sooner after each other follow closely: each saves two wake-ups of 0.1 ms."""
_CLOSE: Final = 16
"""So many that did, and cores are kept from halting,"""
_LINGER_S: Final = 0.02
"""until for so long none did. Programs think, or wait for a disk, in between."""


def running() -> int:
    """How many threads of this machine run or wait for a core, ours included; 0 where nobody says. 10 us."""
    try:
        with open("/proc/loadavg", "rb", buffering=0) as file:
            return int(file.read(64).split()[3].partition(b"/")[0])
    except (OSError, IndexError, ValueError):
        return 0


def _goes_first() -> bool:
    """Whether this process takes its core from others, instead of losing it to them."""
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR


class Poller:
    """Waits until one descriptor is readable.

    Polling is worth its CPU only while requests follow each other closely, and that is learned: each request that
    comes while polling gives credit, each time none comes costs some. Without credit it sleeps at once, and earns
    some again when what it slept for came within AWAKE_S. Where more want a core than there are it does not look at
    all: whoever is to ask next waits for one. While a thread is at work (an fsync, a cold read) it
    sleeps, too: polling holds the interpreter's lock nearly all the time, and the thread would wait for it.
    """

    def __init__(self, fd: int, wake_ups: WakeUps | None = None) -> None:
        """
        Args:
            wake_ups: Are made quick while requests follow each other closely; closed with this.
        """
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        self._fd = fd
        self._poll = poller.poll
        self._asleep_until = 0.0
        self._robbed_at = 0.0
        self._penance_s = _PENANCE_S
        self._looked_until = 0.0
        """When the last look ended; 0.0 where another one is of no use."""
        self._credit = _CREDIT_MAX
        self._closing = False
        self._cores = len(os.sched_getaffinity(0))
        self._counted_until = 0.0
        self._threads: trio.CapacityLimiter | None = None
        self._wake_ups = wake_ups
        self._near = 0
        """How many requests came close after the one before; from _CLOSE on cores do not halt."""
        self._linger_until = 0.0

    def close(self) -> None:
        """Wake whoever waits, and whoever is about to."""
        self._closing = True
        if self._wake_ups is not None:
            self._wake_ups.close()
            self._wake_ups = None
        trio.lowlevel.notify_closing(self._fd)

    def glance(self) -> bool:
        """Whether a request can be read within STEP_S; looks for it if that may pay. Gives nobody else a turn.

        Without it `wait_longer` goes on.
        """
        threads = self._threads
        if threads is None:
            threads = self._threads = trio.to_thread.current_default_thread_limiter()
        self._looked_until = 0.0
        now = perf_counter()
        if self._credit <= 0 or now <= self._asleep_until or threads.borrowed_tokens or self._closing:
            return False
        if now > self._counted_until and self._crowded(now):
            return False
        return self._look(now)

    async def wait(self) -> None:
        """Return when a request can be read. Raises trio.ClosedResourceError after `close`."""
        if self._closing or not self.glance():
            await self.wait_longer()

    async def wait_longer(self) -> None:
        """As `wait`, after a glance."""
        if self._looked_until:
            if await self._polled():
                return
            self._credit -= _IN_VAIN
        if self._closing:
            raise trio.ClosedResourceError
        looked, before = self._looked_until, perf_counter()
        if self._near >= _CLOSE:
            await self._lingered(before)
        else:
            await trio.lowlevel.wait_readable(self._fd)
        after = perf_counter()
        if after - before <= _NEAR_S:
            self._close_to_the_last(after)
        elif self._near < _CLOSE:
            self._near = 0
        if after - before < AWAKE_S:
            if looked and _goes_first():
                self._robbed(after)
            else:
                self._credit = min(max(self._credit, 0) + _WOULD_HAVE_PAID, _CREDIT_MAX)

    def _close_to_the_last(self, now: float) -> None:
        """A request has come soon after another one: keep cores from halting if that goes on."""
        self._linger_until = now + _LINGER_S
        self._near += 1
        if self._near == _CLOSE and self._wake_ups is not None:
            self._wake_ups.hasten()

    async def _lingered(self, now: float) -> None:
        """Return when a request can be read; let cores halt when none has come closely for a while."""
        with trio.move_on_after(max(self._linger_until - now, 0)):
            await trio.lowlevel.wait_readable(self._fd)
            return
        self._near = 0
        if self._wake_ups is not None:
            self._wake_ups.relax()
        await trio.lowlevel.wait_readable(self._fd)

    def _look(self, now: float) -> bool:
        """Look for STEP_S from `now`. Gives up at once when the core is taken away."""
        poll = self._poll
        step = now + STEP_S
        while now < step:
            if poll(0):
                if self._credit < _CREDIT_MAX:
                    self._credit += _PAID
                self._close_to_the_last(now)
                return True
            before, now = now, perf_counter()
            if now - before > _ROBBED_S:
                self._robbed(now)
                self._looked_until = 0.0
                return False
        self._looked_until = now
        return False

    def _robbed(self, now: float) -> None:
        """The core was another's, or the next to ask has waited for it: nothing came while we looked, then at once.

        Where all are busy each look costs a turn of somebody's, some milliseconds.
        """
        if now - self._robbed_at > _FORGIVEN * self._penance_s:
            self._penance_s = _PENANCE_S
        else:
            self._penance_s = min(2 * self._penance_s, _PENANCE_MAX_S)
        self._robbed_at = now
        self._asleep_until = now + self._penance_s

    def _crowded(self, now: float) -> bool:
        """Whether more want a core than there are.

        Who is one among others loses his own to one more, and then knows: he is robbed. Who goes first takes it.
        """
        self._counted_until = now + _COUNT_S
        spare = 0 if _goes_first() else 1
        if running() <= self._cores + spare:
            return False
        self._asleep_until = self._counted_until
        return True

    async def _polled(self) -> bool:
        """Whether a request has come within AWAKE_S, the glance included."""
        until = self._looked_until + AWAKE_S - STEP_S
        while not self._closing:
            now = self._looked_until
            await trio.lowlevel.checkpoint()
            after = perf_counter()
            if after - now > _ROBBED_S:
                self._robbed(after)
                return False
            if self._look(after):
                return True
            if not self._looked_until or self._looked_until > until:
                return False
        return False
