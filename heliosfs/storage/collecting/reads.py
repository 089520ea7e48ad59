"""Reads under way, and how to wait for those that began before something happened.

A read that suspends holds names (of chunks, pages, places in packs) that it found in state as it was. Nothing is
taken away from under it: a collection takes what it names out of reach, and waits until every read that may have
seen it is through. Reads that begin later can't find it. Must not know: what is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class ReadsUnderWay:
    """Counts reads by the epoch in which they began."""

    __slots__ = ("_counts", "_epoch", "_parked")

    def __init__(self) -> None:
        self._epoch = 0
        self._counts: dict[int, int] = {}
        self._parked = trio.lowlevel.ParkingLot()

    @contextmanager
    def read(self) -> Iterator[None]:
        """A read that may suspend, inside the `with`. 0.6 us."""
        epoch = self._epoch
        counts = self._counts
        counts[epoch] = counts.get(epoch, 0) + 1
        try:
            yield
        finally:
            left = counts[epoch] - 1
            if left:
                counts[epoch] = left
            else:
                del counts[epoch]
                self._parked.unpark_all()

    async def settled(self) -> None:
        """Return when every read that began before this call is through."""
        began = self._epoch
        self._epoch += 1
        while any(epoch <= began for epoch in self._counts):
            await self._parked.park()
