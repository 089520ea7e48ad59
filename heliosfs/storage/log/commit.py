"""Group commit: many who wait for durability share one sync, which runs in a thread."""

from __future__ import annotations

import trio

from heliosfs.core.ids import Lsn
from heliosfs.storage.log.log import Log


class GroupCommit:
    """Makes log positions durable. A waiter that arrives while a sync runs shares the next one."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = trio.Lock()

    async def wait_durable(self, lsn: Lsn) -> None:
        """Return when what ended at `lsn` survives power loss. Raises OSError when it cannot be made so."""
        while self._log.durable_lsn < lsn:
            async with self._lock:
                if self._log.durable_lsn < lsn:
                    await trio.to_thread.run_sync(self._log.sync)

    async def run_interval(self, seconds: float) -> None:
        """Sync what is not durable, every `seconds`; ends when the log has failed."""
        while self._log.failed is None:
            await trio.sleep(seconds)
            if self._log.durable_lsn < self._log.end:
                try:
                    await self.wait_durable(self._log.end)
                except OSError:
                    return
