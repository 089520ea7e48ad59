"""Versioning: checkpoint, fork, restore, discard, and the names of snapshots.

Each is one record, so it is whole or absent. Must not know: who may do it (control), when it is durable.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from heliosfs.core import oplog
from heliosfs.core.diff import Comparison, Difference, differences
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.events import Event, VersionRecord, text_of
from heliosfs.core.ids import BranchId, Lsn, SnapshotId, ViewNo
from heliosfs.core.oplog import (
    AssignView,
    Checkpoint,
    Discard,
    ForgetSnapshot,
    Fork,
    RenameSnapshot,
    Restore,
)
from heliosfs.core.refs import Branch, Snapshot, automatic_name
from heliosfs.core.view import State, View

if TYPE_CHECKING:
    from heliosfs.core.engine import Engine, Placed

BRANCH_PATH_MAX: Final = 4095
"""Bytes of the longest path of a branch, as of any path."""


def live_branch(engine: Engine, view: ViewNo) -> Branch:
    """The branch of a view. Raises StaleHandle for a dead one, FsError EROFS for a snapshot."""
    return engine.writable(view)


def find_snapshot(branch: Branch, name: bytes) -> Snapshot:
    """A snapshot by name; `latest` is understood. Raises FsError ENOENT."""
    snapshot = branch.latest if name == b"latest" else branch.snapshots.get(name)
    if snapshot is None:
        raise FsError(errno.ENOENT, f"no snapshot {name.decode('utf-8', 'backslashreplace')}")
    return snapshot


def add_snapshot(
    engine: Engine,
    branch: Branch,
    name: bytes,
    kind: int,
    state: State,
    now_ns: int,
    place: Placed,
    nth: int = 0,
) -> Snapshot:
    """A record may make two snapshots; the second has the next number (records are 8 bytes apart)."""
    id_ = SnapshotId(place.lsn + nth)
    snapshot = Snapshot(id_, branch.id, name, now_ns, kind, state, Lsn(place.end_lsn))
    branch.snapshots[name] = snapshot
    branch.by_id[id_] = snapshot
    engine.touched_snapshots.add(snapshot)
    engine.touched_branches.add(branch)
    return snapshot


def log_event(
    engine: Engine, place: Placed, verb: str, branch: Branch, record: VersionRecord, **more: object
) -> None:
    """Add a line to the operation log."""
    engine.events.append(Event(place.lsn, verb, branch, record, more))


# --- checkpoint ----------------------------------------------------------------------------------------


def plan_checkpoint(
    engine: Engine, view: ViewNo, name: bytes | None, kind: int, uid: int, pid: int, now_ns: int
) -> Checkpoint:
    """Plan a snapshot of the branch as it is. Raises FsError: EEXIST, EROFS; StaleHandle."""
    branch = live_branch(engine, view)
    if name is None:
        name = automatic_name(now_ns, branch.snapshots)
    elif name in branch.snapshots:
        raise FsError(errno.EEXIST, f"there is a snapshot {text_of(name)} already")
    return Checkpoint(view, now_ns, uid, pid, kind, name)


def apply_checkpoint(engine: Engine, record: Checkpoint, place: Placed) -> Snapshot:
    """The new snapshot. O(1)."""
    branch = engine.branches[record.view]
    state = branch.head.freeze(Lsn(place.lsn + 1))
    snapshot = add_snapshot(engine, branch, record.name, record.kind, state, record.now_ns, place)
    if record.kind != oplog.KIND_RESTORE:
        branch.latest = snapshot
    log_event(
        engine,
        place,
        "checkpoint",
        branch,
        record,
        name=record.name,
        id=str(snapshot.id),
        kind=oplog.SNAPSHOT_KINDS[record.kind],
    )
    return snapshot


# --- fork and discard ----------------------------------------------------------------------------------


def plan_fork(
    engine: Engine, view: ViewNo, name: bytes, snapshot: SnapshotId, uid: int, gid: int, pid: int, now_ns: int
) -> Fork:
    """Plan a branch below that of `view`; `snapshot` 0 is its present state.

    Raises:
        FsError: EEXIST; ENAMETOOLONG: its path from the first branch would be longer than BRANCH_PATH_MAX.
    """
    branch = live_branch(engine, view)
    if name in branch.children:
        raise FsError(errno.EEXIST, f"there is a branch {text_of(name)} already")
    if len(branch.path) + 1 + len(name) > BRANCH_PATH_MAX:
        raise FsError(errno.ENAMETOOLONG, f"a branch's path has at most {BRANCH_PATH_MAX} bytes")
    return Fork(view, now_ns, uid, gid, pid, snapshot, engine.next_branch, engine.next_view, name)


def apply_fork(engine: Engine, record: Fork, place: Placed) -> Branch:
    """The new branch. O(1): both sides are frozen."""
    parent = engine.branches[record.view]
    frozen_at = Lsn(place.lsn + 1)
    state = snapshot_by_id(parent, record.snapshot).state if record.snapshot else parent.head.freeze(frozen_at)
    branch = Branch(
        record.branch,
        record.name,
        parent,
        record.new_view,
        View(state, frozen_at),
        record.uid,
        record.gid,
        record.now_ns,
    )
    # A fork keeps its snapshots as its parent does, until it is told otherwise.
    branch.retention = parent.retention
    engine.next_branch = BranchId(record.branch + 1)
    engine.next_view = ViewNo(record.new_view + 1)
    parent.children[record.name] = branch
    engine.add_branch(branch)
    branch.latest = add_snapshot(engine, branch, b"base", oplog.KIND_BASE, state, record.now_ns, place)
    log_event(
        engine,
        place,
        "branch",
        parent,
        record,
        name=record.name,
        id=str(branch.id),
        snapshot=record.snapshot or None,
    )
    return branch


def plan_discard(engine: Engine, view: ViewNo, uid: int, pid: int, now_ns: int) -> Discard:
    """Plan to discard a branch. Raises FsError EBUSY: the first branch, or one with children."""
    branch = live_branch(engine, view)
    if branch.parent is None:
        raise FsError(errno.EBUSY, "the first branch cannot be discarded")
    if branch.children:
        raise FsError(errno.EBUSY, "the branch has branches of its own: remove them first")
    return Discard(view, now_ns, uid, pid)


def apply_discard(engine: Engine, record: Discard, place: Placed) -> list[ViewNo]:
    """The views that died: the branch's and those of its snapshots."""
    branch = engine.branches.pop(record.view)
    del engine.by_id[branch.id]
    assert branch.parent is not None
    del branch.parent.children[branch.name]
    dead = [branch.view]
    for snapshot in branch.snapshots.values():
        dead.extend(drop_snapshot(engine, snapshot))
    engine.dropped_branches.append(branch.id)
    engine.touched_branches.discard(branch)
    log_event(
        engine,
        place,
        "discard",
        branch.parent,
        record,
        name=branch.name,
        id=str(branch.id),
    )
    return dead


