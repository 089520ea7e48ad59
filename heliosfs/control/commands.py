"""The commands: what each takes, typed and checked, and what it does to the branch it is given to.

One class a verb. A constructed command is well formed: its names are checked when it is made (FsError EINVAL,
ENAMETOOLONG), so running it fails only for what is, not for how it was said. Must not know: what verb
stands for it, on which way it came, who may give it, how its reply is written.
"""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass
from typing import Final, Protocol

from heliosfs.control.door import Versions
from heliosfs.control.names import check_form, check_itself, check_new
from heliosfs.control.snapshotroots import SnapshotRoots
from heliosfs.core.errors import FsError
from heliosfs.core.ids import Lsn, ViewNo
from heliosfs.core.refs import FIRST_BRANCH
from heliosfs.core.retention import Retention
from heliosfs.filesystem.types import BranchInfo, Caller, Outcome, SnapshotInfo

LOG_LINES: Final = 10_000
"""The most operations that are shown at once: about 2 MB of lines."""


@dataclass(slots=True)
class Target:
    """What a command acts on, and for whom.

    Attributes:
        view: A branch's.
        now_ns: When the command came; for answers that have no time of their own.
    """

    fs: Versions
    roots: SnapshotRoots
    view: ViewNo
    caller: Caller
    now_ns: int


def check_owner(branch: BranchInfo, caller: Caller) -> None:
    """Whether the caller may use what belongs to a branch: its owner and root may. Raises FsError EACCES."""
    if caller.uid and caller.uid != branch.owner_uid:
        raise FsError(errno.EACCES, "only the branch's owner or root may do this")


class Command(Protocol):
    """One thing to do. `run` raises FsError, OSError (the log cannot take it) as the filesystem does."""

    async def run(self, target: Target) -> Outcome: ...


@dataclass(slots=True, frozen=True)
class Checkpoint:
    """A snapshot of the branch as it is; without a name, named by the time. O(1)."""

    name: bytes | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            check_new(self.name)

    async def run(self, target: Target) -> Outcome:
        name = self.name
        kind = "auto" if name is None else "user"
        return await target.fs.checkpoint(target.view, name, target.caller, kind=kind)


@dataclass(slots=True, frozen=True)
class Fork:
    """A branch below this one: of this instant, or of one of its snapshots, by name or by view. O(1)."""

    name: bytes
    snapshot: bytes | None = None
    snapshot_view: ViewNo | None = None

    def __post_init__(self) -> None:
        check_new(self.name)
        if self.snapshot is not None:
            check_form(self.snapshot)

    async def run(self, target: Target) -> Outcome:
        if self.snapshot_view is not None:
            return await target.fs.fork_snapshot(self.snapshot_view, self.name, target.caller)
        return await target.fs.fork(target.view, self.name, target.caller, snapshot=self.snapshot)


@dataclass(slots=True, frozen=True)
class Discard:
    """Discard a branch below this one; its own owner may, if this one is his, too."""

    name: bytes

    def __post_init__(self) -> None:
        check_form(self.name)

    async def run(self, target: Target) -> Outcome:
        fs = target.fs
        child = fs.find_branch(fs.branch(target.view).path + b"/" + self.name)
        # Whoever may remove the name could not remove what a directory of somebody else's holds, either.
        check_owner(child, target.caller)
        outcome = await fs.discard(child.view, target.caller)
        target.roots.drop_branch(child.view)
        return outcome


@dataclass(slots=True, frozen=True)
class Restore:
    """The branch, or one path of it (relative to its root), as a snapshot has it. O(differences)."""

    snapshot: bytes
    path: bytes = b""

    def __post_init__(self) -> None:
        check_form(self.snapshot)

    async def run(self, target: Target) -> Outcome:
        if self.path.strip(b"/") in (b"", b"."):
            return await target.fs.restore(target.view, self.snapshot, target.caller)
        return await target.fs.restore_path(target.view, self.snapshot, self.path, target.caller)


@dataclass(slots=True, frozen=True)
class ForgetSnapshot:
    """Forget a snapshot; the branch stays as it is."""

    name: bytes

    def __post_init__(self) -> None:
        check_itself(self.name)

    async def run(self, target: Target) -> Outcome:
        outcome = await target.fs.forget_snapshot(target.view, self.name, target.caller)
        target.roots.drop(target.view, self.name)
        return outcome


@dataclass(slots=True, frozen=True)
class RenameSnapshot:
    """Give a snapshot another name."""

    old: bytes
    new: bytes

    def __post_init__(self) -> None:
        check_itself(self.old)
        check_new(self.new)

    async def run(self, target: Target) -> Outcome:
        outcome = await target.fs.rename_snapshot(target.view, self.old, self.new, target.caller)
        target.roots.rename(target.view, self.old, self.new)
        return outcome


@dataclass(slots=True, frozen=True)
class ListVersions:
    """The branches below this one and its snapshots, each oldest first."""

    async def run(self, target: Target) -> Outcome:
        fs, view = target.fs, target.view
        latest = fs.latest(view)
        return _answer(
            target,
            {
                "branch": _text(fs.branch(view).path),
                "latest": None if latest is None else _text(latest),
                "branches": [_branch_row(fs, child) for child in fs.children(view)],
                "snapshots": [_snapshot_row(snapshot) for snapshot in fs.snapshots(view)],
            },
        )


