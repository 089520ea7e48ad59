"""The persister: turns a cut into chunks, pages and refs, in the background.

One cut for the whole store at a time (docs/persist.md). The loop does the planning and the encoding in
slices (breath.py), so that a request waits no longer than that; worker processes read, cut, hash, compress
and store file data. Order of writes: chunks synced, pages, then the one batch with refs and position,
synced: the commit point. Until then nothing that the log needs is let go (invariant 7).
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio
from rocksdict import Rdict

from cas import database
from cas.index import ChunkIndex
from heliosfs.core import cut as cuts
from heliosfs.core import extent, radix
from heliosfs.core.cut import Cut
from heliosfs.core.engine import Engine
from heliosfs.core.errors import Damaged
from heliosfs.core.events import Event
from heliosfs.core.ids import BranchId, Ino, Lsn, PageId
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Tree
from heliosfs.storage import refstore
from heliosfs.storage.breath import Breath
from heliosfs.storage.chunking import FileCutter
from heliosfs.storage.collecting.reads import ReadsUnderWay
from heliosfs.storage.log import GroupCommit, Log
from heliosfs.storage.pagestore import PageCache, PageStore
from heliosfs.storage.pagewriter import PageWriter
from heliosfs.storage.workers import WorkerPool

QUIET_S: Final = 3.0
OLDEST_S: Final = 30.0
_GROUP: Final = 64

log_ = logging.getLogger(__name__)


class Persister:
    """Decides when to cut, and carries it out.

    Attributes:
        persisted: Log position of the last committed cut.
        failed: Why the last cut failed, or None.
        cuts: How many were committed; last_seconds: how long the last one took.
        storing_events: Operation-log lines that the running cut holds.
    """

    def __init__(
        self,
        engine: Engine,
        log: Log,
        commit: GroupCommit,
        db: Rdict,
        store: PageStore,
        cache: PageCache,
        index: ChunkIndex,
        pool: WorkerPool,
        reads: ReadsUnderWay,
        persisted: Lsn,
    ) -> None:
        self._engine = engine
        self._log = log
        self._commit = commit
        self._db = db
        self._store = store
        self._cache = cache
        self._pool = pool
        self._cutter = FileCutter(log, index, cache, pool, reads)
        self._lock = trio.Lock()
        self._wanted = trio.Event()
        self.persisted = persisted
        self.failed: BaseException | None = None
        self.storing_events: list[Event] = []
        self.cuts = 0
        self.last_seconds = 0.0

    # --- when ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """The background task: cut when the log is a quarter full, or quiet, or old."""
        seen = Lsn(self._log.end)
        dirty_since: float | None = None
        while True:
            with trio.move_on_after(QUIET_S):
                await self._wanted.wait()
            self._wanted = trio.Event()
            end = self._log.end
            if end == self.persisted or not (self.dirty() or self.pressing()):
                dirty_since = None
                seen = end
                continue
            now = trio.current_time()
            dirty_since = now if dirty_since is None else dirty_since
            quiet = end == seen
            seen = end
            if quiet or self.pressing() or now - dirty_since > OLDEST_S:
                await self._try()
                dirty_since = None

    def dirty(self) -> bool:
        """Whether there is anything that a cut would store."""
        engine = self._engine
        return bool(
            engine.touched_branches
            or engine.touched_snapshots
            or engine.events
            or engine.dropped_snapshots
            or any(b.head.changed or b.head.parent.root is None for b in engine.branches.values())
        )

    def pressing(self) -> bool:
        """Whether the log has used a quarter of its budget since the last cut."""
        return self._log.end - self.persisted > self._log.budget_bytes // 4

    def nudge(self) -> None:
        """Something was appended that makes it worth looking whether to cut."""
        self._wanted.set()

    async def _try(self) -> None:
        try:
            await self.persist()
        except (OSError, Damaged) as error:
            log_.error("persisting failed, will be tried again: %s", error)

    async def wait_for(self, position: Lsn) -> None:
        """Return when everything before `position` is persisted. Raises what makes that impossible."""
        while self.persisted < position:
            await self.persist(unless_past=position)

    async def wait_for_room(self) -> None:
        """Return when the log is within its budget again; the backpressure of writers."""
        while self._log.over_budget:
            before = self.persisted
            await self.persist(unless_past=Lsn(before + 1))

    # --- how -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def between_cuts(self) -> AsyncIterator[None]:
        """Inside the `async with`, no cut is under way; one that is, is waited for."""
        async with self._lock:
            yield

    async def cut(self) -> None:
        """`persist`, for who holds `between_cuts`."""
        with self._pool.claims.claim():
            await self._persist()

    async def persist(self, unless_past: Lsn | None = None) -> None:
        """Make a cut and commit it. Raises OSError (disk), Damaged (unreadable data); state stays whole."""
        async with self._lock:
            if unless_past is not None and self.persisted >= unless_past:
                return
            await self.cut()

    async def _persist(self) -> None:
        began = time.perf_counter()
        cut = cuts.begin(self._engine, self._log.end)
        self.storing_events = cut.events
        try:
            roots = await self._carry_out(cut)
        except BaseException as error:
            cuts.undo(self._engine, cut)
            self.failed = error
            raise
        finally:
            self.storing_events = []
        await self._move(cut)
        cuts.finish(self._engine, cut, roots)
        self._log.release(cut.position)
        self.persisted = cut.position
        self.failed = None
        self.cuts += 1
        self.last_seconds = time.perf_counter() - began

    async def _carry_out(self, cut: Cut) -> dict[int, PageId]:
        breath = Breath()
        inodes = await self._inodes_of(cut, breath)
        trees = await self._cutter.canonical(inodes, cut.moves, breath)
        writer = PageWriter(self._store, self._cache, breath)
        stored: dict[int, Inode] = {}

        def stored_copy(inode: Inode) -> Inode:
            copy = stored.get(id(inode))
            if copy is None:
                copy = inode.copy(Lsn(0))
                if id(inode) in trees:
                    copy.tree = trees[id(inode)]
                stored[id(inode)] = copy
            return copy

        roots: dict[int, PageId] = {}
        for state in cut.wanted:
            base, changed = cuts.changes_of(state, roots)
            table = await self._table(base, changed, stored_copy, breath)
            roots[id(state)] = await self._root(table, writer)
        orphans: dict[BranchId, PageId] = {}
        for branch_cut in cut.branches:
            if branch_cut.orphans:
                pairs = [(ino, stored_copy(inode)) for ino, inode in sorted(branch_cut.orphans.items())]
                orphans[branch_cut.branch.id] = await self._root(radix.build(pairs), writer)
        writer.flush()
        await self._pool.sync()
        await self._commit.wait_durable(cut.position)
        database.write(self._db, refstore.commit_batch(cut, roots, orphans))
        await trio.to_thread.run_sync(database.sync, self._db)
        return roots

    async def _move(self, cut: Cut) -> None:
        """Point the log data of the committed cut to its chunks. Both places are good meanwhile."""
        breath = Breath()
        for source, ranges in cut.moves:
            extent.move(source, ranges)
            await breath.take()

    async def _inodes_of(self, cut: Cut, breath: Breath) -> list[Inode]:
        """Distinct regular files of the cut that may hold log data."""
        found: dict[int, Inode] = {}
        known = {id(state): PageId(b"") for state in cut.wanted}
        for state in cut.wanted:
            _, changed = cuts.changes_of(state, known)
            for at in range(0, len(changed), _GROUP):
                for _, inode in changed[at : at + _GROUP]:
                    if inode is not None and inode.tree is not None and inode.is_file():
                        found[id(inode)] = inode
                await breath.take()
        for branch_cut in cut.branches:
            for inode in branch_cut.orphans.values():
                if inode.tree is not None and inode.is_file():
                    found[id(inode)] = inode
        return list(found.values())

    async def _table(
        self,
        base: PageId | None,
        changes: Sequence[tuple[Ino, Inode | None]],
        stored_copy: Callable[[Inode], Inode],
        breath: Breath,
    ) -> Tree:
        """The inode table `base` with the changes."""
        tree: Tree = base
        for at in range(0, len(changes), _GROUP):
            group = [(ino, inode and stored_copy(inode)) for ino, inode in changes[at : at + _GROUP]]
            with self._cache.blocking():
                tree = radix.update(tree, group, self._cache)
            await breath.take()
        return tree

    async def _root(self, table: Tree, writer: PageWriter) -> PageId:
        assert table is not None
        return table if type(table) is bytes else await writer.tree(table)  # type: ignore[arg-type]
