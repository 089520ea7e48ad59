"""Which packs go, and which are rewritten: decided from sums, file by file.

A pack is *dead* when no index record points into it. It is *wasteful* when much of it is; rewriting it copies what
lives and removes the file. Invariant: the pack with the highest number stays, as an empty file if need be, because
the next pack takes the number above it and places never name two things. Must not know: what reaches a chunk,
files, when to collect.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cas.packfile import ENTRY_HEADER_BYTES, PACK_HEADER_BYTES, Place, pack_numbers, pack_path


@dataclass(slots=True)
class PackUse:
    """What of a pack the index points to.

    Attributes:
        chunks: Live entries.
        live_bytes: Of these, headers included.
    """

    chunks: int = 0
    live_bytes: int = 0


class PackUses:
    """Sums for each pack, made while somebody walks the index."""

    __slots__ = ("_uses",)

    def __init__(self) -> None:
        self._uses: dict[int, PackUse] = {}

    def count(self, place: Place) -> None:
        """The entry at this place lives. 0.3 us."""
        use = self._uses.get(place.pack)
        if use is None:
            use = self._uses[place.pack] = PackUse()
        use.chunks += 1
        use.live_bytes += place.length + ENTRY_HEADER_BYTES

    def of(self, pack: int) -> PackUse:
        """Of one pack."""
        return self._uses.get(pack, PackUse())


@dataclass(slots=True, frozen=True)
class PackPlan:
    """What is to be done with the packs.

    Attributes:
        dead: To be removed.
        rewrite: To be copied and then removed, the most wasteful first.
        dead_bytes, wasted_bytes: What removing and rewriting gives back.
        copy_bytes: What rewriting writes.
        kept_waste_bytes: Of packs that are left as they are.
    """

    dead: list[int]
    rewrite: list[int]
    dead_bytes: int
    wasted_bytes: int
    copy_bytes: int
    kept_waste_bytes: int


EMPTY_PACK: Final = PACK_HEADER_BYTES


def plan_packs(uses: PackUses, sizes: Mapping[int, int], complete: Iterable[int], waste_max: float) -> PackPlan:
    """Decide for the packs that are complete.

    Args:
        uses: Of all that the index has.
        sizes: Allocated bytes of each pack's file.
        complete: Packs to which nothing is added any more.
        waste_max: Share of the bytes of all complete packs that may stay dead, 0 <= waste_max < 1. Packs are
            rewritten, the most wasteful first, until no more than that is left.
    """
    highest = max(sizes, default=0)
    dead: list[int] = []
    partly: list[tuple[float, int]] = []
    total = dead_bytes = waste = 0
    for pack in sorted(complete):
        size = sizes.get(pack)
        if size is None:
            continue
        use = uses.of(pack)
        if not use.chunks:
            if pack != highest or size > EMPTY_PACK:
                dead.append(pack)
                dead_bytes += size
            continue
        total += size
        wasted = max(size - EMPTY_PACK - use.live_bytes, 0)
        if wasted:
            waste += wasted
            partly.append((wasted / size, pack))
    rewrite: list[int] = []
    wasted_bytes = copy_bytes = 0
    for _, pack in sorted(partly, reverse=True):
        if waste <= waste_max * (total - wasted_bytes):
            break
        use = uses.of(pack)
        wasted = sizes[pack] - EMPTY_PACK - use.live_bytes
        rewrite.append(pack)
        wasted_bytes += wasted
        copy_bytes += use.live_bytes
        waste -= wasted
    return PackPlan(dead, rewrite, dead_bytes, wasted_bytes, copy_bytes, waste)


def pack_sizes(directory: Path) -> dict[int, int]:
    """Length of each pack's file. 3 us a pack."""
    sizes: dict[int, int] = {}
    for pack in pack_numbers(directory):
        try:
            sizes[pack] = os.stat(pack_path(directory, pack)).st_size
        except FileNotFoundError:
            continue
    return sizes


def remove_packs(directory: Path, packs: Iterable[int]) -> int:
    """Remove packs that no durable index record points into; the highest number becomes an empty file.

    Returns the bytes given back. Raises OSError. Blocks.
    """
    highest = max(pack_numbers(directory), default=0)
    freed = 0
    for pack in packs:
        path = pack_path(directory, pack)
        try:
            size = os.stat(path).st_size
            if pack == highest:
                os.truncate(path, min(size, EMPTY_PACK))
                freed += max(size - EMPTY_PACK, 0)
            else:
                os.unlink(path)
                freed += size
        except FileNotFoundError:
            continue
    return freed
