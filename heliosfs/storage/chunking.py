"""Canonical chunks for the files of a cut: plans in the core, cutting in worker processes.

Must not know: views, refs, when a cut happens.
"""

from __future__ import annotations

from typing import Final

import trio

from cas.digest import ChunkId
from cas.errors import ChunkDamaged
from cas.index import ChunkIndex
from cas.packs import PackReader
from heliosfs.core import recut
from heliosfs.core.errors import Damaged
from heliosfs.core.extent import ChunkRef, LogData, Source
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Tree
from heliosfs.core.recut import Cutting, Region, RunPlan
from heliosfs.storage.breath import Breath
from heliosfs.storage.collecting.reads import ReadsUnderWay
from heliosfs.storage.log import Log
from heliosfs.storage.pagecache import PageCache
from heliosfs.storage.salvaging import Lost, Part, Salvager, parts_of
from heliosfs.storage.workers import ChunkSource, CutRun, LogSource, WorkerPool

_JOB_RUNS: Final = 64
_JOB_BYTES: Final = 16 << 20
_Moves = list[tuple[LogData, list[tuple[int, int, ChunkRef, int]]]]
_Cut = tuple[int, Region]


class FileCutter:
    """Makes the stored form of file contents.

    Attributes:
        lost: Bytes that the running cut has given up, because they are damaged.
    """

    def __init__(
        self, log: Log, index: ChunkIndex, cache: PageCache, pool: WorkerPool, reads: ReadsUnderWay
    ) -> None:
        self._log = log
        self._index = index
        self._cache = cache
        self._pool = pool
        self._reads = reads
        self._salvager = Salvager(log, index, PackReader(pool.packs))
        self.lost: list[Lost] = []

    async def canonical(self, inodes: list[Inode], moves: _Moves, breath: Breath) -> dict[int, Tree]:
        """The canonical extents of each file that has to be cut, by id() of the inode; adds to `moves`.

        Raises:
            Damaged: Bytes that are to be cut cannot be read now, and may be later (EIO). Those that never will be
                are given up by themselves: `lost`.
            OSError: The chunks cannot be stored (ENOSPC, EIO).
        """
        todo: list[_Cut] = []
        runs: list[tuple[int, RunPlan]] = []
        by_id: dict[int, Inode] = {}
        for inode in inodes:
            with self._cache.blocking():
                plans = recut.plan(inode, self._cache)
            for run in plans:
                runs.append((id(inode), run))
                todo.extend((id(inode), region) for region in run.regions)
                by_id[id(inode)] = inode
            await breath.take()
        results: dict[tuple[int, int], Cutting] = {}
        await self._cut_all(todo, results, breath)
        done: dict[int, list[tuple[Region, Cutting]]] = {}
        for key, run in runs:
            done.setdefault(key, []).extend(await self._settle(key, run, results, breath))
            await breath.take()
        trees: dict[int, Tree] = {}
        for key, cuttings in done.items():
            with self._cache.blocking():
                trees[key], moved = recut.apply_cuttings(by_id[key].tree, cuttings, self._cache)
            moves.extend(moved)
            await breath.take()
        return trees

    async def _settle(
        self, key: int, run: RunPlan, results: dict[tuple[int, int], Cutting], breath: Breath
    ) -> list[tuple[Region, Cutting]]:
        """The cuttings of a run; where one met no boundary, the rest of the run is cut again."""
        cuttings = {region.offset: results[key, region.offset] for region in run.regions}
        done, rest = recut.accept(run, cuttings)
        if rest is not None:
            again: dict[tuple[int, int], Cutting] = {}
            await self._cut_all([(key, rest)], again, breath)
            done.append((rest, again[key, rest.offset]))
        return done

    async def _cut_all(self, todo: list[_Cut], results: dict[tuple[int, int], Cutting], breath: Breath) -> None:
        """Cut regions in jobs, some at once. Raises the first error, plain, once all jobs have ended."""
        errors: list[Exception] = []
        limit = trio.CapacityLimiter(4)

        async def job(batch: list[_Cut]) -> None:
            async with limit:
                if errors:
                    return
                try:
                    await self._job(batch, results)
                except (OSError, Damaged) as error:
                    errors.append(error)

        async with trio.open_nursery() as nursery:
            batch: list[_Cut] = []
            size = 0
            for item in todo:
                batch.append(item)
                size += sum(length for _, _, length in item[1].sources)
                if len(batch) >= _JOB_RUNS or size >= _JOB_BYTES:
                    nursery.start_soon(job, batch)
                    batch, size = [], 0
                    await breath.take()
            if batch:
                nursery.start_soon(job, batch)
        if errors:
            raise errors[0]

    async def _job(self, batch: list[_Cut], results: dict[tuple[int, int], Cutting]) -> None:
        # The worker reads at places that are looked up here.
        with self._reads.read():
            runs: list[CutRun] = []
            asked: list[_Cut] = []
            broken: list[_Cut] = []
            for key, region in batch:
                try:
                    run = CutRun(tuple(self._source(*source) for source in region.sources), region.resync)
                except Damaged:
                    broken.append((key, region))
                else:
                    runs.append(run)
                    asked.append((key, region))
            for (key, region), result in zip(asked, await self._pool.cut_each(runs), strict=True):
                if isinstance(result, Damaged):
                    broken.append((key, region))
                else:
                    results[key, region.offset] = Cutting(result.pieces, result.consumed)
            for key, region in broken:
                results[key, region.offset] = await self._around_damage(region)

    async def _around_damage(self, region: Region) -> Cutting:
        """The cutting of a region of which a part can't be read: what lies between damage is cut by itself."""
        if not region.to_end:
            # Met no boundary: so it comes again, as the whole rest of its run.
            return Cutting((), -1)
        parts = parts_of(region.sources)
        found = await trio.to_thread.run_sync(self._salvager.examine, parts)
        pieces: list[tuple[ChunkId, int]] = []
        whole: list[Part] = []
        for part, lost in zip([*parts, None], [*found, None], strict=True):
            if part is not None and lost is None:
                whole.append(part)
                continue
            if whole:
                run = CutRun(tuple(self._source(*source) for source in whole))
                (result,) = await self._pool.cut_runs([run])
                pieces.extend(result.pieces)
                whole = []
            if lost is not None:
                pieces.append((lost.id, lost.length))
                self.lost.append(lost)
        return Cutting(pieces, sum(length for _, length in pieces))

    def _source(self, source: Source, start: int, length: int) -> LogSource | ChunkSource:
        if type(source) is LogData:
            path, salt = self._log.locate(source.life)
            return LogSource(path, salt, source.offset, source.length, source.sums, start, length)
        assert type(source) is ChunkRef
        try:
            stored = self._index.get(source.id)
        except ChunkDamaged as error:
            raise Damaged(source.id.hex(), str(error)) from error
        if stored is None:
            raise Damaged(source.id.hex(), f"chunk {source.id.hex()} is missing")
        place = stored.place
        return ChunkSource(place.pack, place.offset, place.length, source.id, start, length)
