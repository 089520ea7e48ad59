"""Memory that outlives the server: which operation got which log position, in the order of the log.

The server notes an operation before it appends its record and the record's end afterwards, so that whoever
killed it knows the order of everything that happened, and that at most the last note may be without an
answer. The notes tell nothing that the store is trusted with: what they order must be in the store.
Must not know: what operations are.
"""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple

_COUNT = struct.Struct("<Q")
_NOTE = struct.Struct("<IIQ")
_BYTES = 1 << 20
_DIED = 8
_FIRST = 64
FAILED = (1 << 64) - 1
"""The append raised: nothing was appended."""

NOBODY = 0
"""Client number of what the server does by itself."""


class Note(NamedTuple):
    """Attributes:
    client, number: Of the operation.
    end: Position after its record; 0 if the server died before it could tell; FAILED.
    """

    client: int
    number: int
    end: int


class Journal:
    """One server's notes at a time. Made before the fork, shared by it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _BYTES)
        self._count = 0

    def clear(self) -> None:
        """Forget all notes."""
        self._count = 0
        _COUNT.pack_into(self._memory, 0, 0)
        self._memory[_DIED] = 0

    # --- the server's side ---------------------------------------------------------------------------

    def begin(self, client: int, number: int) -> None:
        """A record is about to be appended."""
        _NOTE.pack_into(self._memory, _FIRST + self._count * _NOTE.size, client, number, 0)
        self._count += 1
        _COUNT.pack_into(self._memory, 0, self._count)

    def end(self, position: int) -> None:
        """It was, and ends there; or FAILED."""
        at = _FIRST + (self._count - 1) * _NOTE.size
        struct.pack_into("<Q", self._memory, at + 8, position)

    def die_once(self) -> bool:
        """Whether this process is the first that a plan kills; of workers, others take its place."""
        first = not self._memory[_DIED]
        self._memory[_DIED] = 1
        return first

    # --- the other side ------------------------------------------------------------------------------

    @property
    def died(self) -> bool:
        """Whether a process has met its plan."""
        return bool(self._memory[_DIED])

    def notes(self, first: int) -> list[Note]:
        """The notes from number `first` on."""
        (count,) = _COUNT.unpack_from(self._memory, 0)
        return [Note._make(_NOTE.unpack_from(self._memory, _FIRST + n * _NOTE.size)) for n in range(first, count)]
