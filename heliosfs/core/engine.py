"""The state of a store, and the only door through which it changes: `apply`.

A request is turned into a record by the `plan_` functions of the rule modules (pure: errno or record),
appended to the log by the shell, and applied here. Recovery is `apply` over the log. Everything is on one
thread; nothing here waits. Must not know: FUSE, files, the event loop, the clock.
"""

from __future__ import annotations

import errno
from typing import Protocol

from heliosfs.core.diff import Difference
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.events import Event
from heliosfs.core.ids import LEASE_INOS, ROOT_INO, BranchId, Ino, Lsn, PageId, SnapshotId, ViewNo
from heliosfs.core.inode import Inode
from heliosfs.core.oplog import Record
from heliosfs.core.radix import Pages
from heliosfs.core.refs import FIRST_BRANCH, Branch, Snapshot
from heliosfs.core.unanswered import Unanswered
from heliosfs.core.view import EMPTY, State, View


class Placed(Protocol):
    """Where a record lies in the log."""

    @property
    def lsn(self) -> int: ...
    @property
    def end_lsn(self) -> int: ...
    @property
    def life(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def sums(self) -> bytes: ...


class Engine:
    """All branches and snapshots of a store.

    Attributes:
        pages: Gives stored nodes.
        branches: Live branches by view number; `main` is always there. by_id: the same by their own number.
        snapshot_views: Snapshots that have a view number.
        next_ino, next_view, next_branch: Counters of the store; they never fall (invariant 5).
        last_ns: The greatest time in any record: the clock of the door starts above it.
        events: Operation-log lines that are not yet stored, oldest first.
        prepared: Differences that planning a restore or an import found, and how many inodes the import makes
            that are not among them, for its record alone.
        touched_branches, touched_snapshots: Whose refs or trees differ from the stored ones.
        unanswered: What requests under way have changed already, and what those had changed that a former
            daemon may not have answered; a cut carries it.
        requested: Versions that somebody waits for, to be stored by the next cut.
        logged_roots: (position, root) of the trees that records since the last cut adopt: a replay needs them,
            whatever became of them since.
        dropped: How many snapshots have gone since the start, those of discarded branches included.
        dropped_branches, dropped_snapshots: Whose stored refs are to be deleted.
    """

    def __init__(self, pages: Pages) -> None:
        self.pages = pages
        self.branches: dict[ViewNo, Branch] = {}
        self.by_id: dict[BranchId, Branch] = {}
        self.snapshot_views: dict[ViewNo, Snapshot] = {}
        self.main: Branch | None = None
        self.next_ino = Ino(LEASE_INOS)
        self.next_view = ViewNo(1)
        self.next_branch = BranchId(1)
        self.last_ns = 0
        self.applied = Lsn(0)
        self.events: list[Event] = []
        self.prepared: tuple[Record, list[Difference], int] | None = None
        self.touched_branches: set[Branch] = set()
        self.touched_snapshots: set[Snapshot] = set()
        self.unanswered: Unanswered = {}
        self.requested: list[State] = []
        self.dropped = 0
        self.logged_roots: list[tuple[Lsn, PageId]] = []
        self.dropped_branches: list[BranchId] = []
        self.dropped_snapshots: list[tuple[BranchId, SnapshotId]] = []

    # --- looking things up ---------------------------------------------------------------------------

    def tree(self, view: ViewNo) -> View | State:
        """The tree of a view. Raises StaleHandle (ESTALE): a dead branch or snapshot."""
        branch = self.branches.get(view)
        if branch is not None:
            return branch.head
        snapshot = self.snapshot_views.get(view)
        if snapshot is None:
            raise StaleHandle("this branch or snapshot is gone")
        return snapshot.state

    def inode(self, view: ViewNo, ino: Ino) -> Inode:
        """The inode, unlinked but open ones included. Raises StaleHandle, NeedPages."""
        branch = self.branches.get(view)
        if branch is None:
            snapshot = self.snapshot_views.get(view)
            if snapshot is None:
                raise StaleHandle("this branch or snapshot is gone")
            inode = snapshot.state.get(ino, self.pages)
        else:
            inode = branch.head.overlay.get(ino)  # type: ignore[assignment]
            if inode.__class__ is Inode:  # What was used lately is there.
                return inode
            inode = branch.head.get(ino, self.pages)
            if inode is None and branch.orphans:
                inode = branch.orphans.get(ino)
        if inode is None:
            raise StaleHandle("this file is gone")
        return inode

    def writable(self, view: ViewNo) -> Branch:
        """The branch of a view. Raises FsError EROFS for a snapshot, StaleHandle for a dead view."""
        branch = self.branches.get(view)
        if branch is None:
            if view in self.snapshot_views:
                raise FsError(errno.EROFS, "snapshots are read-only")
            raise StaleHandle("this branch is gone")
        return branch

    def edit(self, branch: Branch, ino: Ino, lsn: Lsn) -> Inode:
        """The inode to change for the record at `lsn`, wherever it lives."""
        inode = branch.head.get(ino, self.pages)
        if inode is not None:
            return branch.head.edit(inode, lsn)
        inode = branch.orphans[ino]
        if inode.born < branch.head.frozen_at:
            inode = inode.copy(lsn)
            branch.orphans[ino] = inode
        return inode

    def add_branch(self, branch: Branch) -> None:
        """A branch is live from now on."""
        self.branches[branch.view] = branch
        self.by_id[branch.id] = branch

    def fresh_ino(self, branch: Branch) -> Ino:
        """The number that the branch's next inode gets; taken when the record is applied."""
        return branch.next_ino if branch.next_ino < branch.lease_end else self.next_ino

    def take_ino(self, branch: Branch, ino: Ino, count: int = 1) -> None:
        """Numbers [ino, ino + count) are used. Starts a lease where they begin one."""
        if ino >= self.next_ino:
            leases = (count + LEASE_INOS - 1) // LEASE_INOS
            branch.lease_end = Ino(ino + leases * LEASE_INOS)
            self.next_ino = branch.lease_end
        branch.next_ino = Ino(ino + count)

    def found(self, uid: int, gid: int, now_ns: int, mode: int = 0o40755) -> None:
        """Make the first branch of a new store: an empty root directory."""
        root = Inode(ROOT_INO, Lsn(0), mode, uid, gid, now_ns, nlink=2, parent=ROOT_INO)
        view = View(State(None, EMPTY, None, (), 0, 0), Lsn(0))
        view.add(root)
        self.main = Branch(self.next_branch, FIRST_BRANCH, None, self.next_view, view, uid, gid, now_ns)
        self.add_branch(self.main)
        self.touched_branches.add(self.main)
        self.next_branch = BranchId(self.next_branch + 1)
        self.next_view = ViewNo(self.next_view + 1)
        self.last_ns = max(self.last_ns, now_ns)
