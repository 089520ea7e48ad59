"""Retention: the policy of a branch, and letting go of the snapshots that it gives up.

Who may is control's concern. Snapshots go in records of at most 500; what nothing reaches then is garbage, which
a collection frees.
"""

from __future__ import annotations

from heliosfs.core.diff import Change
from heliosfs.core.ids import Ino, Lsn, ViewNo
from heliosfs.core.refs import Snapshot
from heliosfs.core.retaining import AT_ONCE, expired_of, plan_expire, plan_set_retention
from heliosfs.core.retention import Retention
from heliosfs.filesystem.types import Caller, Outcome
from heliosfs.filesystem.versions import VersionOperations


class Retaining(VersionOperations):
    """Policies of branches."""

    def retention(self, view: ViewNo) -> Retention | None:
        """The policy of a branch."""
        return self.engine.writable(view).retention

    def retained_branches(self) -> list[ViewNo]:
        """Branches that have a policy. O(branches)."""
        return [view for view, branch in self.engine.branches.items() if branch.retention is not None]

    def snapshot_count(self, view: ViewNo) -> int:
        """How many snapshots a branch has. O(1)."""
        return len(self.engine.writable(view).snapshots)

    async def set_retention(self, view: ViewNo, policy: Retention | None, caller: Caller) -> Outcome:
        """Give a branch a policy, or none. Nothing is let go by that. Raises FsError EINVAL."""
        record = plan_set_retention(self.engine, view, policy, caller.uid, caller.pid, self.now())
        self.carry_out(record)
        return self._outcome("retention", "", None, record.now_ns)

    def expired(self, view: ViewNo, policy: Retention) -> list[bytes]:
        """Names of the snapshots that a policy would give up now, oldest first."""
        return [snapshot.name for snapshot in self._expired(view, policy)]

    async def expire(self, view: ViewNo, policy: Retention, caller: Caller) -> Outcome:
        """Let go of what a policy gives up; `extra["removed"]` has the names. O(snapshots)."""
        gone = self._expired(view, policy)
        changes: list[Change] = []
        now = self.now()
        told = self.persister.untold.begin()
        for at in range(0, len(gone), AT_ONCE):
            group = gone[at : at + AT_ONCE]
            dead = self.carry_out(plan_expire(self.engine, view, group, caller.uid, caller.pid, now))
            changes += [Change(view_no, Ino(0), True, ()) for view_no in dead]
        outcome = self._outcome("retention", "", None, now)
        outcome.changes = changes
        outcome.told = told
        outcome.extra["removed"] = [snapshot.name for snapshot in gone]
        return outcome

    def _expired(self, view: ViewNo, policy: Retention) -> list[Snapshot]:
        policy.check()
        branch = self.engine.writable(view)
        durable = {s.id for s in branch.snapshots.values() if self.durable(Lsn(s.position))}
        return expired_of(branch, policy, durable)
