"""A filesystem of versions without files: what control calls, in dictionaries, with every call on record.

A branch has a root directory (inode 1), a directory `sub` (2), a file `sub/file` (3) and a file `gone` (4)
that is unlinked but open. Times are a counter, so runs are alike. Operations fail as the real ones do.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import INO_MASK, ROOT_INO, Ino, Lsn, NodeId, ViewNo, node_id, view_of
from heliosfs.core.retention import Retention
from heliosfs.filesystem.types import (
    AfterReply,
    Attributes,
    BranchInfo,
    Caller,
    Change,
    Entry,
    Outcome,
    Report,
    SnapshotInfo,
)

ROOT_USER = Caller(0, 0, 1)
ALICE = Caller(1000, 1000, 2)
BOB = Caller(1001, 1001, 3)

SUB, FILE, GONE = Ino(2), Ino(3), Ino(4)
PATHS = {ROOT_INO: b"", SUB: b"sub", FILE: b"sub/file"}


@dataclass(slots=True)
class FakeNode:
    """Attributes of an inode."""

    mode: int
    uid: int = 1000
    gid: int = 1000
    nlink: int = 1
    rdev: int = 0
    size: int = 0
    blocks: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


@dataclass(slots=True)
class FakeSnapshot:
    """A snapshot; view 0 until it is looked up."""

    id: int
    name: bytes
    time_ns: int
    kind: str
    view: ViewNo


@dataclass(slots=True)
class FakeBranch:
    """A branch."""

    id: int
    name: bytes
    view: ViewNo
    parent: FakeBranch | None
    uid: int
    gid: int
    created_ns: int
    children: dict[bytes, FakeBranch] = field(default_factory=dict)
    snapshots: dict[bytes, FakeSnapshot] = field(default_factory=dict)
    latest: bytes | None = None

    @property
    def path(self) -> bytes:
        return self.name if self.parent is None else self.parent.path + b"/" + self.name


def _text(name: bytes | None) -> str | None:
    return None if name is None else name.decode("utf-8", "surrogateescape")


class FakeFilesystem:
    """See the module.

    Attributes:
        calls: What was asked to be done, in order, as (name of the method, arguments without the caller).
        published: Changes, in the order in which kernels were told.
        failure: Raised by the next operation that changes something.
        gate: If set, operations that change something wait for it.
    """

    def __init__(self, owner: Caller = ALICE) -> None:
        self.now = 1_000_000
        self.calls: list[tuple[object, ...]] = []
        self.published: list[Change] = []
        self.mounted_views: set[ViewNo] = set()
        self.failure: Exception | None = None
        self.gate: trio.Event | None = None
        self.durable = False
        self.events: list[dict[str, object]] = []
        self.status_keys: dict[str, object] = {"pending": 0}
        self._next_view = 2
        self._next_id = 100
        self.main = FakeBranch(1, b"main", ViewNo(1), None, owner.uid, owner.gid, self._tick())
        self.branches: dict[ViewNo, FakeBranch] = {self.main.view: self.main}
        self.snapshot_views: dict[ViewNo, FakeSnapshot] = {}

    def _tick(self) -> int:
        self.now += 1_000
        return self.now

    def _id(self) -> int:
        self._next_id += 8
        return self._next_id

    def _view(self) -> ViewNo:
        self._next_view += 1
        return ViewNo(self._next_view - 1)

    async def _start(self, *call: object) -> None:
        self.calls.append(call)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def _live(self, view: ViewNo) -> FakeBranch:
        branch = self.branches.get(view)
        if branch is None:
            if view in self.snapshot_views:
                raise FsError(errno.EROFS)
            raise StaleHandle("the branch is gone")
        return branch

    @staticmethod
    def _snapshot(branch: FakeBranch, name: bytes) -> FakeSnapshot:
        wanted = branch.latest if name == b"latest" else name
        snapshot = branch.snapshots.get(wanted) if wanted is not None else None
        if snapshot is None:
            raise FsError(errno.ENOENT, f"no snapshot {_text(name)}")
        return snapshot

    def _outcome(self, id_: int, name: bytes | None, **extra: object) -> Outcome:
        return Outcome("door", str(id_), _text(name), Lsn(id_), self.durable, self.now, [], extra)

    def _add(self, branch: FakeBranch, name: bytes, kind: str) -> FakeSnapshot:
        snapshot = FakeSnapshot(self._id(), name, self._tick(), kind, ViewNo(0))
        branch.snapshots[name] = snapshot
        return snapshot

    # --- verbs -------------------------------------------------------------------------------------------

    async def checkpoint(self, view: ViewNo, name: bytes | None, caller: Caller, *, kind: str = "") -> Outcome:
        await self._start("checkpoint", view, name, kind)
        branch = self._live(view)
        if name is None:
            name = b"auto-%d" % self._tick()
        elif name in branch.snapshots:
            raise FsError(errno.EEXIST, f"there is a snapshot {_text(name)} already")
        snapshot = self._add(branch, name, kind)
        branch.latest = name
        return self._outcome(snapshot.id, name)

    async def fork(self, view: ViewNo, name: bytes, caller: Caller, *, snapshot: bytes | None = None) -> Outcome:
        await self._start("fork", view, name, snapshot)
        branch = self._live(view)
        if snapshot is not None:
            self._snapshot(branch, snapshot)
        return self._fork(branch, name, caller)

    async def fork_snapshot(self, snapshot_view: ViewNo, name: bytes, caller: Caller) -> Outcome:
        await self._start("fork_snapshot", snapshot_view, name)
        snapshot = self.snapshot_views[snapshot_view]
        branch = next(b for b in self.branches.values() if snapshot in b.snapshots.values())
        return self._fork(branch, name, caller)

    def _fork(self, branch: FakeBranch, name: bytes, caller: Caller) -> Outcome:
        if name in branch.children:
            raise FsError(errno.EEXIST, f"there is a branch {_text(name)} already")
        child = FakeBranch(self._id(), name, self._view(), branch, caller.uid, caller.gid, self._tick())
        branch.children[name] = self.branches[child.view] = child
        self._add(child, b"base", "base")
        child.latest = b"base"
        return self._outcome(child.id, name, view=child.view)

    async def restore(self, view: ViewNo, snapshot: bytes, caller: Caller) -> Outcome:
        await self._start("restore", view, snapshot)
        branch = self._live(view)
        found = self._snapshot(branch, snapshot)
        safety = self._add(branch, b"safety-%d" % self._tick(), "restore")
        branch.latest = found.name
        outcome = self._outcome(found.id, found.name, changed=1, safety=_text(safety.name))
        outcome.changes = [Change(view, FILE, True, ())]
        return outcome

    async def restore_path(self, view: ViewNo, snapshot: bytes, path: bytes, caller: Caller) -> Outcome:
        await self._start("restore_path", view, snapshot, path)
        found = self._snapshot(self._live(view), snapshot)
        outcome = self._outcome(found.id, found.name, path=_text(path))
        outcome.changes = [Change(view, FILE, True, ())]
        return outcome

    async def forget_snapshot(self, view: ViewNo, name: bytes, caller: Caller) -> Outcome:
        await self._start("forget_snapshot", view, name)
        branch = self._live(view)
        snapshot = self._snapshot(branch, name)
        del branch.snapshots[snapshot.name]
        if branch.latest == name:
            branch.latest = next(reversed(branch.snapshots), None)
        outcome = self._outcome(snapshot.id, name)
        if snapshot.view:
            del self.snapshot_views[snapshot.view]
            outcome.changes = [Change(snapshot.view, Ino(0), True, ())]
        return outcome

    async def rename_snapshot(self, view: ViewNo, old: bytes, new: bytes, caller: Caller) -> Outcome:
        await self._start("rename_snapshot", view, old, new)
        branch = self._live(view)
        snapshot = self._snapshot(branch, old)
        if new in branch.snapshots:
            raise FsError(errno.EEXIST)
        snapshot.name = new
        branch.snapshots = {s.name: s for s in branch.snapshots.values()}
        if branch.latest == old:
            branch.latest = new
        return self._outcome(snapshot.id, new)

    async def discard(self, view: ViewNo, caller: Caller) -> Outcome:
        await self._start("discard", view)
        branch = self._live(view)
        if branch.parent is None or branch.children or view in self.mounted_views:
            raise FsError(errno.EBUSY, "the branch is in use")
        del branch.parent.children[branch.name]
        del self.branches[view]
        outcome = self._outcome(branch.id, branch.name)
        outcome.changes = [Change(view, Ino(0), True, ())]
        return outcome

    async def publish(self, changes: Sequence[Change]) -> None:
        self.published += changes

    async def publish_around(self, changes: Sequence[Change], later: AfterReply, told: Callable[[], None]) -> None:
        async def finish() -> None:
            self.published += changes
            told()

        later(finish)

    # --- questions ---------------------------------------------------------------------------------------

    def is_branch(self, view: ViewNo) -> bool:
        return view in self.branches

    def is_snapshot(self, view: ViewNo) -> bool:
        return view in self.snapshot_views

    def branch(self, view: ViewNo) -> BranchInfo:
        return self._info(self._live(view))

    @staticmethod
    def _info(branch: FakeBranch) -> BranchInfo:
        parent = branch.parent.id if branch.parent is not None else None
        return BranchInfo(
            branch.id,
            branch.name,
            branch.path,
            branch.view,
            parent,
            branch.uid,
            branch.gid,
            len(branch.children),
            branch.created_ns,
            3,
            4096,
        )

    def find_branch(self, path: bytes) -> BranchInfo:
        for branch in self.branches.values():
            if branch.path == path:
                return self._info(branch)
        raise FsError(errno.ENOENT, "no such branch")

    def children(self, view: ViewNo) -> list[BranchInfo]:
        return [self._info(child) for child in self._live(view).children.values()]

    def snapshots(self, view: ViewNo) -> list[SnapshotInfo]:
        self.calls.append(("snapshots", view))
        return [
            SnapshotInfo(str(s.id), s.name, s.time_ns, s.kind, self.durable, None, 4096, 3)
            for s in self._live(view).snapshots.values()
        ]

    def latest(self, view: ViewNo) -> bytes | None:
        return self._live(view).latest

    def branch_root(self, view: ViewNo) -> Entry:
        branch = self._live(view)
        return Entry(node_id(view, ROOT_INO), FakeNode(stat.S_IFDIR | 0o755, branch.uid, branch.gid))

    def looked_up_snapshots(self) -> list[tuple[ViewNo, bytes, Entry]]:
        return [
            (view, name, Entry(node_id(snapshot.view, ROOT_INO), FakeNode(stat.S_IFDIR | 0o755)))
            for view, branch in self.branches.items()
            for name, snapshot in branch.snapshots.items()
            if snapshot.view
        ]

    async def snapshot_root(self, view: ViewNo, name: bytes) -> Entry:
        snapshot = self._live(view).snapshots.get(name)
        if snapshot is None:
            raise FsError(errno.ENOENT)
        if not snapshot.view:
            snapshot.view = self._view()
            self.snapshot_views[snapshot.view] = snapshot
        return Entry(node_id(snapshot.view, ROOT_INO), FakeNode(stat.S_IFDIR | 0o755))

    async def getattr(self, node: NodeId) -> Attributes:
        return FakeNode(stat.S_IFREG | 0o644 if node & INO_MASK == FILE else stat.S_IFDIR | 0o755)

    async def path_of(self, node: NodeId) -> bytes:
        path = PATHS.get(Ino(node & INO_MASK))
        if path is None:
            raise StaleHandle("the file was unlinked")
        return path

    async def tree_root(self, view: ViewNo) -> str:
        return f"blake3:root-of-{view}"

    async def content_hash(self, node: NodeId) -> str:
        return f"blake3:hash-of-{view_of(node)}-{node & INO_MASK}"

    def view_durable(self, view: ViewNo) -> bool:
        return self.durable

    def oplog(self, view: ViewNo | None, limit: int) -> list[dict[str, object]]:
        self.calls.append(("oplog", view, limit))
        return self.events[-limit:]

    def status(self, view: ViewNo | None) -> dict[str, object]:
        return dict(self.status_keys)

    async def fsck(self, view: ViewNo) -> dict[str, object]:
        self.calls.append(("fsck", view))
        return {"report": {"clean": True}}

    def scrub_start(self, view: ViewNo, rate: int) -> dict[str, object]:
        self.calls.append(("scrub_start", view, rate))
        return {"rate": rate}

    def scrub_stop(self, view: ViewNo) -> dict[str, object]:
        self.calls.append(("scrub_stop", view))
        return {}

    def scrub_status(self, view: ViewNo) -> dict[str, object]:
        self.calls.append(("scrub_status", view))
        return {"running": None, "last": None}

    def stats(self) -> dict[str, object]:
        return {"cache": {"hits": 7}}

    async def refresh_space(self) -> None:
        self.calls.append(("refresh_space",))

    def space_taken(self, view: ViewNo) -> dict[str, object] | None:
        return None

    def retention(self, view: ViewNo) -> Retention | None:
        return None

    async def set_retention(self, view: ViewNo, policy: Retention | None, caller: Caller) -> Outcome:
        raise AssertionError("not in these tests")

    def expired(self, view: ViewNo, policy: Retention) -> list[bytes]:
        return []

    async def expire(self, view: ViewNo, policy: Retention, caller: Caller) -> Outcome:
        raise AssertionError("not in these tests")

    async def collect(self, *, dry_run: bool = False) -> Report:
        self.calls.append(("collect", dry_run))
        return Report(dry_run, 5, freed_chunks=3)
