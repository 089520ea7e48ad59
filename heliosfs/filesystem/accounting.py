"""What each branch and snapshot takes: computed when asked for, kept, and shown with its age."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from cas.index import ChunkIndex
from heliosfs.core.events import text_of
from heliosfs.core.ids import Lsn, PageId, ViewNo
from heliosfs.filesystem.retaining import Retaining
from heliosfs.storage.collecting.accounting import Accountant, Sum
from heliosfs.storage.collecting.pace import Pace
from heliosfs.storage.pagestore import PageStore


@dataclass(slots=True)
class _Row:
    path: str
    snapshot: str | None
    root: PageId
    logical_bytes: int
    files: int
    reached: Sum
    exclusive: Sum


@dataclass(slots=True)
class _Account:
    """The figures of one moment: everything before `position` in the log, nothing behind it."""

    time_ns: int
    position: Lsn
    rows: list[_Row]
    branches: dict[str, Sum]


class Accounting(Retaining):
    """Exclusive and shared bytes."""

    page_store: PageStore
    index: ChunkIndex
    _account: _Account | None = None

    async def refresh_space(self) -> None:
        """Compute the figures anew, in slices. O(pages), one read of each or two. Raises Damaged, OSError."""
        with self.reads.read():
            async with self.persister.between_cuts():
                if self.persister.dirty():
                    await self.persister.cut()
                # One moment: no await from here to the last row.
                position = self.persister.persisted
                rows, groups = self._rows()
            accountant = Accountant(self.page_store, self.index, Pace(restful=False))
            roots = [row.root for row in rows]
            alone = await accountant.exclusive(roots, range(len(rows)))
            by_branch = await accountant.exclusive(roots, groups)
            reached = await accountant.reached(roots)
        for number, row in enumerate(rows):
            row.exclusive = alone[number]
            row.reached = reached[number]
        names = dict(zip(groups, (row.path for row in rows), strict=True))
        self._account = _Account(
            time.time_ns(), position, rows, {names[group]: total for group, total in by_branch.items()}
        )

    def _rows(self) -> tuple[list[_Row], list[int]]:
        """Each branch's snapshots by age and then its live tree; and to which branch they belong."""
        rows: list[_Row] = []
        groups: list[int] = []
        for branch in self.engine.branches.values():
            path = text_of(branch.path)
            versions = [(text_of(s.name), s.state) for s in branch.snapshots.values()]
            for name, state in [*versions, (None, branch.head.freeze(Lsn(self.log.end)))]:
                root = state.root
                at = state
                while root is None and at.parent is not None:
                    # Changed since the cut: its figures are those of the cut.
                    at = at.parent
                    root = at.root
                if root is not None:
                    rows.append(_Row(path, name, root, at.size_bytes, at.files, Sum(), Sum()))
                    groups.append(branch.id)
        return rows, groups

    def space_taken(self, view: ViewNo) -> dict[str, object] | None:
        """The figures as they were last computed, of this branch and those below it; None: never yet.

        `current`: nothing was written since. A branch or snapshot made since has no row.
        """
        account = self._account
        if account is None:
            return None
        path = text_of(self.engine.writable(view).path)
        mine = [row for row in account.rows if row.path == path or row.path.startswith(path + "/")]
        return {
            "time_ns": account.time_ns,
            "age_seconds": round(max(time.time_ns() - account.time_ns, 0) / 1e9, 3),
            "current": self.log.end == account.position,
            "trees": [
                {
                    "branch": row.path,
                    "snapshot": row.snapshot,
                    "logical_bytes": row.logical_bytes,
                    "files": row.files,
                    "reached": asdict(row.reached),
                    "exclusive": asdict(row.exclusive),
                    "shared": asdict(row.reached.less(row.exclusive)),
                }
                for row in mine
            ],
            "branches": {
                name: asdict(total)
                for name, total in account.branches.items()
                if name == path or name.startswith(path + "/")
            },
        }
