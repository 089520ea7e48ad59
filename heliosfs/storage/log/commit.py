"""Group commit: many who wait for durability share one sync, which runs beside the loop."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Final

import trio

from heliosfs.core.ids import Lsn
from heliosfs.storage.log.kernelsync import KernelSync
from heliosfs.storage.log.log import Log
from heliosfs.storage.log.oscalls import OsCalls

_log = logging.getLogger(__name__)

_PAUSE_MAX_S: Final = 30.0


def kernel_sync(calls: OsCalls) -> KernelSync | None:
    """What performs syncs without a thread; None where the system can't, or a test wants to see each."""
    if calls.sync is not os.fdatasync:
        return None
    try:
        return KernelSync()
    except OSError as error:
        _log.info("syncs of the log are done in threads: %s", error)
        return None


class GroupCommit:
    """Makes log positions durable. A waiter that arrives while a sync runs shares the next one."""

    def __init__(
        self, log: Log, kernel: KernelSync | None = None, *, later: Callable[[], KernelSync | None] | None = None
    ) -> None:
        """Without `kernel` every sync is done in a thread.

        Args:
            later: Makes it when somebody waits first, so that nobody who waits for the store to open waits for it.
        """
        self._log = log
        self._kernel = kernel
        self._later = later
        self._watched: set[int] = set()
        self._running: trio.Event | None = None

    def watch(self, fd: int) -> None:
        """Requests come in here: the loop must not sleep through them."""
        self._watched.add(fd)
        if self._kernel is not None:
            self._kernel.watch(fd)

    def unwatch(self, fd: int) -> None:
        """They do so no longer; to be called before it is closed."""
        self._watched.discard(fd)
        if self._kernel is not None:
            self._kernel.unwatch(fd)

    async def wait_durable(self, lsn: Lsn) -> None:
        """Return when what ended at `lsn` (<= the log's end) survives power loss.

        Raises:
            OSError: It cannot be made so: the error of the sync, or EROFS for those who come after it.

        However many wait: one sync that runs and one for all who came meanwhile.
        """
        if self._later is not None:
            self._kernel, self._later = self._later(), None
            if self._kernel is not None:
                for fd in self._watched:
                    self._kernel.watch(fd)
        assert lsn <= self._log.end, "nothing was appended there yet"
        while self._log.durable_lsn < lsn:
            if self._running is not None:
                await self._running.wait()
                continue
            self._running = over = trio.Event()
            try:
                if self._kernel is None or not await self._synced_by(self._kernel):
                    await trio.to_thread.run_sync(self._log.sync)
            finally:
                self._running = None
                over.set()

    async def _synced_by(self, kernel: KernelSync) -> bool:
        """Whether the kernel has done it; False: a thread must. Raises OSError as `Log.sync`."""
        begun = self._log.begin_sync()
        if begun is None:
            return False
        failed: OSError | None = None
        try:
            if not await kernel.fdatasync(begun.fd):
                self._log.abandon_sync(begun)
                return False
        except OSError as error:
            failed = error
        except BaseException:
            self._log.abandon_sync(begun)
            raise
        if failed is None:
            self._log.end_sync(begun, None)
        else:
            await trio.to_thread.run_sync(self._log.end_sync, begun, failed)
        return True

    async def run_interval(self, seconds: float) -> None:
        """Sync what is not durable, every `seconds` (> 0); ends when the log has failed for good or is closed.

        What has made it read-only is tried again, at growing intervals of up to half a minute.
        """
        pause = seconds
        while self._log.failed is None or self._log.mendable:
            await trio.sleep(pause)
            if self._log.failed is not None:
                mended = await self.mend()
                pause = seconds if mended else min(2 * pause, _PAUSE_MAX_S)
            elif self._log.durable_lsn < self._log.end:
                # Whoever waits for durability is told; and what passes, such as EMFILE, is tried again.
                with contextlib.suppress(OSError):
                    await self.wait_durable(self._log.end)

    async def mend(self) -> bool:
        """Try again now what has made the log read-only. Whether it takes changes."""
        return await trio.to_thread.run_sync(self._log.mend)

    def close(self) -> None:
        """Give back what the kernel keeps for it. Nobody may be waiting."""
        self._later = None
        if self._kernel is not None:
            self._kernel.close()
