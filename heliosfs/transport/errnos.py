"""The one table from exceptions to the errno that a caller gets.

What the filesystem refuses carries its errno. The operating system's own trouble while the log was appended
to (disk full, quota) is passed on, for nothing has happened then. All else is our bug or a damaged store:
EIO, logged with operation and node; with its traceback the first time. Must not know: which transport asks.
"""

from __future__ import annotations

import errno
import logging
from typing import Final

from heliosfs.core.errors import Damaged, FsError

_log = logging.getLogger("heliosfs.transport")

_PASSED_ON: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENOMEM, errno.EIO, errno.ESTALE}
)
"""OSErrors that mean the same to the caller as to us.

Others (ENOENT for a pack file, ...) would lie to him.
"""

_REMEMBERED_MAX: Final = 1000
_remembered: set[tuple[str, str]] = set()


def errno_of(error: Exception, operation: str, node: int) -> int:
    """The errno to answer with.

    Args:
        error: What the operation raised.
        operation: Its name, for the log.
        node: Node id of the inode it concerned, for the log.
    """
    if isinstance(error, FsError):
        if isinstance(error, Damaged):
            _damage(error, operation, node)
        return error.errno
    if isinstance(error, OSError) and error.errno in _PASSED_ON:
        _log.warning("%s of node %#x: %s", operation, node, error)
        return error.errno
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    _log.error(
        "%s of node %#x: unexpected %s: %s",
        operation,
        node,
        type(error).__name__,
        error,
        exc_info=error if _first_time(operation, type(error).__name__) else None,
    )
    return errno.EIO


def _damage(error: Damaged, operation: str, node: int) -> None:
    level = logging.ERROR if _first_time("damaged", error.object_id) else logging.DEBUG
    _log.log(level, "%s of node %#x: %s is damaged: %s", operation, node, error.object_id, error)


def _first_time(kind: str, what: str) -> bool:
    key = (kind, what)
    if key in _remembered or len(_remembered) >= _REMEMBERED_MAX:
        return False
    _remembered.add(key)
    return True
