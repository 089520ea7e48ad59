"""Branches and snapshots: the movable names over immutable states.

Must not know: what is in the trees, how refs are stored.
"""

from __future__ import annotations

import datetime
from collections.abc import Container

from heliosfs.core.ids import BranchId, Ino, Lsn, SnapshotId, ViewNo
from heliosfs.core.inode import Inode
from heliosfs.core.oplog import KIND_BASE, KIND_RESTORE
from heliosfs.core.retention import Retention
from heliosfs.core.view import State, View

FIRST_BRANCH = b"main"


class Snapshot:
    """A named, frozen version of a branch.

    Attributes:
        id: Log position of the record that made it.
        kind: One of oplog.SNAPSHOT_KINDS, by number.
        view: Its view number once somebody has looked it up, else 0.
        position: End of its record in the log: durable once the log is durable up to here.
    """

    __slots__ = ("branch", "id", "kind", "name", "position", "state", "time_ns", "view")

    def __init__(
        self,
        id_: SnapshotId,
        branch: BranchId,
        name: bytes,
        time_ns: int,
        kind: int,
        state: State,
        position: Lsn,
    ) -> None:
        self.id = id_
        self.branch = branch
        self.name = name
        self.time_ns = time_ns
        self.kind = kind
        self.state = state
        self.position = position
        self.view = ViewNo(0)


class Branch:
    """A writable tree with a name, its snapshots, and what is left of it in open files.

    Attributes:
        snapshots: By name, oldest first; by_id: the same by number.
        latest: The snapshot that `latest` names, or None.
        orphans: Unlinked inodes that the kernel still knows (invariant 4); in no view's map.
        retention: Its policy for snapshots, or None.
        orphans_stored: Whether the stored refs of the branch hold such inodes; they may be gone by now.
        generations: Directories that came back by a restore: number -> FUSE entry generation.
        next_ino, lease_end: The rest of the branch's lease of inode numbers.
    """

    __slots__ = (
        "by_id",
        "children",
        "created_ns",
        "generations",
        "gid",
        "head",
        "id",
        "latest",
        "lease_end",
        "name",
        "next_ino",
        "orphans",
        "orphans_stored",
        "parent",
        "retention",
        "snapshots",
        "uid",
        "view",
    )

    def __init__(
        self,
        id_: BranchId,
        name: bytes,
        parent: Branch | None,
        view: ViewNo,
        head: View,
        uid: int,
        gid: int,
        created_ns: int,
    ) -> None:
        self.id = id_
        self.name = name
        self.parent = parent
        self.view = view
        self.head = head
        self.uid = uid
        self.gid = gid
        self.created_ns = created_ns
        self.children: dict[bytes, Branch] = {}
        self.snapshots: dict[bytes, Snapshot] = {}
        self.by_id: dict[SnapshotId, Snapshot] = {}
        self.latest: Snapshot | None = None
        self.orphans: dict[Ino, Inode] = {}
        self.orphans_stored = False
        self.retention: Retention | None = None
        self.generations: dict[Ino, int] = {}
        self.next_ino = Ino(0)
        self.lease_end = Ino(0)

    @property
    def path(self) -> bytes:
        """Names from the first branch down: b"main/exp/a"."""
        names = [self.name]
        at = self.parent
        while at is not None:
            names.append(at.name)
            at = at.parent
        return b"/".join(reversed(names))

    def subtree(self) -> list[Branch]:
        """This branch and all below it. O(their number)."""
        found = [self]
        for branch in found:
            found.extend(branch.children.values())
        return found

    def newest_asked(self) -> Snapshot | None:
        """The newest snapshot that somebody asked for, `base` if there is no other."""
        base = None
        for snapshot in reversed(self.snapshots.values()):
            if snapshot.kind == KIND_BASE:
                base = snapshot
            elif snapshot.kind != KIND_RESTORE:
                return snapshot
        return base


def automatic_name(now_ns: int, taken: Container[bytes], prefix: bytes = b"") -> bytes:
    """`YYYYmmddTHHMMSS.ffffffZ` in UTC, with -2, -3 ... where that is taken."""
    seconds, rest = divmod(now_ns, 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    stem = prefix + b"%04d%02d%02dT%02d%02d%02d.%06dZ" % (
        moment.year,
        moment.month,
        moment.day,
        moment.hour,
        moment.minute,
        moment.second,
        rest // 1000,
    )
    if stem not in taken:
        return stem
    number = 2
    while (name := stem + b"-%d" % number) in taken:
        number += 1
    return name
