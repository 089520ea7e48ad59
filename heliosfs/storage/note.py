"""What a process that serves a store leaves in shared memory, for the one that goes on when it dies.

Two things that are on the disk, too, but take long to be found there: how far the log is durable, for which
recovery searches the log's last segment, and whether a cut has been committed, for which the database has to be
opened. They are noted before they become true, so that what is noted is never too little. Of use only to who goes
on in the same boot. Must not know: who keeps the descriptor.

    durable u64 | commits u64        (native byte order: no other machine sees it)
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_U64: Final = struct.Struct("=Q")
_SIZE: Final = mmap.PAGESIZE


class StoreNote:
    """One store's.

    Attributes:
        fd: Whoever has it can read the note.
    """

    __slots__ = ("_map", "fd")

    def __init__(self, fd: int | None = None) -> None:
        """A new note, or the one behind a descriptor, which is ours from now on. OSError."""
        if fd is None:
            fd = os.memfd_create("heliosfs note", os.MFD_CLOEXEC)
            os.ftruncate(fd, _SIZE)
        self.fd = fd
        self._map = mmap.mmap(fd, _SIZE)

    @property
    def durable(self) -> int:
        """No record of the log claims a higher durable position."""
        found: int = _U64.unpack_from(self._map, 0)[0]
        return found

    @durable.setter
    def durable(self, lsn: int) -> None:
        _U64.pack_into(self._map, 0, lsn)

    @property
    def commits(self) -> int:
        """Rises before a cut is committed, and again when that is over: odd in between."""
        found: int = _U64.unpack_from(self._map, _U64.size)[0]
        return found

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Around everything that changes what is stored."""
        # Odd already where the former process died in here.
        _U64.pack_into(self._map, _U64.size, self.commits + 1 | 1)
        try:
            yield
        finally:
            _U64.pack_into(self._map, _U64.size, self.commits + 1)
