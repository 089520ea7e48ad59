"""Where the bytes of a regular file are: extents in a radix tree keyed by file offset.

An extent names a range of a `LogData` (bytes still in the log) or of a chunk. Extents are sorted and
disjoint and end within the file's size (invariant 2); what no extent covers is a hole and reads as zeros.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
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
    """`length` bytes, from `start` in `source`.

    Attributes:
        loose: What follows it was not there when its chunk was cut (a copy or a collapse joined the two), so
            the chunk's end may not be where its content would end it: it has to be cut again.
    """

    length: int
    source: Source
    start: int
    loose: bool = False

    def is_whole_chunk(self) -> bool:
        """Whether it covers a chunk from end to end, and may stay so."""
        return (
            self.start == 0
            and type(self.source) is ChunkRef
            and self.source.length == self.length
            and not self.loose
        )


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
    changes, freed = _cleared(tree, begin, end, pages)
    if not changes:
        return tree, 0
    return radix.update(tree, sorted(changes.items()), pages), freed


def _cleared(tree: Tree, begin: int, end: int, pages: Pages) -> tuple[dict[int, Extent | None], int]:
    """What has to change for [begin, end) to be a hole, by offset, and the bytes that this frees."""
    changes: dict[int, Extent | None] = {}
    freed = 0
    if tree is None:
        return changes, freed
    before = radix.floor(tree, begin, pages)
    hit: list[tuple[int, Extent]] = []
    if before is not None and before[0] + before[1].length > begin:
        hit.append(before)
    if end > begin + 1:
        for offset, extent in radix.items(tree, pages, begin + 1):
            if offset >= end:
                break
            hit.append((offset, extent))
    for offset, extent in hit:
        stop = offset + extent.length
        freed += min(stop, end) - max(offset, begin)
        changes[offset] = None
        if offset < begin:
            changes[offset] = Extent(begin - offset, extent.source, extent.start)
        if stop > end:
            changes[end] = Extent(stop - end, extent.source, extent.start + end - offset)
    return changes, freed


def slice_of(tree: Tree, begin: int, end: int, pages: Pages, limit: int = sys.maxsize) -> list[tuple[int, Extent]]:
    """(offset, extent) of what lies in [begin, end), what reaches beyond it clipped; the first `limit` of them.

    O(log n + extents).
    """
    found: list[tuple[int, Extent]] = []
    if tree is None or begin >= end:
        return found
    first = radix.floor(tree, begin, pages)
    for at, extent in radix.items(tree, pages, first[0] if first is not None else begin):
        if at >= end or len(found) >= limit:
            break
        stop = at + extent.length
        if stop <= begin:
            continue
        if at < begin or stop > end:
            skip = max(begin - at, 0)
            extent = Extent(min(stop, end) - at - skip, extent.source, extent.start + skip)
            at += skip
        found.append((at, extent))
    return found


def graft(tree: Tree, begin: int, end: int, laid: Sequence[tuple[int, Extent]], pages: Pages) -> tuple[Tree, int]:
    """Replace [begin, end) by `laid`, which lies within it; the rest of it becomes a hole.

    Returns the tree and the bytes newly allocated (negative: freed). O((extents hit and laid) * log n).
    """
    changes, freed = _cleared(tree, begin, end, pages)
    changes.update(laid)
    tree = radix.update(tree, sorted(changes.items(), key=_offset), pages)
    for seam in (begin, end):
        tree = loosen(tree, seam, pages)
    return tree, sum([extent.length for _, extent in laid]) - freed


def shift(tree: Tree, begin: int, by: int, pages: Pages) -> Tree:
    """Move all that lies at or behind `begin` by so many bytes; backwards only over a hole.

    An extent that reaches over `begin` is cut in two. O(log n + extents behind).
    """
    moved = slice_of(tree, begin, 1 << 64, pages)
    if not moved:
        return tree
    changes, _ = _cleared(tree, begin, 1 << 64, pages)
    changes.update((at + by, extent) for at, extent in moved)
    return loosen(radix.update(tree, sorted(changes.items(), key=_offset), pages), begin + by, pages)


def loosen(tree: Tree, seam: int, pages: Pages) -> Tree:
    """Two whole chunks that have been joined at `seam` may not both stay: the first is cut again (invariant 1)."""
    right = radix.get(tree, seam, pages)
    if right is None or not right.is_whole_chunk():
        return tree
    left = radix.floor(tree, seam - 1, pages)
    if left is None or left[0] + left[1].length != seam or not left[1].is_whole_chunk():
        return tree
    return radix.insert(tree, left[0], left[1]._replace(loose=True), pages)


def _offset(change: tuple[int, Extent | None]) -> int:
    return change[0]


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
