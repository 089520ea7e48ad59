"""Versioning operations and what can be asked about branches and snapshots.

Who may do what is control's concern; everything else is refused here. Outcomes carry what kernels must
forget: `publish` tells them.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Sequence
from typing import Final

from blake3 import blake3

from heliosfs.core import oplog, pathrestore, versions
from heliosfs.core.diff import (
    STEP,
    Change,
    Comparison,
    Difference,
    content_changes,
    difference_steps,
    differences,
    kernel_changes,
)
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import (
    ROOT_INO,
    Ino,
    Lsn,
    NodeId,
    SnapshotId,
    ViewNo,
    node_id,
)
from heliosfs.core.oplog import AssignView
from heliosfs.core.refs import Branch, Snapshot
from heliosfs.core.view import State
from heliosfs.filesystem.ranges import RangeOperations
from heliosfs.filesystem.types import (
    AfterReply,
    BranchInfo,
    Caller,
    Entry,
    Invalidator,
    Outcome,
    SnapshotInfo,
    nothing_to_tell,
)
from heliosfs.storage.breath import Breath

_HASH_STEP: Final = 1 << 18
HASH_MAX: Final = 256 << 30
"""Bytes of the largest file that a content hash is made of: a minute or two, sparse or not."""
HASHES: Final = 8
"""Content hashes made at a time."""


class VersionOperations(RangeOperations):
    """Branches and snapshots. `view` is a branch's view where nothing else is said."""

    invalidators: list[Invalidator]
    mounted_views: set[ViewNo]
    _hashing: int = 0

    # --- verbs ---------------------------------------------------------------------------------------

    async def checkpoint(self, view: ViewNo, name: bytes | None, caller: Caller, *, kind: str = "") -> Outcome:
        """A snapshot of the branch as it is, every write(2) that returned included. O(1).

        `kind` is one of oplog.SNAPSHOT_KINDS; by default "user" for a named one, else "auto".
        Raises FsError EEXIST.
        """
        if self.crowded:
            await self.admit()
        number = oplog.SNAPSHOT_KINDS.index(kind or ("auto" if name is None else "user"))
        record = versions.plan_checkpoint(self.engine, view, name, number, caller.uid, caller.pid, self.now())
        snapshot: Snapshot = self.carry_out(record)
        return self._outcome("checkpoint", str(snapshot.id), snapshot.name, snapshot.time_ns)

    async def fork(self, view: ViewNo, name: bytes, caller: Caller, *, snapshot: bytes | None = None) -> Outcome:
        """A branch of this instant, or of a snapshot of this branch. O(1). Raises FsError EEXIST, ENOENT."""
        if self.crowded:
            await self.admit()
        source = SnapshotId(0)
        if snapshot is not None:
            source = versions.find_snapshot(self.engine.writable(view), snapshot).id
        return self._fork(view, name, source, caller)

    async def fork_snapshot(self, snapshot_view: ViewNo, name: bytes, caller: Caller) -> Outcome:
        """A branch of the snapshot with this view, below the snapshot's branch. Raises FsError EEXIST."""
        if self.crowded:
            await self.admit()
        snapshot = self.engine.snapshot_views.get(snapshot_view)
        if snapshot is None:
            raise StaleHandle("this snapshot is gone")
        owner = self.engine.by_id[snapshot.branch]
        return self._fork(owner.view, name, snapshot.id, caller)

    def _fork(self, view: ViewNo, name: bytes, source: SnapshotId, caller: Caller) -> Outcome:
        record = versions.plan_fork(self.engine, view, name, source, caller.uid, caller.gid, caller.pid, self.now())
        branch: Branch = self.carry_out(record)
        outcome = self._outcome("branch", str(branch.id), name, record.now_ns)
        outcome.extra["branch"] = branch.path.decode("utf-8", "surrogateescape")
        outcome.extra["view"] = branch.view
        return outcome

    async def restore(self, view: ViewNo, snapshot: bytes, caller: Caller) -> Outcome:
        """Make the branch what a snapshot of it holds; what it was is kept as a snapshot first.

        Kernels write back their dirty pages of the files concerned before, so that they are in that snapshot
        and do not come back over the restored content.

        O(differences). Coherent once `changes` are published. Raises FsError ENOENT.
        """
        known = await self._compared(view, snapshot)
        if self.invalidators:
            dirty = content_changes(view, list(known.found.values()))
            if dirty:
                await self.publish(dirty)
        # What was changed since the comparison, by that writing back too, is compared now.
        record = await self.planned(
            versions.plan_restore, self.engine, view, snapshot, caller.uid, caller.pid, self.now(), known
        )
        told = self.persister.untold.begin()
        found = self.carry_out_release(record)
        outcome = self._outcome("restore", str(record.snapshot), None, record.now_ns)
        outcome.told = told
        latest = self.engine.branches[view].latest
        outcome.name = latest.name.decode() if latest is not None else None
        outcome.changes = await self.kernel_changes(view, found)
        outcome.extra["changed"] = len(found)
        outcome.extra["safety"] = record.safety.decode()
        return outcome

    async def _compared(self, view: ViewNo, snapshot: bytes) -> Comparison:
        """What differs between the branch as it is and a snapshot of it, found in slices. Raises FsError ENOENT."""
        branch = self.engine.writable(view)
        new = versions.find_snapshot(branch, snapshot).state
        old = branch.head.freeze(Lsn(self.log.end))
        known = Comparison(old, new, {})
        steps = difference_steps(old, new, self.engine.pages)
        breath = Breath()
        while True:
            with self.cache.blocking():
                # A step of STEP inodes loads no more than their pages.
                for found in steps:
                    if found is None:
                        break
                    known.found[found[0]] = found
                else:
                    return known
            await breath.take()

    async def kernel_changes(self, view: ViewNo, found: list[Difference]) -> list[Change]:
        """What kernels must forget of these, found in slices: the versions compared never change."""
        changes: list[Change] = []
        breath = Breath()
        for at in range(0, len(found), STEP):
            with self.cache.blocking():
                changes += kernel_changes(view, found[at : at + STEP], self.engine.pages)
            await breath.take()
        return changes

    async def restore_path(self, view: ViewNo, snapshot: bytes, path: bytes, caller: Caller) -> Outcome:
        """Bring back one path, missing parents included. Raises FsError ENOENT, EINVAL (the root)."""
        await self.publish(await self.planned(self._content_differing_from, view, snapshot))
        record = await self.planned(
            pathrestore.plan_restore_path,
            self.engine,
            view,
            snapshot,
            path,
            caller.uid,
            caller.pid,
            self.now(),
        )
        name = versions.find_snapshot(self.engine.branches[view], snapshot).name
        told = self.persister.untold.begin()
        found = self.carry_out_release(record)
        outcome = self._outcome("restore", str(record.snapshot), name, record.now_ns)
        outcome.told = told
        with self.cache.blocking():
            outcome.changes = kernel_changes(view, found, self.engine.pages)
        outcome.extra["path"] = path.decode("utf-8", "surrogateescape")
        outcome.extra["changed"] = len(found)
        outcome.extra["safety"] = record.safety.decode()
        return outcome

    def _content_differing_from(self, view: ViewNo, snapshot: bytes) -> list[Change]:
        """Files whose content differs from a snapshot's: their dirty pages are to be written back."""
        branch = self.engine.writable(view)
        state = versions.find_snapshot(branch, snapshot).state
        found = list(differences(branch.head, state, self.engine.pages)) if self.invalidators else []
        return content_changes(view, found)

    async def forget_snapshot(self, view: ViewNo, name: bytes, caller: Caller) -> Outcome:
        """Forget a snapshot; its view is dead at once. Raises FsError ENOENT."""
        record = versions.plan_forget_snapshot(self.engine, view, name, caller.uid, caller.pid, self.now())
        told = self.persister.untold.begin()
        dead = self.carry_out_release(record)
        outcome = self._outcome("snapshot rm", str(record.snapshot), name, record.now_ns)
        outcome.told = told
        outcome.changes = [Change(gone, Ino(0), True, ()) for gone in dead]
        return outcome

    async def rename_snapshot(self, view: ViewNo, old: bytes, new: bytes, caller: Caller) -> Outcome:
        """Give a snapshot another name. Raises FsError ENOENT, EEXIST."""
        record = versions.plan_rename_snapshot(self.engine, view, old, new, caller.uid, caller.pid, self.now())
        self.carry_out(record)
        outcome = self._outcome("snapshot mv", str(record.snapshot), new, record.now_ns)
        outcome.extra["old"] = old.decode("utf-8", "surrogateescape")
        return outcome

    async def discard(self, view: ViewNo, caller: Caller) -> Outcome:
        """Discard a branch and its snapshots. Raises FsError EBUSY: main, children, the root of a mount."""
        if view in self.mounted_views:
            raise FsError(errno.EBUSY, "the branch is the root of a mount")
        branch = self.engine.writable(view)
        record = versions.plan_discard(self.engine, view, caller.uid, caller.pid, self.now())
        told = self.persister.untold.begin()
        dead = self.carry_out_release(record)
        outcome = self._outcome("discard", str(branch.id), branch.name, record.now_ns)
        outcome.told = told
        outcome.changes = [Change(gone, Ino(0), True, ()) for gone in dead]
        return outcome

    def _outcome(self, verb: str, id_: str, name: bytes | None, time_ns: int) -> Outcome:
        lsn = Lsn(self.log.end)
        text = name.decode("utf-8", "surrogateescape") if name is not None else None
        return Outcome(verb, id_, text, lsn, self.durable(lsn), time_ns)

    async def publish(self, changes: Sequence[Change]) -> None:
        """Make every kernel forget, then return."""
        if changes:
            for invalidator in self.invalidators:
                await invalidator.invalidate(changes)

    async def publish_around(
        self, changes: Sequence[Change], later: AfterReply, told: Callable[[], None] = nothing_to_tell
    ) -> None:
        """The same for a caller who holds locks until his reply: what takes none now, the rest by `later`.

        Args:
            told: Called when all is done.
        """
        if changes:
            rest = [await invalidator.begin(changes) for invalidator in self.invalidators]

            async def finish() -> None:
                for tell in rest:
                    await tell()
                told()

            later(finish)

    # --- questions -----------------------------------------------------------------------------------

    def is_branch(self, view: ViewNo) -> bool:
        """Whether the view is a live branch's."""
        return view in self.engine.branches

    def is_snapshot(self, view: ViewNo) -> bool:
        """Whether the view is a snapshot's."""
        return view in self.engine.snapshot_views

    def branch(self, view: ViewNo) -> BranchInfo:
        """The live branch of a view. Raises StaleHandle (ESTALE); FsError EROFS for a snapshot's."""
        return _branch_info(self.engine.writable(view))

    def find_branch(self, path: bytes) -> BranchInfo:
        """A branch by its path, as b"main/exp". Raises FsError ENOENT."""
        names = path.split(b"/")
        branch = self.engine.main
        assert branch is not None
        if names[0] == branch.name:
            at: Branch | None = branch
            for name in names[1:]:
                at = at.children.get(name) if at is not None else None
            if at is not None:
                return _branch_info(at)
        raise FsError(errno.ENOENT, f"no branch {path.decode('utf-8', 'backslashreplace')}")

    def children(self, view: ViewNo) -> list[BranchInfo]:
        """The branches below this one, oldest first."""
        return [_branch_info(child) for child in self.engine.writable(view).children.values()]

    def snapshots(self, view: ViewNo) -> list[SnapshotInfo]:
        """The snapshots of a branch, oldest first."""
        return [self._snapshot_info(s) for s in self.engine.writable(view).snapshots.values()]

    def _snapshot_info(self, snapshot: Snapshot) -> SnapshotInfo:
        state = snapshot.state
        return SnapshotInfo(
            str(snapshot.id),
            snapshot.name,
            snapshot.time_ns,
            oplog.SNAPSHOT_KINDS[snapshot.kind],
            self.durable(snapshot.position),
            None if state.root is None else "blake3:" + state.root.hex(),
            state.size_bytes,
            state.files,
        )

    def latest(self, view: ViewNo) -> bytes | None:
        """The name of the snapshot that `latest` stands for."""
        latest = self.engine.writable(view).latest
        return latest.name if latest is not None else None

    async def snapshot_root(self, view: ViewNo, name: bytes) -> Entry:
        """The root directory of a snapshot; its first lookup gives it a view number. Raises FsError ENOENT."""
        branch = self.engine.writable(view)
        snapshot = branch.snapshots.get(name)
        if snapshot is None:
            raise FsError(errno.ENOENT)
        if not snapshot.view:
            self.carry_out_release(AssignView(view, snapshot.id, self.engine.next_view))
        return await self.planned(self._root_entry, snapshot.view)

    def looked_up_snapshots(self) -> list[tuple[ViewNo, bytes, Entry]]:
        """(view of the branch, name, root) of every snapshot that has a view number."""
        found = []
        with self.cache.blocking():
            for view, snapshot in self.engine.snapshot_views.items():
                branch = self.engine.by_id.get(snapshot.branch)
                if branch is not None:
                    found.append((branch.view, snapshot.name, self._root_entry(view)))
        return found

    def branch_root(self, view: ViewNo) -> Entry:
        """The root directory of a branch. Raises StaleHandle, NeedPages."""
        with self.cache.blocking():
            return self._root_entry(view)

    def _root_entry(self, view: ViewNo) -> Entry:
        return Entry(node_id(view, ROOT_INO), self.engine.inode(view, ROOT_INO))

    async def tree_root(self, view: ViewNo) -> str:
        """The Merkle root of a branch or snapshot as it is now: "blake3:<hex>". Waits until it is persisted."""
        branch = self.engine.branches.get(view)
        if branch is not None:
            state = branch.head.freeze(Lsn(self.log.end))
        else:
            tree = self.engine.tree(view)
            assert isinstance(tree, State)
            state = tree
        while state.root is None:
            self.engine.requested.append(state)
            await self.persister.persist()
        return "blake3:" + state.root.hex()

    async def content_hash(self, node: NodeId) -> str:
        """BLAKE3 of a regular file's bytes, holes as zeros: "blake3:<hex>".

        0.2 ms a MiB, in slices; HASHES of them at a time, so that they cannot take all request tasks.

        Raises:
            FsError: ENODATA: no regular file; EFBIG: over HASH_MAX bytes; EBUSY: too many at a time.
        """
        inode = await self.getattr(node)
        if not stat.S_ISREG(inode.mode):
            raise FsError(errno.ENODATA, "only a regular file has a content hash")
        size = inode.size
        if size > HASH_MAX:
            raise FsError(errno.EFBIG, f"a file of more than {HASH_MAX >> 30} GiB is not hashed")
        if self._hashing >= HASHES:
            raise FsError(errno.EBUSY, f"{HASHES} files are being hashed already")
        self._hashing += 1
        try:
            hasher, breath = blake3(), Breath()
            for offset in range(0, size, _HASH_STEP):
                hasher.update(await self.read(node, offset, min(_HASH_STEP, size - offset)))
                await breath.take()
        finally:
            self._hashing -= 1
        return "blake3:" + hasher.hexdigest()

    def view_durable(self, view: ViewNo) -> bool:
        """Whether a snapshot, or all that was done to a branch so far, survives power loss."""
        snapshot = self.engine.snapshot_views.get(view)
        if snapshot is not None:
            return self.durable(snapshot.position)
        self.engine.writable(view)
        return self.durable(self.log.end)

    async def wait_persisted(self) -> None:
        """Return when everything up to now is in the page store. Raises OSError, Damaged."""
        await self.persister.wait_for(Lsn(self.log.end))


def _branch_info(branch: Branch) -> BranchInfo:
    return BranchInfo(
        branch.id,
        branch.name,
        branch.path,
        branch.view,
        branch.parent.id if branch.parent is not None else None,
        branch.uid,
        branch.gid,
        len(branch.children),
        branch.created_ns,
        branch.head.files,
        branch.head.size_bytes,
    )
