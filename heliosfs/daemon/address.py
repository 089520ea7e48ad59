"""Where the daemon's socket is. Imports nothing slow: every verb that talks to a daemon starts here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = "socket"
_SUN_PATH_MAX: Final = 107


@contextmanager
def socket_address(store: Path) -> Iterator[bytes]:
    """The address to bind or connect, valid inside the `with`: a socket's path has 107 bytes at most.

    Raises:
        OSError: The store's directory can't be opened (only if its path is too long).
    """
    path = os.fsencode(store / SOCKET_NAME)
    if len(path) <= _SUN_PATH_MAX:
        yield path
        return
    directory = os.open(store, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield b"/proc/self/fd/%d/%s" % (directory, SOCKET_NAME.encode())
    finally:
        os.close(directory)