# --- restore -------------------------------------------------------------------------------------------


def plan_restore(
    engine: Engine,
    view: ViewNo,
    name: bytes,
    uid: int,
    pid: int,
    now_ns: int,
    known: Comparison | None = None,
) -> Restore:
    """Plan to make the branch what a snapshot of it holds. Raises FsError ENOENT, EROFS; NeedPages.

    O(differences); with a comparison that was made before, O(changes since it).
    """
    branch = live_branch(engine, view)
    snapshot = find_snapshot(branch, name)
    safety = automatic_name(now_ns, branch.snapshots)
    record = Restore(view, now_ns, uid, pid, snapshot.id, safety)
    found = None
    if known is not None and known.new is snapshot.state:
        found = known.of(branch.head, engine.pages)
    if found is None:
        found = list(differences(branch.head, snapshot.state, engine.pages))
    engine.prepared = (record, found, 0)
    return record


def apply_restore(engine: Engine, record: Restore, place: Placed) -> list[Difference]:
    """What differs. The swap is O(1); finding the differences, O(differences)."""
    branch = engine.branches[record.view]
    snapshot = snapshot_by_id(branch, record.snapshot)
    found = prepared(engine, record, branch, snapshot.state)
    frozen_at = Lsn(place.lsn + 1)
    before = branch.head.freeze(frozen_at)
    add_snapshot(engine, branch, record.safety, oplog.KIND_RESTORE, before, record.now_ns, place)
    swap(engine, branch, snapshot.state, found, place)
    branch.latest = snapshot
    log_event(
        engine,
        place,
        "restore",
        branch,
        record,
        name=snapshot.name,
        id=str(snapshot.id),
        safety=record.safety,
        changed=len(found),
    )
    return found


