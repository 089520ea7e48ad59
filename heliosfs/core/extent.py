"""Where the bytes of a regular file are: extents in a radix tree keyed by file offset.

An extent names a range of a `LogData` (bytes still in the log) or of a chunk. Extents are sorted and
disjoint and end within the file's size (invariant 2); what no extent covers is a hole and reads as zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from cas.digest import ChunkId
from heliosfs.core import radix
from heliosfs.core.radix import Leaf, Pages, Tree


class LogData:
    """The payload of one write record: where it lies in the log, until it has become chunks.

    One object is shared by every extent of every view that uses a part of it. So `moved`, set once when a
    cut is committed, moves them all at once: it is the relocation table.

    Attributes:
        life: The segment life that holds it.
        offset: Of the payload in the segment file, bytes.
        length: Of the payload, bytes.
        sums: Checksums, one for each 16 KiB block of the payload.
        moved: (start, length, chunk, offset in chunk), sorted: the ranges that are stored as chunks.
    """

    __slots__ = ("length", "life", "moved", "offset", "sums")

    def __init__(self, life: int, offset: int, length: int, sums: bytes) -> None:
        self.life = life
        self.offset = offset
        self.length = length
        self.sums = sums
        self.moved: list[tuple[int, int, ChunkRef, int]] | None = None


class ChunkRef(NamedTuple):
    """A stored chunk and its whole length in bytes."""

    id: ChunkId
    length: int


Source: TypeAlias = LogData | ChunkRef


class Extent(NamedTuple):
    """`length` bytes, from `start` in `source`."""

    length: int
    source: Source
    start: int

    def is_whole_chunk(self) -> bool:
        """Whether it covers a chunk from end to end."""
        return self.start == 0 and type(self.source) is ChunkRef and self.source.length == self.length


class Piece(NamedTuple):
    """Part of a read: `length` bytes from `start` in `source`, or zeros if there is no source."""

    length: int
    source: Source | None
    start: int


def put(tree: Tree, offset: int, extent: Extent, pages: Pages) -> tuple[Tree, int]:
    """Lay an extent over [offset, offset + length). Returns the tree and the bytes newly allocated."""
    if tree is None:
        return Leaf([offset], [extent]), extent.length
    tree, freed = punch(tree, offset, offset + extent.length, pages)
    return radix.insert(tree, offset, extent, pages), extent.length - freed


def append(tree: Tree, offset: int, extent: Extent, pages: Pages) -> Tree:
    """Lay an extent where nothing is: at or behind the end of the file. O(log n)."""
    if tree is None:
        return Leaf([offset], [extent])
    return radix.insert(tree, offset, extent, pages)


def punch(tree: Tree, begin: int, end: int, pages: Pages) -> tuple[Tree, int]:
    """Make [begin, end) a hole. Returns the tree and the bytes freed. O((1 + pieces hit) * log n)."""
    if tree is None:
        return None, 0
    freed = 0
    before = radix.floor(tree, begin, pages)
    hit: list[tuple[int, Extent]] = []
    if before is not None and before[0] + before[1].length > begin:
        hit.append(before)
    if end > begin + 1:
        for offset, extent in radix.items(tree, pages, begin + 1):
            if offset >= end:
                break
            hit.append((offset, extent))
    if not hit:
        return tree, 0
    changes: dict[int, Extent | None] = {}
    for offset, extent in hit:
        stop = offset + extent.length
        freed += min(stop, end) - max(offset, begin)
        changes[offset] = None
        if offset < begin:
            changes[offset] = Extent(begin - offset, extent.source, extent.start)
        if stop > end:
            changes[end] = Extent(stop - end, extent.source, extent.start + end - offset)
    return radix.update(tree, sorted(changes.items()), pages), freed


def pieces(tree: Tree, offset: int, length: int, pages: Pages) -> list[Piece]:
    """The sources of [offset, offset + length), in order, holes included. O(pieces + log n)."""
    plan: list[Piece] = []
    if length <= 0:
        return plan
    position, end = offset, offset + length
    first = radix.floor(tree, offset, pages)
    start = first[0] if first is not None else offset
    for at, extent in radix.items(tree, pages, start):
        if at >= end:
            break
        stop = at + extent.length
        if stop <= position:
            continue
        if at > position:
            plan.append(Piece(at - position, None, 0))
            position = at
        take = min(stop, end) - position
        plan.append(Piece(take, extent.source, extent.start + position - at))
        position += take
    if position < end:
        plan.append(Piece(end - position, None, 0))
    return plan


def data_runs(tree: Tree, pages: Pages) -> Iterator[list[tuple[int, Extent]]]:
    """Maximal runs of adjoining extents: what lies between two holes."""
    run: list[tuple[int, Extent]] = []
    position = -1
    for offset, extent in radix.items(tree, pages):
        if offset != position and run:
            yield run
            run = []
        run.append((offset, extent))
        position = offset + extent.length
    if run:
        yield run


def locate(source: Source, start: int, length: int) -> list[tuple[Source, int, int]]:
    """(source, start, length) of the places where these bytes are now: chunks for what has moved."""
    if type(source) is not LogData or source.moved is None:
        return [(source, start, length)]
    found: list[tuple[Source, int, int]] = []
    end = start + length
    for at, size, chunk, chunk_start in source.moved:
        stop = at + size
        if stop <= start:
            continue
        if at > start or start >= end:
            break
        take = min(stop, end) - start
        found.append((chunk, chunk_start + start - at, take))
        start += take
    if start < end:
        found.append((source, start, end - start))
    return found


def move(source: LogData, ranges: list[tuple[int, int, ChunkRef, int]]) -> None:
    """These ranges of the payload are stored as chunks from now on."""
    merged = sorted([*(source.moved or ()), *ranges])
    kept: list[tuple[int, int, ChunkRef, int]] = []
    end = 0
    for at, size, chunk, chunk_start in merged:
        stop = at + size
        if stop <= end:
            continue
        skip = max(end - at, 0)
        kept.append((at + skip, size - skip, chunk, chunk_start + skip))
        end = stop
    source.moved = kept
