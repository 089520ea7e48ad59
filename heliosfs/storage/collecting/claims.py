"""What running work counts on: the barrier that keeps a collection from taking it.

A cut, an import and an adoption write chunks and pages long before a ref names them, and are told "the index has
that chunk, don't store it" of chunks that nothing else may reach. Each holds a *claim* from before its first
question until its result is reached. While any claim is open, every chunk that a worker asked about and every page
that was written is recorded; a collection spares what was recorded since the oldest open claim began, and
everything that is recorded while it runs.

Invariants: a chunk is recorded in the same turn of the loop in which its worker is told that it is known, and a
record is deleted in the same turn in which it was found to be unrecorded (storage/collecting/sweeping.py). All
methods on the loop's thread. Must not know: who asks, what is reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from heliosfs.core.view import State

_PREFIX: Final = 8
"""Bytes of an id that are recorded: two ids that share them spare each other, once in 10**7 stores of 10**6."""
_TRIM: Final = 1 << 16
_STEP: Final = 512


class IdSet:
    """A set of ids in 256 parts: growing one of them never stops the loop for long (1,000,000 ids: 0.2 ms)."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[set[bytes]] = [set() for _ in range(256)]

    def add(self, id_: bytes) -> None:
        """Put an id in. 0.1 us."""
        self._parts[id_[0]].add(id_)

    def update(self, ids: Iterable[bytes]) -> None:
        """Put ids in."""
        parts = self._parts
        for id_ in ids:
            parts[id_[0]].add(id_)

    def __contains__(self, id_: bytes) -> bool:
        return id_ in self._parts[id_[0]]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            yield from part


class Claim:
    """One piece of running work.

    Attributes:
        states: Versions that it works from and that no ref may name any more.
    """

    __slots__ = ("_chunks_from", "_pages_from", "states")

    def __init__(self, chunks_from: int, pages_from: int) -> None:
        self._chunks_from = chunks_from
        self._pages_from = pages_from
        self.states: list[State] = []

    def hold(self, state: State) -> None:
        """This version is worked from until the claim is closed."""
        self.states.append(state)


class _Record:
    """Prefixes of ids in the order in which they were recorded; what no open claim needs is dropped."""

    __slots__ = ("_begin", "_ids")

    def __init__(self) -> None:
        self._ids = bytearray()
        self._begin = 0

    @property
    def end(self) -> int:
        return self._begin + len(self._ids)

    def add(self, prefixes: Iterable[bytes]) -> None:
        self._ids += b"".join(prefixes)

    def drop_before(self, position: int) -> None:
        unused = position - self._begin
        if unused == len(self._ids) or unused >= _TRIM:
            del self._ids[:unused]
            self._begin = position

    def copy(self) -> bytes:
        return bytes(self._ids)


class Claims:
    """The claims of a store, and what they cover.

    Attributes:
        open: Claims now.
    """

    def __init__(self) -> None:
        self.open: set[Claim] = set()
        self._chunks = _Record()
        self._pages = _Record()
        self._spared: tuple[IdSet, IdSet] | None = None

    @contextmanager
    def claim(self) -> Iterator[Claim]:
        """Work that asks for chunks or writes pages, inside the `with`."""
        claim = Claim(self._chunks.end, self._pages.end)
        self.open.add(claim)
        try:
            yield claim
        finally:
            self.open.discard(claim)
            others = self.open
            self._chunks.drop_before(min((c._chunks_from for c in others), default=self._chunks.end))
            self._pages.drop_before(min((c._pages_from for c in others), default=self._pages.end))

    # --- told by the work ----------------------------------------------------------------------------

    def chunks(self, ids: Iterable[bytes]) -> None:
        """A worker is told of these that they are there, or will store them. 0.2 us each."""
        self._note(self._chunks, 0, ids)

    def pages(self, ids: Iterable[bytes]) -> None:
        """These pages are written, or about to be."""
        self._note(self._pages, 1, ids)

    def _note(self, record: _Record, which: int, ids: Iterable[bytes]) -> None:
        if not self.open and self._spared is None:
            return
        prefixes = [id_[:_PREFIX] for id_ in ids]
        if self.open:
            record.add(prefixes)
        if self._spared is not None:
            self._spared[which].update(prefixes)

    # --- asked by a collection -----------------------------------------------------------------------

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Inside, everything that is recorded is spared until the end. One at a time."""
        assert self._spared is None
        self._spared = (IdSet(), IdSet())
        try:
            yield
        finally:
            self._spared = None

    def spare_open_claims(self) -> Iterator[None]:
        """Spare what was recorded since the oldest open claim, as of this call; the iterator does it.

        Call within `collecting`. A step takes 0.1 ms; it is done when the iterator ends.
        """
        spared = self._spared
        assert spared is not None
        # Copied now: a claim that closes meanwhile has its work reached, by roots newer than the mark's.
        return _spare((self._chunks.copy(), self._pages.copy()), spared)

    def spares_chunk(self, id_: bytes) -> bool:
        """Whether running work counts on the chunk."""
        assert self._spared is not None
        return id_[:_PREFIX] in self._spared[0]

    def spares_page(self, id_: bytes) -> bool:
        """Whether running work counts on the page."""
        assert self._spared is not None
        return id_[:_PREFIX] in self._spared[1]


def _spare(records: tuple[bytes, bytes], spared: tuple[IdSet, IdSet]) -> Iterator[None]:
    for record, ids in zip(records, spared, strict=True):
        for at in range(0, len(record), _STEP * _PREFIX):
            part = record[at : at + _STEP * _PREFIX]
            ids.update([part[i : i + _PREFIX] for i in range(0, len(part), _PREFIX)])
            yield
