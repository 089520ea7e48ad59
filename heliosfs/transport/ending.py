"""How a session of either transport ends: notifications through, or aborted; and nothing left in the tree.

Must not know: how requests are served.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from pathlib import Path
from typing import Final

import trio

from heliosfs.transport import mounts
from heliosfs.transport.invalidate import CacheInvalidator

_log = logging.getLogger("heliosfs.transport")

GRACE_S: Final = 10.0
"""How long an unmount waits for requests in progress, and then for a notification thread."""


def abort(mountpoint: Path, connection: int | None) -> None:
    """End a connection by force; never waits.

    Args:
        connection: Its number; None: the mount was not found when it was made.
    """
    try:
        if connection is None:
            raise OSError("not in mountinfo")
        mounts.abort(connection)
    except OSError as error:
        _log.critical("can't abort by fusectl (%s): forcing %s off", error, mountpoint)
        force = partial(mounts.umount, mountpoint, mounts.MNT_FORCE)
        threading.Thread(target=force, daemon=True).start()


async def quiet(invalidator: CacheInvalidator) -> bool:
    """Wait until no thread writes notifications any more. False: one still hangs, after GRACE_S."""
    with trio.move_on_after(GRACE_S) as waiting:
        await invalidator.close()
    return not waiting.cancelled_caught


async def leave_nothing(mountpoint: Path, connection: int | None) -> None:
    """The connection is closed, and so dead for whoever still uses it: take it out of the tree."""
    mount = mounts.mount_at(mountpoint)
    if mount is not None and mount.connection == connection:
        refused = await trio.to_thread.run_sync(partial(mounts.unmount_once, mountpoint, lazy=True))
        if refused is not None:
            _log.error("%s is still mounted, and dead: %s", mountpoint, refused)
