"""Retention as records: a branch's policy is set, and snapshots go by it. Each is whole or absent.

Must not know: when a policy is applied, which snapshots are durable (the shell says).
"""

from __future__ import annotations

import errno
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Final

from heliosfs.core.errors import FsError
from heliosfs.core.events import text_of
from heliosfs.core.ids import SnapshotId, ViewNo
from heliosfs.core.oplog import ExpireSnapshots, SetRetention
from heliosfs.core.refs import Branch, Snapshot
from heliosfs.core.retention import Candidate, Retention, expired
from heliosfs.core.versions import drop_snapshot, live_branch, log_event

if TYPE_CHECKING:
    from heliosfs.core.engine import Engine, Placed

AT_ONCE: Final = 500
"""Snapshots that one record lets go: 2 ms."""
_NAMED: Final = 20
"""Names that a line of the operation log tells."""


def plan_set_retention(
    engine: Engine, view: ViewNo, policy: Retention | None, uid: int, pid: int, now_ns: int
) -> SetRetention:
    """Plan a policy, or none. Raises FsError EINVAL (it keeps nothing), EROFS; StaleHandle."""
    live_branch(engine, view)
    if policy is None:
        policy = Retention()
    else:
        policy.check()
    return SetRetention(
        view, now_ns, uid, pid, policy.keep_last, policy.hourly, policy.daily, policy.weekly, policy.match
    )


def apply_set_retention(engine: Engine, record: SetRetention, place: Placed) -> Branch:
    """The branch."""
    branch = engine.branches[record.view]
    policy = Retention(record.keep_last, record.hourly, record.daily, record.weekly, record.match)
    branch.retention = policy if policy != Retention() else None
    engine.touched_branches.add(branch)
    log_event(
        engine,
        place,
        "retention",
        branch,
        record,
        id=None,
        name=None,
        keep_last=record.keep_last,
        hourly=record.hourly,
        daily=record.daily,
        weekly=record.weekly,
        match=record.match,
    )
    return branch


def expired_of(branch: Branch, policy: Retention, durable: Container[SnapshotId]) -> list[Snapshot]:
    """The snapshots that a policy gives up, oldest first. O(snapshots * log)."""
    candidates = [Candidate(s.id, s.name, s.time_ns, s.kind, s.id in durable) for s in branch.snapshots.values()]
    latest = branch.latest.id if branch.latest is not None else 0
    return [branch.by_id[SnapshotId(id_)] for id_ in expired(policy, candidates, latest)]


def plan_expire(
    engine: Engine, view: ViewNo, snapshots: Sequence[Snapshot], uid: int, pid: int, now_ns: int
) -> ExpireSnapshots:
    """Plan to let snapshots go, at most AT_ONCE. Raises FsError ENOENT: one is gone; StaleHandle."""
    branch = live_branch(engine, view)
    for snapshot in snapshots:
        if branch.by_id.get(snapshot.id) is not snapshot:
            raise FsError(errno.ENOENT, f"no snapshot {text_of(snapshot.name)}")
    return ExpireSnapshots(view, now_ns, uid, pid, b"".join([s.id.to_bytes(8, "little") for s in snapshots]))


def apply_expire(engine: Engine, record: ExpireSnapshots, place: Placed) -> list[ViewNo]:
    """The views that died."""
    branch = engine.branches[record.view]
    ids = record.snapshots
    dead: list[ViewNo] = []
    names: list[str] = []
    for at in range(0, len(ids), 8):
        snapshot = branch.by_id.pop(SnapshotId(int.from_bytes(ids[at : at + 8], "little")))
        del branch.snapshots[snapshot.name]
        names.append(text_of(snapshot.name))
        if branch.latest is snapshot:
            branch.latest = branch.newest_asked()
        dead.extend(drop_snapshot(engine, snapshot))
    engine.touched_branches.add(branch)
    log_event(engine, place, "expire", branch, record, id=None, name=None, count=len(names), names=names[:_NAMED])
    return dead
