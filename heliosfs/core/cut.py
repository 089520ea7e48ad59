"""A cut: at one log position every dirty view is frozen and everything unstored is written, all together.

The core's part: what to store (`begin`), how a version's inode table is made from its ancestor's
(`changes_of`), and what memory lets go of once the commit is durable (`finish`). Storing in between is the
shell's (storage/persist.py). A cut that fails leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import immutables

from heliosfs.core.events import Event
from heliosfs.core.extent import ChunkRef, LogData
from heliosfs.core.ids import BranchId, Ino, Lsn, PageId, SnapshotId
from heliosfs.core.inode import Inode
from heliosfs.core.refs import Branch, Snapshot
from heliosfs.core.retention import Retention
from heliosfs.core.unanswered import Unanswered
from heliosfs.core.view import State, Tombstone, View

if TYPE_CHECKING:
    from heliosfs.core.engine import Engine


@dataclass(slots=True)
class BranchCut:
    """What a branch is at the cut."""

    branch: Branch
    state: State
    orphans: dict[Ino, Inode]
    generations: dict[Ino, int]
    next_ino: Ino
    lease_end: Ino
    latest: SnapshotId
    name: bytes
    uid: int
    gid: int
    retention: Retention | None = None


@dataclass(slots=True)
class SnapshotCut:
    """What a snapshot is at the cut (it may be renamed while the cut is stored)."""

    snapshot: Snapshot
    name: bytes
    view: int


@dataclass(slots=True)
class Cut:
    """Everything that a cut stores.

    Attributes:
        position: Log position: records before it are in the cut, all others are not.
        wanted: States to be stored, each after those that it grew from.
        moves: Where log data went; installed (`extent.move`) after the commit, before `finish`.
        unanswered: What requests that are under way have changed before `position`.
    """

    position: Lsn
    branches: list[BranchCut]
    snapshots: list[SnapshotCut]
    wanted: list[State]
    dropped_branches: list[BranchId]
    dropped_snapshots: list[tuple[BranchId, SnapshotId]]
    events: list[Event]
    next_ino: Ino
    next_view: int
    next_branch: BranchId
    last_ns: int
    moves: list[tuple[LogData, list[tuple[int, int, ChunkRef, int]]]] = field(default_factory=list)
    unanswered: Unanswered = field(default_factory=dict)


def begin(engine: Engine, position: Lsn) -> Cut:
    """Freeze what is dirty. O(touched branches + unstored snapshots)."""
    branches = []
    snapshots = [SnapshotCut(s, s.name, s.view) for s in engine.touched_snapshots]
    for branch in sorted(engine.touched_branches, key=lambda branch: branch.id):
        state = branch.head.freeze(position)
        branches.append(
            BranchCut(
                branch,
                state,
                dict(branch.orphans),
                dict(branch.generations),
                branch.next_ino,
                branch.lease_end,
                branch.latest.id if branch.latest is not None else SnapshotId(0),
                branch.name,
                branch.uid,
                branch.gid,
                branch.retention,
            )
        )
    cut = Cut(
        position,
        branches,
        snapshots,
        _in_order([*(c.snapshot.state for c in snapshots), *engine.requested, *(c.state for c in branches)]),
        engine.dropped_branches,
        engine.dropped_snapshots,
        engine.events,
        engine.next_ino,
        engine.next_view,
        engine.next_branch,
        engine.last_ns,
        unanswered={asked: list(records) for asked, records in engine.unanswered.items() if records},
    )
    engine.touched_branches = set()
    engine.touched_snapshots = set()
    engine.dropped_branches = []
    engine.dropped_snapshots = []
    engine.events = []
    engine.requested = []
    return cut


def undo(engine: Engine, cut: Cut) -> None:
    """The cut could not be stored: all that it held is dirty again."""
    engine.touched_branches.update(c.branch for c in cut.branches if c.branch.view in engine.branches)
    engine.touched_snapshots.update(
        c.snapshot for c in cut.snapshots if (c.snapshot.branch, c.snapshot.id) not in engine.dropped_snapshots
    )
    engine.dropped_branches = cut.dropped_branches + engine.dropped_branches
    engine.dropped_snapshots = cut.dropped_snapshots + engine.dropped_snapshots
    engine.events = cut.events + engine.events


def _in_order(states: list[State]) -> list[State]:
    """Distinct unstored states, ancestors first."""
    needed = {id(state) for state in states if state.root is None}
    ordered: list[State] = []
    done: set[int] = set()
    for state in states:
        chain = []
        at: State | None = state
        while at is not None and at.root is None and id(at) not in done:
            if id(at) in needed:
                chain.append(at)
            done.add(id(at))
            at = at.parent
        ordered.extend(reversed(chain))
    return ordered


def changes_of(state: State, roots: dict[int, PageId]) -> tuple[PageId | None, list[tuple[Ino, Inode | None]]]:
    """(root to start from, (number, inode or None) that differ from it, sorted) for a state of the cut.

    `roots` has the page ids of the cut's states that are stored already, by id().
    """
    inos = set(state.delta)
    at = state.parent
    while at is not None and at.root is None and id(at) not in roots:
        inos.update(at.delta)
        at = at.parent
    root = None
    if at is not None:
        root = at.root if at.root is not None else roots[id(at)]
    changes: list[tuple[Ino, Inode | None]] = []
    for ino in sorted(inos):
        found = state.overlay.get(ino)
        changes.append((ino, found if isinstance(found, Inode) else None))
    return root, changes


def finish(engine: Engine, cut: Cut, roots: dict[int, PageId]) -> None:
    """The cut is durable: let go of what it stored. O(touched branches + changes since the cut began)."""
    engine.logged_roots = [logged for logged in engine.logged_roots if logged[0] >= cut.position]
    for branch_cut in cut.branches:
        branch_cut.branch.orphans_stored = bool(branch_cut.orphans)
    for state in cut.wanted:
        state.store(roots[id(state)])
    for snapshot in engine.touched_snapshots:
        if snapshot.state.root is None:
            _lighten_state(snapshot.state)
    # All others lie on a stored state already.
    for branch in {*engine.touched_branches, *(c.branch for c in cut.branches)}:
        _lighten_head(branch.head)


def _lighten_state(state: State) -> None:
    """Put an unstored state on top of its stored ancestor."""
    chain = [state]
    while (parent := chain[-1].parent) is not None and parent.root is None:
        chain.append(parent)
    for at in reversed(chain):
        if at.parent is not None and at.base is not at.parent.base:
            at.overlay = _over(at.parent, at.overlay, at.delta)
            at.base = at.parent.base


def _lighten_head(head: View) -> None:
    if head.parent.root is None:
        _lighten_state(head.parent)
    if head.base is not head.parent.base:
        head.overlay = _over(head.parent, head.overlay, head.changed)
        head.base = head.parent.base


def _over(
    parent: State, overlay: immutables.Map[Ino, Inode | Tombstone], changed: Iterable[Ino]
) -> immutables.Map[Ino, Inode | Tombstone]:
    kept = parent.overlay.mutate()
    for ino in changed:
        kept[ino] = overlay[ino]
    return kept.finish()
