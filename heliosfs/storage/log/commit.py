"""Group commit: many who wait for durability share one sync, which runs in a thread."""

from __future__ import annotations

import contextlib

import trio

from heliosfs.core.ids import Lsn
from heliosfs.storage.log.log import Log


class GroupCommit:
    """Makes log positions durable. A waiter that arrives while a sync runs shares the next one."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._running: trio.Event | None = None

    async def wait_durable(self, lsn: Lsn) -> None:
        """Return when what ended at `lsn` (<= the log's end) survives power loss.

        Raises:
            OSError: It cannot be made so: the error of the sync, or EROFS for those who come after it.

        However many wait: one sync that runs and one for all who came meanwhile.
        """
        assert lsn <= self._log.end, "nothing was appended there yet"
        while self._log.durable_lsn < lsn:
            if self._running is not None:
                await self._running.wait()
                continue
            self._running = over = trio.Event()
            try:
                await trio.to_thread.run_sync(self._log.sync)
            finally:
                self._running = None
                over.set()

    async def run_interval(self, seconds: float) -> None:
        """Sync what is not durable, every `seconds` (> 0); ends when the log has failed or is closed."""
        while self._log.failed is None:
            await trio.sleep(seconds)
            if self._log.durable_lsn < self._log.end:
                # Whoever waits for durability is told; and what passes, such as EMFILE, is tried again.
                with contextlib.suppress(OSError):
                    await self.wait_durable(self._log.end)
