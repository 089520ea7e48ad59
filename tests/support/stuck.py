"""A process that hangs in a write to /dev/fuse so that not even SIGKILL ends it, until its connection is aborted.

The kernel holds a directory's lock while it waits for the answer to MKDIR, and a notification about a name in that
directory waits for the lock (docs/concurrency.md). Needs root. Must not know: who is to notice.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from pathlib import Path

_IN = struct.Struct("<IIQ24x")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QII" + "QQQQQQ" + "III" + "IIIIIII")
_LOOKUP, _GETATTR, _MKDIR, _INIT, _STATFS = 1, 3, 9, 26, 17
_INVAL_ENTRY = 3


def mount(point: Path) -> int:
    """Mount a filesystem of ours; the descriptor to serve it by."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"stuck", os.fsencode(point), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), "mount")
    return fd


def hang(fd: int) -> None:
    """Serve until a directory is made; never return from telling the kernel about it."""
    while True:
        request = os.read(fd, 1 << 20)
        _, opcode, unique = _IN.unpack_from(request)
        if opcode == _INIT:
            _answer(fd, unique, struct.pack("<IIIIHHI40x", 7, 31, 0, 0, 12, 9, 4096))
        elif opcode == _GETATTR:
            attributes = (1, 0, 0, 0, 0, 0, 0, 0, 0, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 4096, 0)
            _answer(fd, unique, _ATTR.pack(0, 0, 0, *attributes))
        elif opcode == _MKDIR:
            name = request[_IN.size + 8 :].rstrip(b"\0")
            body = struct.pack("<QII", 1, len(name), 0) + name + b"\0"
            os.write(fd, _OUT.pack(_OUT.size + len(body), _INVAL_ENTRY, 0) + body)
        else:
            os.write(fd, _OUT.pack(_OUT.size, -errno.ENOENT if opcode == _LOOKUP else -errno.ENOSYS, unique))


def _answer(fd: int, unique: int, body: bytes) -> None:
    os.write(fd, _OUT.pack(_OUT.size + len(body), 0, unique) + body)
