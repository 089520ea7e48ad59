"""Tasks that nobody waits for. Must not know: what they do."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)


async def logged(task: Callable[[], Awaitable[None]]) -> None:
    """Do a task, and log what it dies of before raising it: the process may end before anybody else can."""
    try:
        await task()
    except Exception:
        _log.exception("a background task has failed")
        raise
