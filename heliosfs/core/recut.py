"""Turning a file's extents into its canonical chunks, cutting again only around what changed.

Chunk boundaries depend on content alone (invariant 1): each data run (what lies between two holes) is cut
from its first byte, and where a piece ends depends only on the bytes since it began. So whole chunks stay,
and a changed region is cut again from the boundary before it until an old boundary is met. A run of at
most SMALL_MAX bytes is one chunk. The plan is pure; worker processes do the cutting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from cas.digest import ChunkId
from heliosfs.core import radix
from heliosfs.core.extent import ChunkRef, Extent, LogData, Source, data_runs, locate
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Pages, Tree

SMALL_MAX: Final = 65536
"""As the chunker's: runs up to here are one chunk."""
LOOKAHEAD: Final = 8
"""Unchanged chunks behind a change that are offered for meeting an old boundary; nearly always 1 to 3 do."""


class Region(NamedTuple):
    """Bytes of one run that have to be cut again.

    Attributes:
        offset: In the file, a boundary.
        sources: (source, start, length) in order.
        resync: Offsets from `offset`, sorted: a piece that its content ends there ends the cutting. All lie
            before the end of the sources, where a piece may end for want of bytes.
        to_end: Whether the sources reach the end of their run (else meeting an old boundary is required).
    """

    offset: int
    sources: tuple[tuple[Source, int, int], ...]
    resync: tuple[int, ...]
    to_end: bool


class RunPlan(NamedTuple):
    """One data run that has something to cut."""

    extents: list[tuple[int, Extent]]
    regions: list[Region]


def plan(inode: Inode, pages: Pages) -> list[RunPlan]:
    """The runs of a file that have to be cut, in part or whole; [] if it is canonical. O(extents)."""
    plans = []
    for run in data_runs(inode.tree, pages):
        regions = _regions(run)
        if regions:
            plans.append(RunPlan(run, regions))
    return plans


def _regions(run: list[tuple[int, Extent]]) -> list[Region]:
    first = run[0][0]
    count = len(run)
    total = run[-1][0] + run[-1][1].length - first
    whole = [extent.is_whole_chunk() for _, extent in run]
    if count == 1 and whole[0]:
        return []
    if total <= SMALL_MAX:
        return [_region(run, 0, count, count)]
    # A chunk stays if it is whole and what follows is whole too: it may have ended where the run once did.
    stays = [whole[at] and (at + 1 == count or whole[at + 1]) for at in range(count)]
    # The last SMALL_MAX bytes of a run are one piece: where a truncate left more, they are joined.
    tail = next(at for at in range(count) if first + total - run[at][0] <= SMALL_MAX or at + 1 == count)
    if tail + 1 < count:
        stays[tail:] = [False] * (count - tail)
    regions = []
    index = 0
    while index < count:
        if stays[index]:
            index += 1
            continue
        begin = index
        while index < count and not stays[index]:
            index += 1
        following = next((at for at in range(index, min(index + LOOKAHEAD, count)) if not stays[at]), count)
        regions.append(_region(run, begin, index, following))
    return regions


def _region(run: list[tuple[int, Extent]], begin: int, clean: int, following: int) -> Region:
    """The region that begins at run[begin]; boundaries from run[clean] to run[following] may end it."""
    last = min(clean + LOOKAHEAD, len(run))
    sources: list[tuple[Source, int, int]] = []
    for _, extent in run[begin:last]:
        sources.extend(locate(extent.source, extent.start, extent.length))
    offset = run[begin][0]
    stops = tuple(run[at][0] - offset for at in range(clean, min(last, following + 1)))
    return Region(offset, tuple(sources), stops, last == len(run))


def rest_of(run: RunPlan, region: Region) -> Region:
    """The region from the boundary where `region` begins to the end of the run.

    Used where the lookahead met no boundary: boundaries behind the last change of the run may end it.
    """
    extents = run.extents
    begin = next(index for index, (at, _) in enumerate(extents) if at == region.offset)
    dirty = max((at for at, (_, extent) in enumerate(extents) if not extent.is_whole_chunk()), default=begin)
    sources: list[tuple[Source, int, int]] = []
    for _, extent in extents[begin:]:
        sources.extend(locate(extent.source, extent.start, extent.length))
    stops = tuple(at - region.offset for at, _ in extents[dirty + 1 :] if at > region.offset)
    return Region(region.offset, tuple(sources), stops, True)


class Cutting(NamedTuple):
    """What a worker made of a region: pieces from its first byte, `consumed` bytes in all."""

    pieces: Sequence[tuple[ChunkId, int]]
    consumed: int

    def met(self, region: Region) -> bool:
        """Whether the cutting ended where it may."""
        total = sum(length for _, _, length in region.sources)
        return self.consumed in region.resync or (region.to_end and self.consumed == total)


def accept(run: RunPlan, cuttings: Mapping[int, Cutting]) -> tuple[list[tuple[Region, Cutting]], Region | None]:
    """What of a run's cuttings (by offset of their regions) stands, and the region that has to be cut instead.

    A region whose cutting went on to the end of the run has taken those behind it along. Where one met no
    boundary in its lookahead, the rest of the run is cut in one go.
    """
    done: list[tuple[Region, Cutting]] = []
    end = 0
    for region in run.regions:
        if region.offset < end:
            continue
        cutting = cuttings[region.offset]
        if not cutting.met(region):
            return done, rest_of(run, region)
        done.append((region, cutting))
        end = region.offset + cutting.consumed
    return done, None


def apply_cuttings(
    tree: Tree, done: Sequence[tuple[Region, Cutting]], pages: Pages
) -> tuple[Tree, list[tuple[LogData, list[tuple[int, int, ChunkRef, int]]]]]:
    """The tree with canonical chunks in the regions, and where their log data has moved.

    Regions are disjoint as far as they were consumed. O((old + new extents of the regions) * log n).
    """
    changes: dict[int, Extent | None] = {}
    moves: list[tuple[LogData, list[tuple[int, int, ChunkRef, int]]]] = []
    for region, cutting in done:
        end = region.offset + cutting.consumed
        for at, _ in radix.items(tree, pages, region.offset):
            if at >= end:
                break
            changes[at] = None
        at = region.offset
        chunks: list[tuple[int, ChunkRef]] = []
        for id_, length in cutting.pieces:
            chunk = ChunkRef(id_, length)
            changes[at] = Extent(length, chunk, 0)
            chunks.append((at, chunk))
            at += length
        moves.extend(_moves(region, chunks, end))
    return radix.update(tree, sorted(changes.items(), key=lambda change: change[0]), pages), moves


def _moves(
    region: Region, chunks: list[tuple[int, ChunkRef]], end: int
) -> list[tuple[LogData, list[tuple[int, int, ChunkRef, int]]]]:
    moves = []
    at = region.offset
    index = 0
    for source, start, length in region.sources:
        if at >= end:
            break
        if type(source) is LogData:
            ranges: list[tuple[int, int, ChunkRef, int]] = []
            position, stop = at, min(at + length, end)
            while index and chunks[index][0] > position:
                index -= 1
            while position < stop:
                while chunks[index][0] + chunks[index][1].length <= position:
                    index += 1
                chunk_at, chunk = chunks[index]
                take = min(chunk_at + chunk.length, stop) - position
                ranges.append((start + position - at, take, chunk, position - chunk_at))
                position += take
            moves.append((source, ranges))
        at += length
    return moves
