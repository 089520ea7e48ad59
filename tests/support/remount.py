"""mount(2) with MS_REMOUNT: the way to have the kernel forget what it has cached of one mount."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_MS_REMOUNT = 32


def forget_all(point: Path) -> None:
    """Have the kernel drop every inode and name of one mount that is not in use. As root.

    (/proc/sys/vm/drop_caches does it to all mounts, and other tests count what theirs are asked.)
    """
    if _libc.mount(None, os.fsencode(point), None, _MS_REMOUNT, None) < 0:
        raise OSError(ctypes.get_errno(), "mount")
