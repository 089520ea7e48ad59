"""Answers every request of a kernel with EIO: what is left when no worker can serve.

Better than silence, in which every process that touches the mount hangs, and than an unmounted, empty directory, in
which programs would go on as if everything had been deleted. Imports the standard library alone.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from collections.abc import Callable, Sequence
from typing import Final

_HEAD: Final = struct.Struct("<IIQ")
_REPLY: Final = struct.Struct("<IiQ")
_RESEND: Final = _REPLY.pack(16, 7, 0)
_NO_REPLY: Final = frozenset((2, 36, 42))
"""FORGET, INTERRUPT, BATCH_FORGET."""
_REQUEST_MAX: Final = (1 << 20) + 65536


def refuse_all(fds: Sequence[int], stop: Sequence[object], tend: Callable[[], object] = lambda: None) -> None:
    """Serve these descriptors of /dev/fuse until all of their mounts have ended, or `stop` is not empty.

    What a worker had read and not answered is asked for again, and refused as well.

    Args:
        tend: Called every second at least.
    """
    poll = select.poll()
    alive = set(fds)
    for fd in fds:
        poll.register(fd, select.POLLIN)
        try:
            os.write(fd, _RESEND)
        except OSError:
            continue
    while alive and not stop:
        for fd, _ in poll.poll(1000):
            if not refuse(fd):
                poll.unregister(fd)
                alive.discard(fd)
        tend()


def refuse(fd: int) -> bool:
    """Refuse all that waits now. False: the mount has ended."""
    while True:
        try:
            request = os.read(fd, _REQUEST_MAX)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                continue
            return False
        if len(request) < _HEAD.size:
            return False
        _, opcode, unique = _HEAD.unpack_from(request)
        if opcode not in _NO_REPLY:
            try:
                os.write(fd, _REPLY.pack(16, -errno.EIO, unique))
            except OSError:
                continue
