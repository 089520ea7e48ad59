"""rename(2) with all of its flags: NOREPLACE, EXCHANGE, WHITEOUT."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Final

from heliosfs.core import directory
from heliosfs.core.directory import Dentry
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ROOT_INO, Ino, Lsn, ViewNo
from heliosfs.core.inode import Inode
from heliosfs.core.namespace import check_name, drop_directory, drop_link, find_child, parent_directory
from heliosfs.core.oplog import Rename

if TYPE_CHECKING:
    from heliosfs.core.engine import Engine, Placed

NOREPLACE: Final = 1
EXCHANGE: Final = 2
WHITEOUT: Final = 4
_DIR: Final = stat.S_IFDIR >> 12
_CHR: Final = stat.S_IFCHR >> 12


def plan_rename(
    engine: Engine,
    view: ViewNo,
    parent: Ino,
    name: bytes,
    new_parent: Ino,
    new_name: bytes,
    flags: int,
    now_ns: int,
) -> Rename | None:
    """Plan a rename; None where POSIX says that nothing is to be done (two names of one file).

    Raises:
        FsError: ENOENT, EEXIST, EISDIR, ENOTDIR, ENOTEMPTY, EINVAL (into itself, flags), ENAMETOOLONG, EROFS.
    """
    if flags & ~(NOREPLACE | EXCHANGE | WHITEOUT) or (flags & EXCHANGE and flags & (NOREPLACE | WHITEOUT)):
        raise FsError(errno.EINVAL)
    source_dir = parent_directory(engine, view, parent)
    target_dir = parent_directory(engine, view, new_parent)
    check_name(new_name)
    source = find_child(engine, source_dir, name)
    target = directory.find(target_dir.tree, new_name, engine.pages)
    if source.kind == _DIR:
        _refuse_loop(engine, view, source.ino, target_dir)
    engine.inode(view, source.ino)
    if flags & EXCHANGE:
        if target is None:
            raise FsError(errno.ENOENT)
        if target.kind == _DIR:
            _refuse_loop(engine, view, target.ino, source_dir)
        engine.inode(view, target.ino)
    elif target is not None:
        if flags & NOREPLACE:
            raise FsError(errno.EEXIST)
        if target.ino == source.ino:
            return None
        replaced = engine.inode(view, target.ino)
        if target.kind == _DIR:
            if source.kind != _DIR:
                raise FsError(errno.EISDIR)
            if replaced.size:
                raise FsError(errno.ENOTEMPTY)
        elif source.kind == _DIR:
            raise FsError(errno.ENOTDIR)
    whiteout = engine.fresh_ino(engine.branches[view]) if flags & WHITEOUT else Ino(0)
    return Rename(view, parent, new_parent, now_ns, flags, whiteout, name, new_name)


def apply_rename(engine: Engine, record: Rename, place: Placed) -> Ino:
    """The number of the inode that the new name has replaced, or 0."""
    branch = engine.branches[record.view]
    head = branch.head
    lsn = Lsn(place.lsn)
    now = record.now_ns
    pages = engine.pages
    old_dir = engine.edit(branch, record.parent, lsn)
    new_dir = engine.edit(branch, record.new_parent, lsn)
    replaced = Ino(0)
    target = directory.find(new_dir.tree, record.new_name, pages)
    if record.flags & EXCHANGE:
        source = directory.find(old_dir.tree, record.name, pages)
        assert source is not None and target is not None
        moved = engine.edit(branch, source.ino, lsn)
        other = engine.edit(branch, target.ino, lsn)
        other.ctime_ns = now
        old_dir.tree = directory.put(old_dir.tree, Dentry(record.name, target.ino, target.kind), pages)
        _move(other, target.kind, new_dir, old_dir)
    else:
        if target is not None:
            replaced = target.ino
            new_dir.size -= 1
            if target.kind == _DIR:
                new_dir.nlink -= 1
                drop_directory(engine, branch, target.ino, now, lsn)
            else:
                drop_link(engine, branch, target.ino, now, lsn)
        old_dir.tree, source = directory.take(old_dir.tree, record.name, pages)
        assert source is not None
        moved = engine.edit(branch, source.ino, lsn)
        old_dir.size -= 1
        new_dir.size += 1
        if record.whiteout:
            engine.take_ino(branch, record.whiteout)
            left = Inode(record.whiteout, lsn, stat.S_IFCHR, moved.uid, moved.gid, now)
            head.add(left)
            old_dir.tree = directory.put(old_dir.tree, Dentry(record.name, left.ino, _CHR), pages)
            old_dir.size += 1
    new_dir.tree = directory.put(new_dir.tree, Dentry(record.new_name, source.ino, source.kind), pages)
    moved.ctime_ns = now
    _move(moved, source.kind, old_dir, new_dir)
    old_dir.mtime_ns = old_dir.ctime_ns = now
    new_dir.mtime_ns = new_dir.ctime_ns = now
    return replaced


def _move(inode: Inode, kind: int, old_dir: Inode, new_dir: Inode) -> None:
    if kind == _DIR and old_dir is not new_dir:
        inode.parent = new_dir.ino
        old_dir.nlink -= 1
        new_dir.nlink += 1


def _refuse_loop(engine: Engine, view: ViewNo, moved: Ino, into: Inode) -> None:
    """EINVAL where a directory would come to lie below itself. O(depth)."""
    at = into
    while True:
        if at.ino == moved:
            raise FsError(errno.EINVAL, "a directory cannot be moved into itself")
        if at.ino == ROOT_INO:
            return
        at = engine.inode(view, at.parent)
