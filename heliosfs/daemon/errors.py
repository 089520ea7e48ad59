"""Why a daemon could not start or stop, with the exit code that tells a script (docs/cli.md has the list).

Must not know: how a message is shown.
"""

from __future__ import annotations

import errno
from typing import Final

from heliosfs.core.errors import FsError
from heliosfs.storage.errors import StoreAbsent, StoreDamaged, StoreError, StoreLocked, StoreNewer
from heliosfs.transport.errors import MountRefused

FAILED: Final = 1
CONFLICT: Final = 3
NO_STORE: Final = 10
LOCKED: Final = 11
DAMAGED: Final = 12
NEWER: Final = 13
NO_FUSE: Final = 14
UNSTORED: Final = 15

_STORE_CODES: Final[tuple[tuple[type[StoreError], int], ...]] = (
    (StoreAbsent, NO_STORE),
    (StoreLocked, LOCKED),
    (StoreDamaged, DAMAGED),
    (StoreNewer, NEWER),
)
_NO_FUSE_SIGNS: Final = ("/dev/fuse", "exec fusermount", "fusermount3: not found", "fuse: device not found")


class DaemonError(Exception):
    """It did not start, or did not stop.

    Attributes:
        exit_code: What the command exits with: 1, 3 (busy), 10 (no store), 11 (locked), 12 (damaged),
            13 (newer version), 14 (FUSE not available) or 15 (unmounted, but not everything is stored).
        message: One line: what, and what to do.
    """

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message


def daemon_error(error: Exception) -> DaemonError | None:
    """What an exception of the start means to the user; None if he could do nothing about it."""
    if isinstance(error, DaemonError):
        return error
    if isinstance(error, StoreError):
        for kind, code in _STORE_CODES:
            if isinstance(error, kind):
                return DaemonError(code, str(error))
        return DaemonError(FAILED, str(error))
    if isinstance(error, MountRefused):
        unavailable = any(sign in error.reason for sign in _NO_FUSE_SIGNS)
        return DaemonError(NO_FUSE if unavailable else FAILED, f"can't mount: {error}")
    if isinstance(error, FsError):
        return DaemonError(DAMAGED if error.errno == errno.EIO else FAILED, str(error))
    if isinstance(error, OSError):
        return DaemonError(FAILED, str(error))
    return None


def first(error: BaseException) -> Exception:
    """The error that counts of a group: the first leaf."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