def prepared(engine: Engine, record: object, branch: Branch, state: State) -> list[Difference]:
    """The differences that planning found, or, in a replay, found now."""
    if engine.prepared is not None and engine.prepared[0] is record:
        found = engine.prepared[1]
        engine.prepared = None
        return found
    return list(differences(branch.head, state, engine.pages))


def swap(engine: Engine, branch: Branch, state: State, found: list[Difference], place: Placed) -> None:
    """Make the branch's tree `state`; returning inodes leave the side table, directories get generations."""
    branch.head.adopt(state, Lsn(place.lsn + 1))
    for ino, before, after in found:
        if before is None and after is not None:
            branch.orphans.pop(ino, None)
            if after.is_dir():
                branch.generations[ino] = place.lsn
    engine.touched_branches.add(branch)


# --- names of snapshots --------------------------------------------------------------------------------


def snapshot_by_id(branch: Branch, id_: SnapshotId) -> Snapshot:
    """A snapshot of the branch by its number. Raises StaleHandle. O(1)."""
    snapshot = branch.by_id.get(id_)
    if snapshot is None:
        raise StaleHandle("this snapshot is gone")
    return snapshot


def plan_forget_snapshot(
    engine: Engine, view: ViewNo, name: bytes, uid: int, pid: int, now_ns: int
) -> ForgetSnapshot:
    """Plan to forget a snapshot. Raises FsError ENOENT."""
    branch = live_branch(engine, view)
    return ForgetSnapshot(view, now_ns, uid, pid, find_snapshot(branch, name).id)


def apply_forget_snapshot(engine: Engine, record: ForgetSnapshot, place: Placed) -> list[ViewNo]:
    """The view that died, if it had one."""
    branch = engine.branches[record.view]
    snapshot = snapshot_by_id(branch, record.snapshot)
    del branch.snapshots[snapshot.name]
    del branch.by_id[snapshot.id]
    if branch.latest is snapshot:
        branch.latest = branch.newest_asked()
    engine.touched_branches.add(branch)
    log_event(
        engine,
        place,
        "snapshot rm",
        branch,
        record,
        name=snapshot.name,
        id=str(snapshot.id),
    )
    return drop_snapshot(engine, snapshot)


def drop_snapshot(engine: Engine, snapshot: Snapshot) -> list[ViewNo]:
    """Its refs go with the next cut; the view that died, if it had one."""
    engine.touched_snapshots.discard(snapshot)
    engine.dropped += 1
    engine.dropped_snapshots.append((snapshot.branch, snapshot.id))
    if not snapshot.view:
        return []
    del engine.snapshot_views[snapshot.view]
    return [snapshot.view]


def plan_rename_snapshot(
    engine: Engine, view: ViewNo, old: bytes, new: bytes, uid: int, pid: int, now_ns: int
) -> RenameSnapshot:
    """Plan another name for a snapshot. Raises FsError ENOENT, EEXIST."""
    branch = live_branch(engine, view)
    snapshot = find_snapshot(branch, old)
    if new in branch.snapshots:
        raise FsError(errno.EEXIST, f"there is a snapshot {text_of(new)} already")
    return RenameSnapshot(view, now_ns, uid, pid, snapshot.id, new)


def apply_rename_snapshot(engine: Engine, record: RenameSnapshot, place: Placed) -> Snapshot:
    """The snapshot under its new name, in its old place in the order of time."""
    branch = engine.branches[record.view]
    snapshot = snapshot_by_id(branch, record.snapshot)
    old = snapshot.name
    snapshot.name = record.name
    branch.snapshots = {s.name: s for s in branch.snapshots.values()}
    engine.touched_snapshots.add(snapshot)
    log_event(
        engine,
        place,
        "snapshot mv",
        branch,
        record,
        name=record.name,
        old=old,
        id=str(snapshot.id),
    )
    return snapshot


def apply_assign_view(engine: Engine, record: AssignView, place: Placed) -> Snapshot:
    """The snapshot, which can be looked up by the kernel from now on."""
    branch = engine.branches[record.view]
    snapshot = snapshot_by_id(branch, record.snapshot)
    snapshot.view = record.new_view
    engine.snapshot_views[record.new_view] = snapshot
    engine.next_view = ViewNo(record.new_view + 1)
    engine.touched_snapshots.add(snapshot)
    return snapshot
