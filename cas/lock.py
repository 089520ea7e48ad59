"""The lock of a store: one process has it open, and the kernel gives it back when that process dies.

Invariants: the lock is the flock, not the file; the file stays and tells the holder's pid to whoever is refused.
Afterwards it tells whether the last holder has left all in order (`left_in_order`), or died, or could not.
Whoever only asks does not take it, not even for an instant in which another would be refused. Must not know: what
the store contains.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

from cas.errors import StoreLocked

_IN_ORDER: Final = b"closed\n"


class StoreLock:
    """An exclusive flock on a file, held from construction to `close`.

    The descriptor is not inherited by programs started from here.

    Attributes:
        found_in_order: The last holder said at its end that nothing was left to do.
    """

    __slots__ = ("_fd", "found_in_order")

    def __init__(self, path: Path) -> None:
        """Take the lock at `path` (made with mode 0600 if there is none) without waiting.

        Raises:
            StoreLocked: Another holds it, in this process or elsewhere.
            OSError: The file can't be opened.
        """
        self._fd = -1
        self.found_in_order = False
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # On a full disk the lock counts, not what is in it.
            with contextlib.suppress(OSError):
                self.found_in_order = os.pread(fd, len(_IN_ORDER) + 1, 0) == _IN_ORDER
                _write(fd, b"%d\n" % os.getpid())
        except BlockingIOError:
            pid = _holder(fd)
            os.close(fd)
            raise StoreLocked(path, pid) from None
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def close(self, *, in_order: bool = False) -> None:
        """Give the lock back. Idempotent.

        Args:
            in_order: Note in the file that nothing was left to do.
        """
        if self._fd >= 0:
            if in_order:
                with contextlib.suppress(OSError):
                    _write(self._fd, _IN_ORDER)
            os.close(self._fd)
            self._fd = -1


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock at `path`; who is in another pid namespace is not seen.

    Raises:
        OSError: The file can't be looked at; no file is nobody's lock.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with open("/proc/locks", encoding="ascii") as locks:
        return any(line.split()[1:2] == ["FLOCK"] and place in line.split() for line in locks)


def left_in_order(path: Path) -> bool:
    """Whether the last holder of the lock at `path` said at its end that nothing was left to do. Raises OSError."""
    return path.read_bytes() == _IN_ORDER


def _write(fd: int, content: bytes) -> None:
    """Replace what the file has; it keeps its block, so that this needs no room once there is one. OSError."""
    written = 0
    try:
        written = os.pwrite(fd, content, 0)
    finally:
        # What the last holder has said is not to be taken for ours.
        os.ftruncate(fd, written)


def _holder(fd: int) -> int | None:
    with contextlib.suppress(ValueError):
        return int(os.pread(fd, 32, 0))
    return None