@dataclass(slots=True, frozen=True)
class Status:
    """The state of the branch. Waits for nothing."""

    async def run(self, target: Target) -> Outcome:
        return _answer(target, target.fs.status(target.view))


@dataclass(slots=True, frozen=True)
class Stats:
    """The counters of the store, and what each tree of this branch and those below takes, as last computed.

    Attributes:
        refresh: Compute that anew first: reads every page that is reached.
    """

    refresh: bool = False

    async def run(self, target: Target) -> Outcome:
        if self.refresh:
            await target.fs.refresh_space()
        return _answer(target, {**target.fs.stats(), "space": target.fs.space_taken(target.view)})


@dataclass(slots=True, frozen=True)
class Fsck:
    """Check the whole store, and wait for the result; from the first branch alone."""

    async def run(self, target: Target) -> Outcome:
        return _answer(target, await target.fs.fsck(target.view))


@dataclass(slots=True, frozen=True)
class ScrubStart:
    """Have the whole store hashed anew in the background, at most `rate` bytes a second (0: no limit)."""

    rate: int = 0

    async def run(self, target: Target) -> Outcome:
        return _answer(target, target.fs.scrub_start(target.view, self.rate))


@dataclass(slots=True, frozen=True)
class ScrubStop:
    """End the scrub that runs."""

    async def run(self, target: Target) -> Outcome:
        return _answer(target, target.fs.scrub_stop(target.view))


@dataclass(slots=True, frozen=True)
class ScrubStatus:
    """How far the scrub is, and the last result whole."""

    async def run(self, target: Target) -> Outcome:
        return _answer(target, target.fs.scrub_status(target.view))


@dataclass(slots=True, frozen=True)
class Retain:
    """Show, set, clear or apply the policy that says which snapshots of a branch are kept.

    Attributes:
        branch: Below this one; b"": this one.
        policy: To be kept from now on, and applied at once; None: the one that it has.
        clear: No policy any more.
        apply: Let go of what the branch's own policy gives up, now.
        dry_run: Only tell what would go; nothing is set.
    """

    branch: bytes = b""
    policy: Retention | None = None
    clear: bool = False
    apply: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.branch:
            check_form(self.branch)
        if self.policy is not None:
            self.policy.check()
        if (self.policy is not None) + self.clear + self.apply > 1:
            raise FsError(errno.EINVAL, "counts, --clear and --apply do not go together")

    async def run(self, target: Target) -> Outcome:
        fs, view, caller = target.fs, target.view, target.caller
        if self.branch:
            child = fs.find_branch(fs.branch(view).path + b"/" + self.branch)
            check_owner(child, caller)
            view = child.view
        kept = None if self.clear else self.policy or fs.retention(view)
        outcome = _answer(target, {})
        removed: list[bytes] = []
        if self.dry_run:
            removed = [] if kept is None else fs.expired(view, kept)
        else:
            if self.clear or self.policy is not None:
                outcome = await fs.set_retention(view, kept, caller)
            if kept is not None and (self.apply or self.policy is not None):
                outcome = await fs.expire(view, kept, caller)
                removed = list(outcome.extra["removed"])  # type: ignore[call-overload]
                for name in removed:
                    target.roots.drop(view, name)
        outcome.id = None
        outcome.extra = {
            "branch": _text(fs.branch(view).path),
            "policy": None if kept is None else {**asdict(kept), "match": _text(kept.match)},
            "dry_run": self.dry_run,
            "removed": [_text(name) for name in removed],
        }
        return outcome


@dataclass(slots=True, frozen=True)
class Collect:
    """Free what nothing in the store reaches any more; or count it. For root and the owner of the first branch."""

    dry_run: bool = False

    async def run(self, target: Target) -> Outcome:
        uid = target.caller.uid
        if uid and target.fs.find_branch(FIRST_BRANCH).owner_uid != uid:
            raise FsError(errno.EACCES, "only the store's owner or root may collect its garbage")
        return _answer(target, (await target.fs.collect(dry_run=self.dry_run)).as_dict())


@dataclass(slots=True, frozen=True)
class Log:
    """The newest operations of the branch, newest last; 1 <= limit <= LOG_LINES."""

    limit: int = LOG_LINES

    async def run(self, target: Target) -> Outcome:
        return _answer(target, {"entries": target.fs.oplog(target.view, self.limit)})


def _answer(target: Target, extra: dict[str, object]) -> Outcome:
    """The outcome of a question."""
    durable = target.fs.view_durable(target.view)
    return Outcome("", None, None, Lsn(0), durable, target.now_ns, [], extra)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _branch_row(fs: Versions, info: BranchInfo) -> dict[str, object]:
    return {
        "name": _text(info.name),
        "path": _text(info.path),
        "id": str(info.id),
        "time_ns": info.created_ns,
        "durable": fs.view_durable(info.view),
        "size": info.size,
        "files": info.files,
        "uid": info.owner_uid,
        "gid": info.owner_gid,
        "branches": info.children,
    }


def _snapshot_row(info: SnapshotInfo) -> dict[str, object]:
    return {
        "name": _text(info.name),
        "id": info.id,
        "time_ns": info.time_ns,
        "kind": info.kind,
        "durable": info.durable,
        "root": info.root,
        "size": info.size,
        "files": info.files,
    }
