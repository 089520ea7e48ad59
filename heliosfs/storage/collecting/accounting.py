"""How much of the store each branch and snapshot reaches, alone or with others.

Two questions, each answered by one pass that looks at what differs:
- *exclusive*: a page or chunk belongs to the one who reaches it, or to nobody once a second one does. When that
  happens all below it belongs to nobody, too; so each page is visited at most twice, whatever the number of trees.
- *reached*: reference counts of one tree, moved from tree to tree: what the next has is counted in before what the
  last one had is counted out, so that only pages that differ are visited.

Bytes are those of distinct chunks: `raw_bytes` decoded, `stored_bytes` as frames in packs. Must not know: names,
when this is asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import trio

from cas.digest import ChunkId
from cas.index import ChunkIndex
from heliosfs.core import pages
from heliosfs.core.ids import PageId
from heliosfs.storage.collecting.pace import Pace
from heliosfs.storage.pagestore import PageStore
from heliosfs.storage.reachable import chunks_of, kids_of

_SHARED: Final = -1
_LOAD: Final = 32
_REMEMBERED: Final = 2048


@dataclass(slots=True)
class Sum:
    """Of distinct chunks."""

    chunks: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0

    def add(self, chunk: _Chunk, sign: int = 1) -> None:
        """Count a chunk in, or out."""
        self.chunks += sign
        self.raw_bytes += sign * chunk.raw_length
        self.stored_bytes += sign * chunk.stored_length

    def less(self, other: Sum) -> Sum:
        """The difference."""
        return Sum(
            self.chunks - other.chunks,
            self.raw_bytes - other.raw_bytes,
            self.stored_bytes - other.stored_bytes,
        )


class _Chunk(NamedTuple):
    id: ChunkId
    raw_length: int
    stored_length: int


class _Below(NamedTuple):
    """What a page names: pages, and the distinct chunks."""

    kids: list[PageId]
    chunks: list[_Chunk]


class Accountant:
    """Answers for trees that are stored. The pages must stay while it works."""

    def __init__(self, store: PageStore, index: ChunkIndex, pace: Pace) -> None:
        self._store = store
        self._index = index
        self._pace = pace
        self._known: OrderedDict[PageId, _Below] = OrderedDict()

    async def exclusive(self, roots: Sequence[PageId], groups: Sequence[int]) -> dict[int, Sum]:
        """By group (>= 0): what its trees reach and those of no other group. Raises Damaged.

        O(pages reached), whatever the number of trees.
        """
        owners: dict[bytes, int] = {}
        sums = {group: Sum() for group in groups}
        for root, group in zip(roots, groups, strict=True):
            waiting = [root]
            while waiting:
                visit: list[PageId] = []
                while waiting and len(visit) < _LOAD:
                    page = waiting.pop()
                    owner = owners.get(page)
                    if owner is None:
                        owners[page] = group
                    elif owner in (group, _SHARED):
                        continue
                    else:
                        owners[page] = _SHARED
                    visit.append(page)
                for below in await self._below(visit):
                    waiting += below.kids
                    for chunk in below.chunks:
                        owner = owners.get(chunk.id)
                        if owner is None:
                            owners[chunk.id] = group
                            sums[group].add(chunk)
                        elif owner not in (group, _SHARED):
                            owners[chunk.id] = _SHARED
                            sums[owner].add(chunk, -1)
                    await self._pace.take()
        return sums

    async def reached(self, roots: Sequence[PageId]) -> list[Sum]:
        """Of each tree: all that it reaches. O(pages that differ between one and the next). Raises Damaged."""
        counts: dict[bytes, int] = {}
        total = Sum()
        sums: list[Sum] = []
        last: PageId | None = None
        for root in roots:
            if root != last:
                await self._count(root, counts, total, 1)
                if last is not None:
                    await self._count(last, counts, total, -1)
                last = root
            sums.append(Sum(total.chunks, total.raw_bytes, total.stored_bytes))
        return sums

    async def _count(self, root: PageId, counts: dict[bytes, int], total: Sum, sign: int) -> None:
        """Count a reference to a page in or out; what is below it, where it is the first or was the last one."""
        turns = 1 if sign > 0 else 0
        waiting = [root]
        while waiting:
            visit: list[PageId] = []
            while waiting and len(visit) < _LOAD:
                page = waiting.pop()
                if _step(counts, page, sign) == turns:
                    visit.append(page)
            for below in await self._below(visit):
                waiting += below.kids
                for chunk in below.chunks:
                    if _step(counts, chunk.id, sign) == turns:
                        total.add(chunk, sign)
                await self._pace.take()

    async def _below(self, wanted: Sequence[PageId]) -> list[_Below]:
        known = self._known
        missing = [page for page in wanted if page not in known]
        found: dict[PageId, _Below] = {}
        if missing:
            for page, encoded in zip(missing, await trio.to_thread.run_sync(self._load, missing), strict=True):
                node = pages.decode(encoded)
                chunks = {chunk.id: chunk for chunk in chunks_of(node)}
                found[page] = _Below(kids_of(node), [self._chunk(c.id, c.length) for c in chunks.values()])
                await self._pace.take()
        result = [found[page] if page in found else known[page] for page in wanted]
        known.update(found)
        while len(known) > _REMEMBERED:
            known.popitem(last=False)
        return result

    def _load(self, wanted: list[PageId]) -> list[bytes]:
        return [self._store.load(page) for page in wanted]

    def _chunk(self, id_: ChunkId, length: int) -> _Chunk:
        place = self._index.place(id_)
        return _Chunk(id_, length, 0 if place is None else place.length)


def _step(counts: dict[bytes, int], id_: bytes, sign: int) -> int:
    """The count afterwards."""
    count = counts.get(id_, 0) + sign
    if count:
        counts[id_] = count
    else:
        del counts[id_]
    return count
