"""Making a branch equal to an imported tree: build, store, then swap by one record."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from cas import database
from heliosfs.core import radix
from heliosfs.core.adopt import TreeBuilder, first_free_lease
from heliosfs.core.diff import differences, kernel_changes
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import Ino, Lsn, ViewNo
from heliosfs.core.imported import ImportedNode
from heliosfs.core.oplog import Adopt
from heliosfs.core.pathrestore import walk
from heliosfs.core.refs import automatic_name
from heliosfs.core.view import State
from heliosfs.filesystem.observing import Observing
from heliosfs.filesystem.types import Caller, Outcome
from heliosfs.storage.breath import Breath
from heliosfs.storage.pagestore import PageStore
from heliosfs.storage.pagewriter import PageWriter


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

    async def adopt(self, view: ViewNo, nodes: Sequence[ImportedNode], caller: Caller) -> Outcome:
        """Make the branch equal to `nodes` (node 0 is the root), after a safety snapshot.

        The branch gets the snapshot `import-<automatic name>`. What is the same keeps its inode; chunks named
        by the nodes must be stored. Changes made to the branch meanwhile are in the safety snapshot alone.
        Raises OSError: the tree cannot be stored; nothing has changed.
        """
        branch = self.engine.writable(view)
        now = self.now()
        first = self.engine.next_ino
        self.engine.next_ino = first_free_lease(Ino(first + len(nodes)))
        before = branch.head.freeze(Lsn(self.log.end))
        builder = TreeBuilder(before, nodes, first, now, self.engine.pages)
        breath = Breath()
        steps = builder.steps()
        going = True
        while going:
            with self.cache.blocking():
                going = next(steps, False) is None
            await breath.take()
        await self._store_base(before)
        changes = sorted(builder.changes.items())
        writer = PageWriter(self.page_store, self.cache, breath)
        table: radix.Tree = before.root
        for at in range(0, len(changes), 128):
            with self.cache.blocking():
                table = radix.update(table, changes[at : at + 128], self.cache)
            await breath.take()
        if table is not None and type(table) is not bytes:
            table = await writer.tree(table)  # type: ignore[arg-type]
        writer.flush()
        assert type(table) is bytes
        await self.pool.sync()
        await trio.to_thread.run_sync(database.sync, self.db)

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
                radix.PageId(table),
            )
            state = State.stored(record.root, record.files, record.size_bytes)
            self.engine.prepared = (record, list(differences(branch.head, state, self.engine.pages)))
            return record

        # No await between the plan and its application: the branch may be discarded at any.
        record = await self.planned(plan)
        found = self.carry_out(record)
        outcome = self._outcome("import", str(branch.latest.id if branch.latest else 0), record.name, now)
        with self.cache.blocking():
            outcome.changes = kernel_changes(view, found, self.engine.pages)
        outcome.extra["changed"] = len(found)
        outcome.extra["files"] = builder.files
        outcome.extra["safety"] = record.safety.decode() or None
        return outcome

    async def _store_base(self, state: State) -> None:
        """The state that the new tree is made from must be stored: pages can't refer to the log."""
        while state.root is None:
            self.engine.requested.append(state)
            await self.persister.persist()
