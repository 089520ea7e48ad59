"""The lock of a store: one process has it open, and the kernel gives it back when that process dies.

Invariants: the lock is the flock, not the file; the file stays and tells the holder's pid to whoever is refused.
Whoever only asks does not take it, not even for an instant in which another would be refused. Must not know: what
the store contains.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from cas.errors import StoreLocked


class StoreLock:
    """An exclusive flock on a file, held from construction to `close`.

    The descriptor is not inherited by programs started from here.
    """

    __slots__ = ("_fd",)

    def __init__(self, path: Path) -> None:
        """Take the lock at `path` (made with mode 0600 if there is none) without waiting.

        Raises:
            StoreLocked: Another holds it, in this process or elsewhere.
            OSError: The file can't be opened.
        """
        self._fd = -1
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # On a full disk the lock counts, not what is in it.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            pid = _holder(fd)
            os.close(fd)
            raise StoreLocked(path, pid) from None
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def close(self) -> None:
        """Give the lock back. Idempotent."""
        if self._fd >= 0:
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


def _holder(fd: int) -> int | None:
    with contextlib.suppress(ValueError):
        return int(os.pread(fd, 32, 0))
    return None
