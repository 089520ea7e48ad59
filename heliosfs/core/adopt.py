"""Making a branch equal to a tree from elsewhere: what an import brings.

The tree is built from `ImportedNode`s against the branch's present tree, so that what is the same keeps
its inode, and stored before the record is written; the record swaps the root.
"""

from __future__ import annotations

import errno
import itertools
import stat
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from heliosfs.core import directory, oplog, radix
from heliosfs.core.attributes import HIDDEN_XATTRS
from heliosfs.core.diff import Difference, differences
from heliosfs.core.directory import Dentry
from heliosfs.core.errors import FsError
from heliosfs.core.extent import ChunkRef, Extent
from heliosfs.core.ids import LEASE_INOS, ROOT_INO, Ino, Lsn
from heliosfs.core.imported import ImportedNode
from heliosfs.core.inode import NO_XATTRS, Inode
from heliosfs.core.oplog import Adopt
from heliosfs.core.radix import Pages, Tree
from heliosfs.core.refs import Branch
from heliosfs.core.trampoline import Walk, breaths
from heliosfs.core.versions import add_snapshot, log_event, swap
from heliosfs.core.view import State, View

if TYPE_CHECKING:
    from heliosfs.core.engine import Engine, Placed

_SIZE_MAX: Final = (1 << 64) - 1
"""What the record of an import has room for."""
ORIGINAL_OWNER: Final = HIDDEN_XATTRS + b"owner"
"""Who owned a file at its source, where an import without privileges had to give it to the caller."""


def apply_adopt(engine: Engine, record: Adopt, place: Placed) -> list[Difference]:
    """What differs from the tree before."""
    branch = engine.branches[record.view]
    engine.logged_roots.append((Lsn(place.lsn), record.root))
    state = State.stored(record.root, record.files, record.size_bytes)
    found, made = _prepared(engine, record, branch, state)
    before = branch.head.freeze(Lsn(place.lsn + 1))
    nth = 0
    if record.safety:
        add_snapshot(engine, branch, record.safety, oplog.KIND_RESTORE, before, record.now_ns, place)
        nth = 1
    swap(engine, branch, state, found, place)
    engine.next_ino = Ino(max(engine.next_ino, record.next_ino))
    root = branch.head.get(ROOT_INO, engine.pages)
    assert root is not None
    if branch.parent is None:
        branch.uid, branch.gid = root.uid, root.gid
    branch.latest = add_snapshot(engine, branch, record.name, oplog.KIND_IMPORT, state, record.now_ns, place, nth)
    log_event(
        engine,
        place,
        "import",
        branch,
        record,
        name=record.name,
        id=str(branch.latest.id),
        changed=len(found) + made,
        files=record.files,
    )
    return found


def is_new(found: Difference, record: Adopt) -> bool:
    """Whether an import made this inode itself: no kernel can know its number. (What was there keeps its btime.)"""
    _, before, after = found
    return before is None and after is not None and after.btime_ns == record.now_ns


def _prepared(engine: Engine, record: Adopt, branch: Branch, state: State) -> tuple[list[Difference], int]:
    """What planning found, or, in a replay, is found now: (differences but new inodes, how many new ones)."""
    if engine.prepared is not None and engine.prepared[0] is record:
        _, kept, made = engine.prepared
        engine.prepared = None
        return kept, made
    kept, made = [], 0
    for found in differences(branch.head, state, engine.pages):
        if is_new(found, record):
            made += 1
        else:
            kept.append(found)
    return kept, made


