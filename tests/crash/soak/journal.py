"""Memory that outlives the server: which operation got which log position, in the order of the log.

The server notes an operation before it appends its record and the record's end afterwards, so that whoever
killed it knows the order of everything that happened, and that at most the last note may be without an
answer. The notes tell nothing that the store is trusted with: what they order must be in the store.
Each number is stored by one 8-byte move (struct.pack_into blanks its bytes first, and the other side reads
at any time). Must not know: what operations are.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

_BYTES = 1 << 20
_COUNT, _DIED, _FIRST = 0, 1, 8
"""Indices of 8-byte numbers; from the last on, two for each note: client << 32 | number, end."""

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
        self._numbers = memoryview(mmap.mmap(-1, _BYTES)).cast("Q")

    def clear(self) -> None:
        """Forget all notes."""
        self._numbers[_COUNT] = 0
        self._numbers[_DIED] = 0

    # --- the server's side ---------------------------------------------------------------------------

    def begin(self, client: int, number: int) -> None:
        """A record is about to be appended."""
        count = self._numbers[_COUNT]
        at = _FIRST + 2 * count
        self._numbers[at + 1] = 0
        self._numbers[at] = client << 32 | number
        self._numbers[_COUNT] = count + 1

    def end(self, position: int) -> None:
        """It was, and ends there; or FAILED."""
        self._numbers[_FIRST + 2 * self._numbers[_COUNT] - 1] = position

    def die_once(self) -> bool:
        """Whether this process is the first that a plan kills; of workers, others take its place."""
        first = not self._numbers[_DIED]
        self._numbers[_DIED] = 1
        return first

    # --- the other side ------------------------------------------------------------------------------

    @property
    def died(self) -> bool:
        """Whether a process has met its plan."""
        return bool(self._numbers[_DIED])

    def notes(self, first: int) -> list[Note]:
        """The notes from number `first` on."""
        found = []
        for at in range(_FIRST + 2 * first, _FIRST + 2 * self._numbers[_COUNT], 2):
            who, end = self._numbers[at : at + 2]
            found.append(Note(who >> 32, who & 0xFFFFFFFF, end))
        return found
