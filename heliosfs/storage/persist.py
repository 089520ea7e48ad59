"""The persister: turns a cut into chunks, pages and refs, in the background.

One cut for the whole store at a time (docs/persist.md). The loop does the planning and the encoding in
slices (breath.py), so that a request waits no longer than that; worker processes read, cut, hash, compress
and store file data. Order of writes: chunks synced, pages, then the one batch with refs and position,
synced: the commit point. Until then nothing that the log needs is let go (invariant 7).

A cut that fails has stored nothing that counts, and costs nothing but time: it is tried again, less and less
often, at once when space has returned. A failing database is opened again first; on a full disk the reserve is
given up for it (storage/space.py).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from cas.database import Database
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
from heliosfs.storage.note import StoreNote
from heliosfs.storage.pagecache import PageCache
from heliosfs.storage.pagestore import PageStore
from heliosfs.storage.pagewriter import PageWriter
from heliosfs.storage.salvaging import Lost
from heliosfs.storage.space import Space
from heliosfs.storage.untold import Untold
from heliosfs.storage.workers import WorkerPool

QUIET_S: Final = 3.0
OLDEST_S: Final = 30.0
REPLAYED_MAX: Final = 1000
"""Records whose replay delays the first answer by some 20 ms: where processes die again and again, no more."""
FOLLOWED_MAX: Final = 50_000
"""The same where somebody follows, so that nobody has to replay them all; but a cut makes him begin anew."""
RECORDS_MAX: Final = 50_000
"""Since the last cut. Each of many small writes to one file (a log, written line by line) is a piece of it, and the
loop takes 6 us for each piece in one go: 0.3 s."""
LIVES_MAX: Final = 12
"""Each process begins a life of the log, and each life takes a segment, however little is in it."""
REST_S: Final = 20.0
"""After so long without a change the log gives the disk back what it needs not (`Log.rest`)."""
BACKOFF_MAX_S: Final = 60.0
MAKE_ROOM_S: Final = 0.2
"""Cuts for writers that met a full disk are at least so far apart: they wait, and are not refused sooner."""
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
_GROUP: Final = 64
INODE_BYTES: Final = 800
"""What a changed inode takes in memory until it is stored: itself, its entry, their numbers and names."""

log_ = logging.getLogger(__name__)


class Persister:
    """Decides when to cut, and carries it out.

    Attributes:
        persisted: Log position of the last committed cut.
        failed: Why the last cut failed, or None. It is tried again.
        cuts: How many were committed; last_seconds: how long the last one took.
        lost_bytes: Damaged bytes that cuts since the start gave up; reading them is EIO.
        storing_events: Operation-log lines that the running cut holds.
        told: Called when a cut has been committed.
        note: Where commits are noted.
        untold: What kernels are being told of.
    """

    def __init__(
        self,
        engine: Engine,
        log: Log,
        commit: GroupCommit,
        db: Database,
        store: PageStore,
        cache: PageCache,
        index: ChunkIndex,
        pool: WorkerPool,
        reads: ReadsUnderWay,
        persisted: Lsn,
        space: Space,
    ) -> None:
        self._engine = engine
        self._log = log
        self._commit = commit
        self._db = db
        self._store = store
        self._cache = cache
        self._pool = pool
        self._space = space
        self._cutter = FileCutter(log, index, cache, pool, reads)
        self._lock = trio.Lock()
        self._wanted = trio.Event()
        self.persisted = persisted
        self.failed: BaseException | None = None
        self.storing_events: list[Event] = []
        self.told: Callable[[], None] | None = None
        self.note: StoreNote | None = None
        self.untold = Untold()
        self._cutting = False
        self._appends = 0
        """Records appended before the last cut."""
        self.cuts = 0
        self.last_seconds = 0.0
        self.lost_bytes = 0
        self._failures = 0
        self._next_try = 0.0
        self._made_room = -MAKE_ROOM_S

    # --- when ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """The background task: cut when the log is a quarter full, or quiet, or old."""
        seen = Lsn(self._log.end)
        dirty_since: float | None = None
        changed = trio.current_time()
        while True:
            with trio.move_on_after(QUIET_S):
                await self._wanted.wait()
            self._wanted = trio.Event()
            if self._short_of_reserve():
                await self._keep_reserve()
            if trio.current_time() < self._next_try and not self._space_returned():
                continue
            if self._db.failed is not None and not self.dirty():
                await self._mend()
            end = self._log.end
            if end == self.persisted or not (self.dirty() or self.pressing()):
                dirty_since = None
                if end != seen:
                    seen, changed = end, trio.current_time()
                elif trio.current_time() - changed >= REST_S:
                    self._log.rest()
                    seen = self._log.end
                continue
            changed = now = trio.current_time()
            dirty_since = now if dirty_since is None else dirty_since
            quiet = end == seen
            seen = end
            if quiet or self.failed is not None or self.pressing() or now - dirty_since > OLDEST_S:
                await self._try()
                dirty_since = None

    def dirty(self) -> bool:
        """Whether there is anything that a cut would store, or one is under way."""
        engine = self._engine
        return bool(
            self._cutting
            or engine.touched_branches
            or engine.touched_snapshots
            or engine.events
            or engine.dropped_snapshots
        )

    def pressing(self) -> bool:
        """Whether the log has used a quarter of its budget since the last cut, or records or changed inodes theirs.

        Also after a long replay: the next process would have to do it again, and more.
        """
        recovery = self._log.recovery
        if not self.cuts and (
            recovery.records > (FOLLOWED_MAX if recovery.followed else REPLAYED_MAX) or recovery.lives > LIVES_MAX
        ):
            return True
        if self._log.end - self.persisted > self._log.budget_bytes // 4:
            return True
        if self._log.appends - self._appends > RECORDS_MAX:
            return True
        changed = sum(len(branch.head.changed) for branch in self._engine.touched_branches)
        return changed * INODE_BYTES > self._cache.budget_bytes // 2

    def nudge(self) -> None:
        """Something was appended that makes it worth looking whether to cut."""
        self._wanted.set()

    async def _try(self) -> None:
        # Told in the log, and in `failed`.
        with contextlib.suppress(OSError, Damaged):
            await self._persist_past(None)

    async def _mend(self) -> None:
        """Have the database back where no cut would do it: somebody else has met its error."""
        try:
            await trio.to_thread.run_sync(self._db.reopen)
        except OSError as error:
            self._note_failure(error)
        else:
            self.failed = None
            self._failures = 0

    @property
    def unstored(self) -> int:
        """Bytes of log that no cut has stored."""
        return self._log.end - self.persisted

    def _space_returned(self) -> bool:
        failed = self.failed
        return isinstance(failed, OSError) and failed.errno in _FULL and not self._space.tight(self.unstored)

    def _short_of_reserve(self) -> bool:
        return bool(self._space.missing) or not self._log.has_reserve

    async def _keep_reserve(self) -> None:
        """Make the reserve whole again where there is room."""
        if self._space.room(self.unstored) >= self._space.sizes.reserve_segment:
            self._log.keep_reserve()
        await trio.to_thread.run_sync(self._space.refill, self.unstored)

    async def wait_for(self, position: Lsn) -> None:
        """Return when everything before `position` is persisted. Raises what makes that impossible."""
        while self.persisted < position:
            await self.persist(unless_past=position)

    async def make_room(self) -> bool:
        """Try to get space back for writers on a full disk. Whether there was anything to try.

        Raises:
            OSError: The cut failed.
        """
        since = trio.current_time() - self._made_room
        if since < MAKE_ROOM_S:
            await trio.sleep(MAKE_ROOM_S - since)
        end = self._log.end
        if self.persisted == end or not (self.dirty() or self._log.used_bytes > self._log.budget_bytes // 4):
            return False
        await self.persist(unless_past=end)
        await trio.to_thread.run_sync(self._log.wait_freed)
        self._made_room = trio.current_time()
        return True

    async def wait_for_room(self) -> None:
        """Return when the log is within its budget again; the backpressure of writers.

        Raises:
            OSError: It can't be: the last cut failed, and the next is not due yet.
        """
        while self._log.over_budget:
            if isinstance(self.failed, OSError) and trio.current_time() < self._next_try:
                raise OSError(self.failed.errno, f"the log is full and can't be emptied: {self.failed}")
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
        self._cutting = True
        try:
            with self._pool.claims.claim():
                await self._persist()
        finally:
            self._cutting = False

    async def revive(self) -> None:
        """Have the database open, for who holds `between_cuts`. OSError: it can't be, yet."""
        if not self._db.opened:
            await trio.to_thread.run_sync(self._db.ensure)
        if self._db.failed is not None:
            await trio.to_thread.run_sync(self._db.reopen)

    async def persist(self, unless_past: Lsn | None = None) -> None:
        """Make a cut and commit it: somebody waits for it.

        Raises OSError (disk), Damaged (unreadable data); state stays whole.
        """
        with self._pool.urged():
            await self._persist_past(unless_past)

    async def _persist_past(self, unless_past: Lsn | None) -> None:
        failures = self._failures
        async with self._lock:
            if unless_past is not None:
                if self.persisted >= unless_past:
                    return
                if self._failures != failures and self.failed is not None:
                    # Who waited while the cut failed is told so, instead of failing once more by himself.
                    raise self.failed
            await self.cut()

    async def _persist(self) -> None:
        began = time.perf_counter()
        if self._space.tight(self.unstored):
            self._space.release()
        try:
            try:
                await self._attempt()
            except OSError as error:
                if error.errno not in _FULL or not self._space.release():
                    raise
                await self._attempt()
        except BaseException as error:
            self._note_failure(error)
            raise
        if self.failed is not None:
            log_.warning("persisting works again after %d failures", self._failures)
        self.failed = None
        self._failures = 0
        self._next_try = 0.0
        self.cuts += 1
        self.last_seconds = time.perf_counter() - began
        if self._short_of_reserve():
            await self._keep_reserve()

    def _note_failure(self, error: BaseException) -> None:
        if not isinstance(error, OSError | Damaged):
            return
        if str(error) != str(self.failed):
            log_.error("persisting failed, will be tried again: %s", error)
        self.failed = error
        self._failures += 1
        self._next_try = trio.current_time() + min(2.0 ** (self._failures - 1), BACKOFF_MAX_S)

    async def _attempt(self) -> None:
        """One attempt."""
        await self.revive()
        cut = cuts.begin(self._engine, self._log.end)
        appends = self._log.appends
        self.storing_events = cut.events
        try:
            roots = await self._carry_out(cut)
        except BaseException:
            cuts.undo(self._engine, cut)
            raise
        finally:
            self.storing_events = []
        # From here on the cut is true, whatever becomes of this task.
        with trio.CancelScope(shield=True):
            await self._move(cut)
        cuts.finish(self._engine, cut, roots)
        self._log.release(cut.position)
        self.persisted = cut.position
        self._appends = appends
        if self.told is not None:
            self.told()

    async def _carry_out(self, cut: Cut) -> dict[int, PageId]:
        breath = Breath()
        drops = self._pool.drops
        lost: list[Lost] = []
        self._cutter.lost = lost
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
        orphans: dict[BranchId, PageId] = {}
        for state in cut.wanted:
            base, changed = cuts.changes_of(state, roots)
            table = await self._table(base, changed, stored_copy, breath)
            roots[id(state)] = await self._root(table, writer)
        for branch_cut in cut.branches:
            if branch_cut.orphans:
                pairs = [(ino, stored_copy(inode)) for ino, inode in sorted(branch_cut.orphans.items())]
                orphans[branch_cut.branch.id] = await self._root(radix.build(pairs), writer)
        writer.flush()
        await self._pool.sync(drops)
        await self._commit.wait_durable(cut.position)
        await self.untold.wait()
        batch = refstore.commit_batch(cut, roots, orphans)
        for each in lost:
            refstore.put_lost(batch, each.id, each.length, each.source, each.reason)
        with contextlib.nullcontext() if self.note is None else self.note.committing():
            self._db.write(batch)
            await trio.to_thread.run_sync(self._db.sync)
        for each in lost:
            log_.error("%s: %d bytes are damaged and were given up; reading them is EIO", each.source, each.length)
        self.lost_bytes += sum(each.length for each in lost)
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
