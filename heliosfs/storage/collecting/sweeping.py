"""Deleting the records of what nothing reaches, in small batches, while writers run.

Invariant: between finding that a record is neither reached nor claimed and deleting it there is no await, so no
worker is told of it in between. Must not know: how things are reached, pack files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cas.database import BATCH_RECORDS
from cas.digest import ChunkId
from cas.gc import PackUses
from cas.index import ChunkIndex
from heliosfs.core.ids import PageId
from heliosfs.storage.collecting.claims import Claims
from heliosfs.storage.collecting.marking import Reached
from heliosfs.storage.collecting.pace import Pace
from heliosfs.storage.pagestore import PageStore

_BATCH: Final = BATCH_RECORDS // 2
"""Records deleted at once, looked up first: 0.15 ms."""


@dataclass(slots=True)
class Swept:
    """What a sweep found.

    Attributes:
        live_chunks, live_stored_bytes, live_raw_bytes: What is reached or claimed.
        dead_chunks, dead_stored_bytes, dead_raw_bytes: What was deleted, or would be.
        claimed_chunks, claimed_pages: Not reached, and spared because running work counts on them.
        live_pages, dead_pages: Pages.
        dead_page_bytes: Frames of the latter.
        uses: Of packs, by what is left in the index.
    """

    live_chunks: int = 0
    live_stored_bytes: int = 0
    live_raw_bytes: int = 0
    dead_chunks: int = 0
    dead_stored_bytes: int = 0
    dead_raw_bytes: int = 0
    claimed_chunks: int = 0
    claimed_pages: int = 0
    live_pages: int = 0
    dead_pages: int = 0
    dead_page_bytes: int = 0
    uses: PackUses = field(default_factory=PackUses)


async def sweep_chunks(
    index: ChunkIndex, reached: Reached, claims: Claims, pace: Pace, found: Swept, *, delete: bool
) -> None:
    """Delete index records. O(records), 3 us each. Raises OSError: some are deleted, which is no harm."""
    batch: list[ChunkId] = []

    def settle() -> None:
        # Asked again, in the turn of the deletion: somebody may count on it by now.
        dead = [id_ for id_ in batch if not claims.spares_chunk(id_)]
        for id_ in batch:
            if claims.spares_chunk(id_):
                _spared(index, id_, found)
        for id_ in dead:
            entry = index.get(id_)
            if entry is not None:
                found.dead_chunks += 1
                found.dead_stored_bytes += entry.place.length
                found.dead_raw_bytes += entry.raw_length
        if delete:
            index.delete_batch(dead)
        batch.clear()

    for entry in index.entries():
        id_, place, raw_length = entry
        if id_ in reached.chunks:
            found.live_chunks += 1
            found.live_stored_bytes += place.length
            found.live_raw_bytes += raw_length
            found.uses.count(place)
        else:
            batch.append(id_)
            if len(batch) >= _BATCH:
                settle()
        await pace.take()
    settle()


def _spared(index: ChunkIndex, id_: ChunkId, found: Swept) -> None:
    entry = index.get(id_)
    if entry is not None:
        found.claimed_chunks += 1
        found.live_chunks += 1
        found.live_stored_bytes += entry.place.length
        found.live_raw_bytes += entry.raw_length
        found.uses.count(entry.place)


async def sweep_pages(
    store: PageStore,
    reached: Reached,
    claims: Claims,
    pace: Pace,
    found: Swept,
    forget: Callable[[PageId], None],
    *,
    delete: bool,
) -> None:
    """Delete pages. O(pages stored), 9 us each. Raises OSError: some are deleted, which is no harm.

    Args:
        forget: Told of each deleted page, for caches.
    """
    batch: list[tuple[PageId, int]] = []

    def settle() -> None:
        dead = [(page_id, size) for page_id, size in batch if not claims.spares_page(page_id)]
        found.claimed_pages += len(batch) - len(dead)
        found.live_pages += len(batch) - len(dead)
        found.dead_pages += len(dead)
        found.dead_page_bytes += sum(size for _, size in dead)
        if delete and dead:
            store.delete([page_id for page_id, _ in dead])
            for page_id, _ in dead:
                forget(page_id)
        batch.clear()

    for page_id, size in store.ids():
        if page_id in reached.pages:
            found.live_pages += 1
        else:
            batch.append((page_id, size))
            if len(batch) >= _BATCH:
                settle()
        await pace.take()
    settle()