class TreeBuilder:
    """Turns imported nodes into inodes, in steps small enough to serve requests between.

    Attributes:
        changes: Inodes by number that differ from the tree before and were not drained; None: gone.
        found: By number, differences of inodes that were there before. made: How many were not.
        next_ino: The first inode number not used.
        files, size_bytes: Of the new tree.
    """

    def __init__(
        self, head: View | State, nodes: Sequence[ImportedNode], next_ino: Ino, now_ns: int, pages: Pages
    ) -> None:
        self._head = head
        self._nodes = nodes
        self._now_ns = now_ns
        self._pages = pages
        self.next_ino = next_ino
        self.changes: dict[Ino, Inode | None] = {}
        self.found: dict[Ino, Difference] = {}
        self.made = 0
        self.files = 0
        self.size_bytes = 0
        self._inos: list[Ino] = [Ino(0)] * len(nodes)
        self._children: dict[int, list[int]] = {}
        self._links: dict[int, int] = {}
        self._used: set[Ino] = set()

    def steps(self) -> Iterator[None]:
        """Do the work; yields about every 100 nodes."""
        nodes = self._nodes
        for index in range(1, len(nodes)):
            if not index % 100:
                yield
            self._children.setdefault(nodes[index].parent, []).append(index)
            if nodes[index].link_to >= 0:
                self._links[nodes[index].link_to] = self._links.get(nodes[index].link_to, 1) + 1
        old = self._head.get(ROOT_INO, self._pages)
        yield from breaths(self._directory(0, ROOT_INO, ROOT_INO, old))
        for ino, inode in self.changes.items():
            if inode is None:
                self.found[ino] = (ino, self._head.get(ino, self._pages), None)

    def drain(self) -> list[tuple[Ino, Inode | None]]:
        """The inodes made so far, by number; they are not kept here any more. What is gone stays till the end."""
        drained = sorted((item for item in self.changes.items() if item[1] is not None), key=lambda item: item[0])
        self.changes = {ino: None for ino, inode in self.changes.items() if inode is None}
        return drained

    def _directory(self, index: int, ino: Ino, parent: Ino, old: Inode | None) -> Walk:
        pages = self._pages
        if old is not None and not old.is_dir():
            yield self._gone_tree(old)
            old = None
        entries: list[Dentry] = []
        subdirectories = 0
        seen: set[bytes] = set()
        for count, child in enumerate(self._children.get(index, ())):
            if count % 100 == 99:
                yield None
            node = self._nodes[child]
            seen.add(node.name)
            before = None
            if old is not None:
                dentry = directory.find(old.tree, node.name, pages)
                if dentry is not None:
                    before = self._head.get(dentry.ino, pages)
            kind = stat.S_IFMT(node.mode)
            # Depth first meets a later name before the first one: whichever comes first numbers the file.
            one = node.link_to if node.link_to >= 0 else child
            child_ino = self._inos[one] or self._number(before, kind)
            self._inos[one] = child_ino
            if before is not None and before.ino != child_ino:
                yield self._gone_tree(before)
            self._inos[child] = child_ino
            entries.append(Dentry(node.name, child_ino, kind >> 12))
            if kind == stat.S_IFDIR:
                subdirectories += 1
                same = before if before is not None and before.ino == child_ino else None
                yield self._directory(child, child_ino, ino, same)
            elif node.link_to < 0:
                self._file(node, child_ino, before, self._links.get(child, 1))
        if old is not None:
            for dentry in directory.entries(old.tree, pages):
                if dentry.name not in seen:
                    gone = self._head.get(dentry.ino, pages)
                    if gone is not None:
                        yield self._gone_tree(gone)
        self._finish_directory(index, ino, parent, old, entries, subdirectories)
        yield None

    def _finish_directory(
        self, index: int, ino: Ino, parent: Ino, old: Inode | None, entries: list[Dentry], subdirectories: int
    ) -> None:
        inode = self._record(self._nodes[index], ino, old)
        inode.parent = parent
        inode.nlink = 2 + subdirectories
        inode.size = len(entries)
        inode.tree = self._dentries(old, entries)
        self._place(inode, old)

    def _dentries(self, old: Inode | None, entries: list[Dentry]) -> Tree:
        buckets: dict[int, tuple[Dentry, ...]] = {}
        for dentry in entries:
            key = directory.name_key(dentry.name)
            buckets[key] = tuple(sorted((*buckets.get(key, ()), dentry)))
        if old is None or old.size == 0:
            return radix.build(sorted(buckets.items()))
        changes = []
        for key, before in radix.items(old.tree, self._pages):
            now = buckets.pop(key, None)
            if now != before:
                changes.append((key, now))
        changes.extend(buckets.items())
        return radix.update(old.tree, sorted(changes, key=lambda c: c[0]), self._pages) if changes else old.tree

    def _number(self, before: Inode | None, kind: int) -> Ino:
        if before is not None and before.mode & 0o170000 == kind and before.ino not in self._used:
            self._used.add(before.ino)
            return before.ino
        ino = self.next_ino
        self.next_ino = Ino(ino + 1)
        return ino

    def _file(self, node: ImportedNode, ino: Ino, before: Inode | None, nlink: int) -> None:
        old = self._head.get(ino, self._pages)
        inode = self._record(node, ino, old)
        inode.nlink = nlink
        inode.target = node.target
        inode.size = len(node.target) if node.target else node.size
        if not inode.is_file():
            pass
        elif node.extents is None:
            if before is None or (before.size, before.mtime_ns) != (node.size, node.mtime_ns):
                raise FsError(errno.EBUSY, "the branch was changed during the import: import again")
            inode.tree, inode.allocated, inode.size = before.tree, before.allocated, before.size
        elif node.extents:
            pairs = [(at, Extent(length, ChunkRef(id_, length), 0)) for at, length, id_ in node.extents]
            inode.tree = radix.build(pairs)
            inode.allocated = sum(length for _, length, _ in node.extents)
        if inode.is_file():
            self.size_bytes += inode.size
            if self.size_bytes > _SIZE_MAX:
                raise FsError(errno.EFBIG, "the files of the tree have 2^64 bytes and more, holes included")
        self._place(inode, old)

    def _record(self, node: ImportedNode, ino: Ino, old: Inode | None) -> Inode:
        inode = Inode(ino, Lsn(0), node.mode, node.uid, node.gid, self._now_ns, rdev=node.rdev)
        inode.mtime_ns = node.mtime_ns
        inode.xattrs = dict(node.xattrs) if node.xattrs else NO_XATTRS
        if node.orig_uid >= 0 or node.orig_gid >= 0:
            inode.xattrs = {**inode.xattrs, ORIGINAL_OWNER: b"%d:%d" % (node.orig_uid, node.orig_gid)}
        if old is not None:
            inode.btime_ns = old.btime_ns
            inode.atime_set_ns = old.atime_set_ns
        return inode

    def _place(self, inode: Inode, old: Inode | None) -> None:
        self.files += 1
        self._used.add(inode.ino)
        if old is not None and _same_but_ctime(inode, old, self._pages):
            self.changes.pop(inode.ino, None)
            return
        self.changes[inode.ino] = inode
        if old is None:
            self.made += 1
        else:
            self.found[inode.ino] = (inode.ino, old, inode)

    def _gone_tree(self, inode: Inode) -> Walk:
        """The old inode, and what is below it, is not in the new tree, unless a name elsewhere keeps it."""
        waiting = [inode]
        for count in itertools.count(1):
            if not waiting:
                return
            if not count % 100:
                yield None
            gone = waiting.pop()
            if gone.ino not in self._used:
                self.changes.setdefault(gone.ino, None)
            if gone.is_dir():
                for dentry in directory.entries(gone.tree, self._pages):
                    child = self._head.get(dentry.ino, self._pages)
                    if child is not None:
                        waiting.append(child)


def _same_but_ctime(new: Inode, old: Inode, pages: Pages) -> bool:
    return (
        new.mode == old.mode
        and new.uid == old.uid
        and new.gid == old.gid
        and new.nlink == old.nlink
        and new.size == old.size
        and new.mtime_ns == old.mtime_ns
        and new.rdev == old.rdev
        and new.parent == old.parent
        and new.target == old.target
        and new.xattrs == old.xattrs
        and (new.tree is old.tree or next(radix.difference(old.tree, new.tree, pages), None) is None)
    )


def first_free_lease(next_ino: Ino) -> Ino:
    """The store's counter after an import used the numbers below `next_ino`: whole leases."""
    return Ino((next_ino + LEASE_INOS - 1) // LEASE_INOS * LEASE_INOS)
