"""Making a branch equal to an imported tree: build, store, then swap by one record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from heliosfs.core import radix
from heliosfs.core.adopt import TreeBuilder, first_free_lease
from heliosfs.core.diff import Comparison
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import Ino, Lsn, ViewNo
from heliosfs.core.imported import ImportedNode
from heliosfs.core.inode import Inode
from heliosfs.core.oplog import Adopt
from heliosfs.core.pathrestore import walk
from heliosfs.core.refs import automatic_name
from heliosfs.core.view import State
from heliosfs.filesystem.observing import Observing
from heliosfs.filesystem.types import Caller, Outcome
from heliosfs.storage.breath import Breath
from heliosfs.storage.collecting.claims import Claim
from heliosfs.storage.pagestore import PageStore
from heliosfs.storage.pagewriter import PageWriter

_PART: Final = 10_000
"""Inodes of an import that are in memory before their pages are written: 5 MB."""


class Adopting(Observing):
    """Imports."""

    page_store: PageStore

    def import_baseline(self, view: ViewNo, path: bytes) -> tuple[Ino, int, int, int] | None:
        """(inode number, mode, size, mtime_ns) of what the branch has at a path, None if nothing."""
        with self.cache.blocking():
            try:
                inode = walk(self.engine.writable(view).head, path, self.engine.pages)
            except FsError:
                return None
        return inode.ino, inode.mode, inode.size, inode.mtime_ns

    async def adopt(
        self, view: ViewNo, nodes: Sequence[ImportedNode], caller: Caller, *, drops: int | None = None
    ) -> Outcome:
        """Make the branch equal to `nodes` (node 0 is the root), after a safety snapshot.

        The branch gets the snapshot `import-<automatic name>`. What is the same keeps its inode; chunks named
        by the nodes must be stored. Changes made to the branch meanwhile are in the safety snapshot alone.
        `drops` is the pool's number from before the chunks were stored. Raises OSError: the tree cannot be
        stored; nothing has changed.
        """
        with self.pool.claims.claim() as claim:
            return await self._adopt(view, nodes, caller, claim, drops)

    async def _adopt(
        self, view: ViewNo, nodes: Sequence[ImportedNode], caller: Caller, claim: Claim, drops: int | None
    ) -> Outcome:
        branch = self.engine.writable(view)
        now = self.now()
        first = self.engine.next_ino
        self.engine.next_ino = first_free_lease(Ino(first + len(nodes)))
        before = branch.head.freeze(Lsn(self.log.end))
        claim.hold(before)
        builder = TreeBuilder(before, nodes, first, now, self.engine.pages)
        await self._store_base(before)
        breath = Breath()
        table: radix.Tree = before.root
        steps = builder.steps()
        going = True
        writer = PageWriter(self.page_store, self.cache, breath)
        while going:
            with self.cache.blocking():
                going = next(steps, False) is None
            await breath.take()
            # In parts, so that the inodes of a million files are never in memory all together.
            if len(builder.changes) >= _PART or not going:
                changes = builder.drain() if going else sorted(builder.changes.items())
                table = await self._update(table, changes, writer, breath)
        # A database that met an error stays closed until somebody opens it, and a cut may be long in coming.
        async with self.persister.between_cuts():
            await self.persister.revive()
        writer.flush()
        assert type(table) is bytes
        await self.pool.sync(drops)
        await trio.to_thread.run_sync(self.db.sync)
        root = radix.PageId(table)
        state = State.stored(root, builder.files, builder.size_bytes)
        comparison = Comparison(before, state, builder.found)

        def plan() -> Adopt:
            if self.engine.branches.get(view) is not branch:
                raise StaleHandle("the branch was discarded during the import")
            fresh = before.files <= 1 and not branch.snapshots
            record = Adopt(
                view,
                now,
                caller.uid,
                caller.pid,
                builder.files,
                builder.size_bytes,
                self.engine.next_ino,
                b"" if fresh else automatic_name(now, branch.snapshots),
                automatic_name(now, branch.snapshots, b"import-"),
                root,
            )
            found = comparison.of(branch.head, self.engine.pages)
            if found is not None:
                self.engine.prepared = (record, found, builder.made)
            return record

        # No await between the plan and its application: the branch may be discarded at any.
        record = await self.planned(plan)
        told = self.persister.untold.begin()
        found = self.carry_out(record)
        outcome = self._outcome("import", str(branch.latest.id if branch.latest else 0), record.name, now)
        outcome.told = told
        outcome.changes = await self.kernel_changes(view, found)
        outcome.extra["changed"] = len(found) + builder.made
        outcome.extra["files"] = builder.files
        outcome.extra["safety"] = record.safety.decode() or None
        return outcome

    async def _update(
        self,
        table: radix.Tree,
        changes: list[tuple[Ino, Inode | None]],
        writer: PageWriter,
        breath: Breath,
    ) -> radix.Tree:
        """The inode table with sorted changes, stored."""
        for at in range(0, len(changes), 128):
            with self.cache.blocking():
                table = radix.update(table, changes[at : at + 128], self.cache)
            await breath.take()
        if table is not None and type(table) is not bytes:
            table = await writer.tree(table)  # type: ignore[arg-type]
        return table

    async def _store_base(self, state: State) -> None:
        """The state that the new tree is made from must be stored: pages can't refer to the log."""
        while state.root is None:
            self.engine.requested.append(state)
            await self.persister.persist()
