"""What the core refuses, and why: a small closed set of errors that carry data, not prose.

`FsError` is an answer to a caller (an errno); `NeedPages` is a request to the shell.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from heliosfs.core.ids import PageId


class FsError(Exception):
    """The operation is refused; nothing has changed.

    Attributes:
        errno: What the caller gets.
        reason: The reason in words, for the JSON line of a control file; "" means strerror.
    """

    def __init__(self, errno_: int, reason: str = "") -> None:
        super().__init__(errno_, reason)
        self.errno = errno_
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or os.strerror(self.errno)


class StaleHandle(FsError):
    """The inode or its branch is gone (ESTALE): a restore or a discard took it."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(errno.ESTALE, reason)


class Damaged(FsError):
    """Stored bytes do not match their name (EIO).

    Attributes:
        object_id: Hex id of the chunk or page, or the place in the log.
    """

    def __init__(self, object_id: str, reason: str = "") -> None:
        super().__init__(errno.EIO, reason or f"damaged: {object_id}")
        self.object_id = object_id


class NeedPages(Exception):
    """Pages that the call needs are not in memory; load them and call again. Nothing has changed."""

    def __init__(self, ids: Iterable[PageId]) -> None:
        super().__init__("pages not in memory")
        self.ids: tuple[PageId, ...] = tuple(ids)
