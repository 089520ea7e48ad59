"""Restoring one path of a branch from a snapshot: a file, a link, or a directory with all below it.

An inode keeps its number where the branch does not use it elsewhere; where it does (the file was moved, or
has another name), the restored one is a new inode, so that what lies elsewhere stays as it is.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from heliosfs.core import directory, oplog, trampoline
from heliosfs.core.adopt import first_free_lease
from heliosfs.core.diff import Difference, differences
from heliosfs.core.directory import Dentry
from heliosfs.core.errors import FsError, NeedPages
from heliosfs.core.events import text_of
from heliosfs.core.ids import ROOT_INO, Ino, Lsn, PageId, ViewNo
from heliosfs.core.inode import Inode
from heliosfs.core.namespace import check_name
from heliosfs.core.oplog import RestorePath
from heliosfs.core.radix import Pages
from heliosfs.core.refs import Branch, automatic_name
from heliosfs.core.trampoline import Walk
from heliosfs.core.versions import (
    add_snapshot,
    find_snapshot,
    live_branch,
    log_event,
    snapshot_by_id,
)
from heliosfs.core.view import State, View

if TYPE_CHECKING:
    from heliosfs.core.engine import Engine, Placed


def split_path(path: bytes) -> list[bytes]:
    """The names of a path relative to the branch root. Raises FsError EINVAL, ENAMETOOLONG."""
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    for name in names:
        check_name(name)
    return names


def walk(tree: View | State, path: bytes, pages: Pages) -> Inode:
    """The inode at a path. Raises FsError ENOENT, ENOTDIR; NeedPages. O(depth)."""
    inode = tree.get(ROOT_INO, pages)
    assert inode is not None
    for name in split_path(path):
        if not inode.is_dir():
            raise FsError(errno.ENOTDIR)
        dentry = directory.find(inode.tree, name, pages)
        inode = tree.get(dentry.ino, pages) if dentry is not None else None
        if inode is None:
            raise FsError(errno.ENOENT, f"no {text_of(path)} there")
    return inode


def plan_restore_path(
    engine: Engine, view: ViewNo, name: bytes, path: bytes, uid: int, pid: int, now_ns: int
) -> RestorePath:
    """Plan to bring back one path. Raises FsError ENOENT (snapshot or path), EINVAL (the root); NeedPages."""
    branch = live_branch(engine, view)
    snapshot = find_snapshot(branch, name)
    names = split_path(path)
    if not names:
        raise FsError(errno.EINVAL, "the root is restored with the whole branch")
    inode = walk(snapshot.state, path, engine.pages)
    missing: set[PageId] = set()
    _touch(snapshot.state, inode, engine.pages, missing)
    _touch_path(branch.head, names, engine.pages, missing)
    if missing:
        raise NeedPages(missing)
    safety = automatic_name(now_ns, branch.snapshots)
    return RestorePath(view, now_ns, uid, pid, snapshot.id, engine.next_ino, safety, b"/".join(names))


def _touch(tree: View | State, inode: Inode, pages: Pages, missing: set[PageId]) -> None:
    """Collect the pages below an inode that are not in memory."""
    waiting = [inode]
    while waiting:
        at = waiting.pop()
        if not at.is_dir():
            continue
        try:
            below = list(directory.entries(at.tree, pages))
        except NeedPages as need:
            missing.update(need.ids)
            continue
        for dentry in below:
            try:
                child = tree.get(dentry.ino, pages)
            except NeedPages as need:
                missing.update(need.ids)
                continue
            if child is not None:
                waiting.append(child)


def _touch_path(head: View, names: list[bytes], pages: Pages, missing: set[PageId]) -> None:
    try:
        inode = walk(head, b"/".join(names), pages)
    except NeedPages as need:
        missing.update(need.ids)
    except FsError:
        return
    else:
        _touch(head, inode, pages, missing)


def apply_restore_path(engine: Engine, record: RestorePath, place: Placed) -> list[Difference]:
    """What differs."""
    branch = engine.branches[record.view]
    snapshot = snapshot_by_id(branch, record.snapshot)
    before = branch.head.freeze(Lsn(place.lsn + 1))
    add_snapshot(engine, branch, record.safety, oplog.KIND_RESTORE, before, record.now_ns, place)
    work = _PathRestore(engine, branch, snapshot.state, record, Lsn(place.lsn + 1))
    work.run()
    found = list(differences(before, branch.head, engine.pages))
    for ino, was, now in found:
        if was is None and now is not None and now.is_dir():
            branch.generations[ino] = place.lsn
    log_event(
        engine,
        place,
        "restore",
        branch,
        record,
        name=snapshot.name,
        id=str(snapshot.id),
        path=record.path,
        safety=record.safety,
        changed=len(found),
    )
    return found


class _PathRestore:
    """One application of a RestorePath record."""

    def __init__(self, engine: Engine, branch: Branch, source: State, record: RestorePath, lsn: Lsn) -> None:
        self.engine = engine
        self.pages = engine.pages
        self.branch = branch
        self.head = branch.head
        self.source = source
        self.record = record
        self.lsn = lsn
        self.next_ino = record.first_ino

    def run(self) -> None:
        names = self.record.path.split(b"/")
        wanted = self.source.get(ROOT_INO, self.pages)
        live = self.head.get(ROOT_INO, self.pages)
        assert wanted is not None and live is not None
        for name in names[:-1]:
            wanted = self._child(self.source, wanted, name)
            below = self._child(self.head, live, name) if live.is_dir() else None
            assert wanted is not None
            if below is None or not below.is_dir():
                if below is not None:
                    trampoline.run(self._remove(live, name, below))
                below = self._make(wanted, live, name)
            live = below
        wanted = self._child(self.source, wanted, names[-1])
        assert wanted is not None
        trampoline.run(self._bring(wanted, live, names[-1]))
        if self.next_ino > self.record.first_ino:
            self.engine.next_ino = first_free_lease(self.next_ino)

    def _child(self, tree: View | State, inode: Inode, name: bytes) -> Inode | None:
        dentry = directory.find(inode.tree, name, self.pages)
        return tree.get(dentry.ino, self.pages) if dentry is not None else None

    def _edit(self, inode: Inode) -> Inode:
        current = self.head.get(inode.ino, self.pages)
        assert current is not None
        return self.head.edit(current, self.lsn)

    def _bring(self, wanted: Inode, parent: Inode, name: bytes) -> Walk:
        """Make `name` in the live directory what the snapshot has."""
        live = self._child(self.head, parent, name)
        if live is not None and live.ino == wanted.ino:
            if live.is_dir():
                yield self._directory(wanted, live)
            self._content(wanted, live)
            return
        if live is not None:
            yield self._remove(parent, name, live)
        elsewhere = self.head.get(wanted.ino, self.pages)
        if elsewhere is not None and not wanted.is_dir() and _same_content(elsewhere, wanted):
            elsewhere = self._edit(elsewhere)
            elsewhere.nlink += 1
            elsewhere.ctime_ns = self.record.now_ns
            self._name(parent, name, elsewhere)
            return
        inode = self._make(wanted, parent, name)
        if wanted.is_dir():
            for dentry in list(directory.entries(wanted.tree, self.pages)):
                child = self.source.get(dentry.ino, self.pages)
                assert child is not None
                yield self._bring(child, inode, dentry.name)
            inode.mtime_ns = wanted.mtime_ns

    def _make(self, wanted: Inode, parent: Inode, name: bytes) -> Inode:
        """A new inode like the snapshot's; a directory without its entries."""
        inode = wanted.copy(self.lsn)
        if self.head.get(wanted.ino, self.pages) is not None:
            inode.ino = self.next_ino
            self.next_ino = Ino(self.next_ino + 1)
        else:
            self.branch.orphans.pop(wanted.ino, None)
        inode.ctime_ns = self.record.now_ns
        inode.nlink = 2 if wanted.is_dir() else 1
        if wanted.is_dir():
            inode.parent = parent.ino
            inode.tree = None
            inode.size = 0
        self.head.add(inode)
        self._name(parent, name, inode)
        return inode

    def _name(self, parent: Inode, name: bytes, inode: Inode) -> None:
        edited = self._edit(parent)
        kind = inode.mode >> 12 & 0o17
        edited.tree = directory.put(edited.tree, Dentry(name, inode.ino, kind), self.pages)
        edited.size += 1
        if inode.is_dir():
            edited.nlink += 1
        edited.mtime_ns = edited.ctime_ns = self.record.now_ns

    def _content(self, wanted: Inode, live: Inode) -> None:
        """Give an inode that kept its place the attributes and content it had."""
        if live.ctime_ns == wanted.ctime_ns:
            return
        inode = self._edit(live)
        inode.mode, inode.uid, inode.gid = wanted.mode, wanted.uid, wanted.gid
        inode.xattrs, inode.mtime_ns, inode.atime_set_ns = wanted.xattrs, wanted.mtime_ns, wanted.atime_set_ns
        inode.ctime_ns = self.record.now_ns
        if inode.is_file():
            self.head.size_bytes += wanted.size - inode.size
            inode.size, inode.allocated, inode.tree = wanted.size, wanted.allocated, wanted.tree

    def _directory(self, wanted: Inode, live: Inode) -> Walk:
        for key_name in list(directory.differing_names(live.tree, wanted.tree, self.pages)):
            if directory.find(wanted.tree, key_name, self.pages) is None:
                extra = self._child(self.head, live, key_name)
                assert extra is not None
                yield self._remove(live, key_name, extra)
                live = self._edit(live)
        for dentry in list(directory.entries(wanted.tree, self.pages)):
            child = self.source.get(dentry.ino, self.pages)
            assert child is not None
            current = self.head.get(live.ino, self.pages)
            assert current is not None
            yield self._bring(child, current, dentry.name)

    def _remove(self, parent: Inode, name: bytes, inode: Inode) -> Walk:
        """Take a name and, with the last one, all below it. Open handles get ESTALE (no orphans)."""
        if inode.is_dir():
            for dentry in list(directory.entries(inode.tree, self.pages)):
                child = self.head.get(dentry.ino, self.pages)
                assert child is not None
                yield self._remove(inode, dentry.name, child)
        edited = self._edit(parent)
        edited.tree = directory.drop(edited.tree, name, self.pages)
        edited.size -= 1
        edited.mtime_ns = edited.ctime_ns = self.record.now_ns
        gone = self._edit(inode)
        gone.ctime_ns = self.record.now_ns
        if gone.is_dir():
            edited.nlink -= 1
            gone.nlink = 0
        else:
            gone.nlink -= 1
        if gone.nlink == 0:
            self.head.drop(gone)


def _same_content(a: Inode, b: Inode) -> bool:
    return (
        a.mode == b.mode
        and a.uid == b.uid
        and a.gid == b.gid
        and a.size == b.size
        and a.mtime_ns == b.mtime_ns
        and a.xattrs == b.xattrs
        and (a.tree is b.tree or a.tree == b.tree)
    )
