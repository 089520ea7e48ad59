"""Bytes for a read: from the log, from cached chunks, or, off the loop, from packs. Always verified.

A read of what is in memory or in a segment written since the start does not suspend. Must not know: files,
views, the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import trio

from cas.cache import ChunkCache
from cas.digest import ChunkId
from cas.errors import ChunkDamaged, FrameDamaged
from cas.index import ChunkIndex
from cas.packs import PackReader
from heliosfs.core.errors import Damaged
from heliosfs.core.extent import ChunkRef, LogData, Piece, locate
from heliosfs.storage.collecting.reads import ReadsUnderWay
from heliosfs.storage.errors import LifeReleased
from heliosfs.storage.log import Log

_INLINE_CHUNKS: Final = 3
"""Chunks of one read that may be decoded on the loop: at most 0.1 ms."""


class Reader:
    """Performs read plans.

    Attributes:
        under_way: Reads that have suspended.
        cold_reads: How many times a thread had to fetch something.
    """

    def __init__(
        self, log: Log, index: ChunkIndex, packs: PackReader, cache: ChunkCache, under_way: ReadsUnderWay
    ) -> None:
        self._log = log
        self._index = index
        self._packs = packs
        self._cache = cache
        self.under_way = under_way
        self._first_own_life = log.current_life
        self._loading: dict[ChunkId, trio.Event] = {}
        self.cold_reads = 0

    def at_hand(self, plan: Sequence[Piece]) -> bytes | None:
        """The bytes of a plan of one piece that is in memory or in the page cache; None where it takes more.

        Raises Damaged (EIO).
        """
        if len(plan) == 1:
            piece = plan[0]
            source = piece.source
            if type(source) is LogData:
                if source.moved is None and source.life >= self._first_own_life:
                    return self._log_bytes(source, piece.start, piece.length)
            elif type(source) is ChunkRef:
                data = self._cache.get(source.id)
                if data is not None:
                    if piece.length == len(data):
                        return data
                    return data[piece.start : piece.start + piece.length]
        return None if plan else b""

    async def read(self, plan: Sequence[Piece]) -> bytes:
        """The bytes of a plan. Raises Damaged (EIO) for the ranges that cannot be verified."""
        data = self.at_hand(plan)
        if data is not None:
            return data
        with self.under_way.read():
            while True:
                try:
                    return await self._read_parts(plan)
                except LifeReleased:
                    # A cut was committed while this read waited for something: its log data are chunks by now.
                    continue

    async def _read_parts(self, plan: Sequence[Piece]) -> bytes:
        parts: list[tuple[LogData | ChunkRef | None, int, int]] = []
        for piece in plan:
            if piece.source is None:
                parts.append((None, 0, piece.length))
            else:
                parts.extend(locate(piece.source, piece.start, piece.length))
        chunks = await self._fetch({source.id for source, _, _ in parts if type(source) is ChunkRef})
        out: list[bytes] = []
        for source, start, length in parts:
            if source is None:
                out.append(bytes(length))
            elif type(source) is ChunkRef:
                out.append(chunks[source.id][start : start + length])
            else:
                assert type(source) is LogData
                if source.life >= self._first_own_life:
                    out.append(self._log_bytes(source, start, length))
                else:
                    out.append(await self._cold_log(source, start, length))
        return b"".join(out)

    def _log_bytes(self, source: LogData, start: int, length: int) -> bytes:
        return self._log.read_blocks(source.life, source.offset, source.length, source.sums, start, length)

    async def _cold_log(self, source: LogData, start: int, length: int) -> bytes:
        self.cold_reads += 1
        self._log.pin(source.life)
        try:
            return await trio.to_thread.run_sync(self._log_bytes, source, start, length)
        finally:
            self._log.unpin(source.life)

    async def _fetch(self, wanted: set[ChunkId]) -> dict[ChunkId, bytes]:
        """Decoded chunks by id, each fetched once however many wait for it."""
        found: dict[ChunkId, bytes] = {}
        while len(found) < len(wanted):
            mine: list[ChunkId] = []
            others: trio.Event | None = None
            for id_ in wanted - found.keys():
                data = self._cache.get(id_)
                if data is None and len(wanted) <= _INLINE_CHUNKS:
                    data = self._load_if_cached(id_)
                if data is not None:
                    found[id_] = data
                elif id_ in self._loading:
                    others = self._loading[id_]
                else:
                    mine.append(id_)
                    self._loading[id_] = trio.Event()
            # Nobody waits for others while others wait for him: what is claimed is loaded first.
            if mine:
                self.cold_reads += 1
                try:
                    for id_, data in (await trio.to_thread.run_sync(self._load, mine)).items():
                        self._cache.put(id_, data)
                        found[id_] = data
                finally:
                    for id_ in mine:
                        self._loading.pop(id_).set()
            elif others is not None:
                await others.wait()
        return found

    def _load_if_cached(self, id_: ChunkId) -> bytes | None:
        """On the loop: a chunk whose pack the kernel has in memory costs less than a thread (12 against 150 us)."""
        try:
            place = self._index.place(id_)
            if place is None:
                return None
            data = self._packs.get_if_cached(id_, place)
        except ChunkDamaged as error:
            self._index.suspect(id_)
            raise Damaged(id_.hex(), f"chunk {id_.hex()} is damaged: {error}") from error
        if data is not None:
            self._cache.put(id_, data)
        return data

    def _load(self, ids: list[ChunkId]) -> dict[ChunkId, bytes]:
        """In a thread: read, decode and verify."""
        loaded: dict[ChunkId, bytes] = {}
        for id_ in ids:
            try:
                place = self._index.place(id_)
                if place is None:
                    raise Damaged(id_.hex(), f"chunk {id_.hex()} is missing")
                loaded[id_] = self._packs.get(id_, place)
            except (ChunkDamaged, FrameDamaged, OSError) as error:
                if not isinstance(error, OSError):
                    self._index.suspect(id_)
                raise Damaged(id_.hex(), f"chunk {id_.hex()} is damaged: {error}") from error
        return loaded

    def chunk(self, id_: ChunkId) -> bytes:
        """One chunk, read and verified past the cache. For threads; blocks. Raises Damaged."""
        return self._load([id_])[id_]

    def forget_packs(self, packs: Iterable[int]) -> None:
        """These packs were removed: let go of their descriptors."""
        for pack in packs:
            self._packs.forget(pack)

    def close(self) -> None:
        """Close the packs."""
        self._packs.close()
