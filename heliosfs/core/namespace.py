"""Names: making, linking and removing them. Rules of link(2), mkdir(2), mknod(2), unlink(2), rmdir(2).

Each act is a `plan_` (pure: an errno or a record) and an `apply_` (the change). Permissions are the kernel's
concern (default_permissions). Must not know: FUSE, the log.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Final

from heliosfs.core import acl, directory
from heliosfs.core.directory import NAME_MAX, Dentry
from heliosfs.core.errors import FsError
from heliosfs.core.ids import Ino, Lsn, ViewNo
from heliosfs.core.inode import Inode
from heliosfs.core.oplog import Link, Make, MakeUnnamed, RemoveDirectory, Unlink
from heliosfs.core.refs import Branch

if TYPE_CHECKING:
    from heliosfs.core.engine import Engine, Placed

LINK_MAX: Final = (1 << 31) - 1
TARGET_MAX: Final = 4095
_KINDS: Final = frozenset(
    (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
)


def parent_directory(engine: Engine, view: ViewNo, ino: Ino) -> Inode:
    """The directory in which a name is to change.

    Raises:
        FsError: ENOTDIR; ENOENT where the directory has been removed; EROFS in a snapshot; ESTALE.
    """
    branch = engine.writable(view)
    inode = engine.inode(view, ino)
    if not inode.is_dir():
        raise FsError(errno.ENOTDIR)
    if inode.nlink == 0 or (branch.orphans and ino in branch.orphans):
        raise FsError(errno.ENOENT)
    return inode


def check_name(name: bytes) -> None:
    """Refuse what no directory can hold: ENAMETOOLONG above 255 bytes, EINVAL for the impossible."""
    if len(name) > NAME_MAX:
        raise FsError(errno.ENAMETOOLONG)
    if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise FsError(errno.EINVAL)


def find_child(engine: Engine, parent: Inode, name: bytes) -> Dentry:
    """The entry of a name. Raises FsError ENOENT."""
    dentry = directory.find(parent.tree, name, engine.pages)
    if dentry is None:
        raise FsError(errno.ENOENT)
    return dentry


def plan_make(
    engine: Engine,
    view: ViewNo,
    parent: Ino,
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    now_ns: int,
    *,
    umask: int = 0,
    rdev: int = 0,
    target: bytes = b"",
) -> Make:
    """Plan a new inode and its first name.

    Args:
        umask: Bits taken off the mode, unless the directory has a default access list. Source: acl(5).

    Raises:
        FsError: EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EINVAL (type or name), EMLINK, EROFS, ESTALE.
    """
    directory_inode = parent_directory(engine, view, parent)
    check_name(name)
    kind = stat.S_IFMT(mode)
    if kind not in _KINDS:
        raise FsError(errno.EINVAL)
    if kind == stat.S_IFLNK and not target:
        raise FsError(errno.ENOENT)
    if len(target) > TARGET_MAX:
        raise FsError(errno.ENAMETOOLONG)
    if directory.find(directory_inode.tree, name, engine.pages) is not None:
        raise FsError(errno.EEXIST)
    if kind == stat.S_IFDIR and directory_inode.nlink >= LINK_MAX:
        raise FsError(errno.EMLINK)
    if umask and acl.DEFAULT not in directory_inode.xattrs:
        mode &= ~umask
    gid = _group_for(directory_inode, gid)
    if kind == stat.S_IFDIR:
        mode |= directory_inode.mode & stat.S_ISGID
    ino = engine.fresh_ino(engine.branches[view])
    return Make(view, parent, ino, now_ns, mode, uid, gid, rdev, name, target)


def _group_for(parent: Inode, gid: int) -> int:
    """The group of what is made in a directory: its own if that is set-group-ID."""
    return parent.gid if parent.mode & stat.S_ISGID else gid


def apply_make(engine: Engine, record: Make, place: Placed) -> Inode:
    """The new inode."""
    branch = engine.branches[record.view]
    lsn = Lsn(place.lsn)
    engine.take_ino(branch, record.ino)
    parent = engine.edit(branch, record.parent, lsn)
    kind = record.mode & 0o170000
    is_dir = kind == stat.S_IFDIR
    inode = Inode(
        record.ino,
        lsn,
        record.mode,
        record.uid,
        record.gid,
        record.now_ns,
        nlink=2 if is_dir else 1,
        rdev=record.rdev,
        parent=record.parent if is_dir else Ino(0),
        target=record.target,
    )
    if parent.xattrs:
        acl.inherit(inode, parent)
    parent.tree = directory.put(parent.tree, Dentry(record.name, record.ino, kind >> 12), engine.pages)
    parent.size += 1
    parent.mtime_ns = parent.ctime_ns = record.now_ns
    if is_dir:
        parent.nlink += 1
    branch.head.add(inode)
    return inode


def plan_make_unnamed(
    engine: Engine, view: ViewNo, parent: Ino, mode: int, uid: int, gid: int, now_ns: int, umask: int = 0
) -> MakeUnnamed:
    """Plan a regular file without a name, as open(2) with O_TMPFILE makes it in a directory; see plan_make.

    Raises:
        FsError: ENOTDIR, ENOENT (the directory is removed), EINVAL (no regular file), EROFS, ESTALE.
    """
    directory_inode = parent_directory(engine, view, parent)
    if stat.S_IFMT(mode) != stat.S_IFREG:
        raise FsError(errno.EINVAL)
    if umask and acl.DEFAULT not in directory_inode.xattrs:
        mode &= ~umask
    ino = engine.fresh_ino(engine.branches[view])
    return MakeUnnamed(view, parent, ino, now_ns, mode, uid, _group_for(directory_inode, gid))


def apply_make_unnamed(engine: Engine, record: MakeUnnamed, place: Placed) -> Inode:
    """The new inode, in the side table until it is linked or forgotten. It does not touch its directory."""
    branch = engine.branches[record.view]
    engine.take_ino(branch, record.ino)
    inode = Inode(
        record.ino,
        Lsn(place.lsn),
        record.mode,
        record.uid,
        record.gid,
        record.now_ns,
        nlink=0,
        parent=record.parent,
    )
    parent = engine.inode(record.view, record.parent)
    if parent.xattrs:
        acl.inherit(inode, parent)
    branch.orphans[record.ino] = inode
    return inode


def plan_link(engine: Engine, view: ViewNo, ino: Ino, parent: Ino, name: bytes, now_ns: int) -> Link:
    """Plan a further name, or the first one of a file made without (a file that lost its last gets no more).

    Raises:
        FsError: EPERM for a directory, EEXIST, EMLINK, ENOENT (unlinked), ...
    """
    directory_inode = parent_directory(engine, view, parent)
    check_name(name)
    inode = engine.inode(view, ino)
    if inode.is_dir():
        raise FsError(errno.EPERM)
    if inode.nlink == 0 and not inode.parent:
        raise FsError(errno.ENOENT)
    if directory.find(directory_inode.tree, name, engine.pages) is not None:
        raise FsError(errno.EEXIST)
    if inode.nlink >= LINK_MAX:
        raise FsError(errno.EMLINK)
    return Link(view, ino, parent, now_ns, name)


def apply_link(engine: Engine, record: Link, place: Placed) -> Inode:
    """The inode with its new name."""
    branch = engine.branches[record.view]
    lsn = Lsn(place.lsn)
    parent = engine.edit(branch, record.parent, lsn)
    inode = engine.edit(branch, record.ino, lsn)
    if inode.nlink == 0:
        # Made without a name: from the side table into the tree.
        del branch.orphans[record.ino]
        inode.parent = Ino(0)
        branch.head.add(inode)
    inode.nlink += 1
    inode.ctime_ns = record.now_ns
    dentry = Dentry(record.name, record.ino, inode.mode >> 12 & 0o17)
    parent.tree = directory.put(parent.tree, dentry, engine.pages)
    parent.size += 1
    parent.mtime_ns = parent.ctime_ns = record.now_ns
    return inode


def plan_unlink(engine: Engine, view: ViewNo, parent: Ino, name: bytes, now_ns: int) -> Unlink:
    """Plan to remove a name. Raises FsError: EISDIR, ENOENT, ENOTDIR, EROFS, ESTALE."""
    directory_inode = parent_directory(engine, view, parent)
    dentry = find_child(engine, directory_inode, name)
    if dentry.kind == stat.S_IFDIR >> 12:
        raise FsError(errno.EISDIR)
    engine.inode(view, dentry.ino)
    return Unlink(view, parent, now_ns, name)


def apply_unlink(engine: Engine, record: Unlink, place: Placed) -> Ino:
    """The number of the inode that lost a name."""
    branch = engine.branches[record.view]
    lsn = Lsn(place.lsn)
    parent = engine.edit(branch, record.parent, lsn)
    parent.tree, dentry = directory.take(parent.tree, record.name, engine.pages)
    assert dentry is not None
    parent.size -= 1
    parent.mtime_ns = parent.ctime_ns = record.now_ns
    drop_link(engine, branch, dentry.ino, record.now_ns, lsn)
    return dentry.ino


def drop_link(engine: Engine, branch: Branch, ino: Ino, now_ns: int, lsn: Lsn) -> None:
    """One name of a file is gone; with the last one the inode becomes an orphan."""
    inode = engine.edit(branch, ino, lsn)
    inode.nlink -= 1
    inode.ctime_ns = now_ns
    if inode.nlink == 0:
        branch.head.drop(inode)
        branch.orphans[ino] = inode


def plan_remove_directory(engine: Engine, view: ViewNo, parent: Ino, name: bytes, now_ns: int) -> RemoveDirectory:
    """Plan to remove an empty directory. Raises FsError: ENOTEMPTY, ENOTDIR, ENOENT, EROFS, ESTALE."""
    directory_inode = parent_directory(engine, view, parent)
    dentry = find_child(engine, directory_inode, name)
    if dentry.kind != stat.S_IFDIR >> 12:
        raise FsError(errno.ENOTDIR)
    if engine.inode(view, dentry.ino).size:
        raise FsError(errno.ENOTEMPTY)
    return RemoveDirectory(view, parent, now_ns, name)


def apply_remove_directory(engine: Engine, record: RemoveDirectory, place: Placed) -> Ino:
    """The number of the directory that is gone."""
    branch = engine.branches[record.view]
    lsn = Lsn(place.lsn)
    parent = engine.edit(branch, record.parent, lsn)
    parent.tree, dentry = directory.take(parent.tree, record.name, engine.pages)
    assert dentry is not None
    parent.size -= 1
    parent.nlink -= 1
    parent.mtime_ns = parent.ctime_ns = record.now_ns
    drop_directory(engine, branch, dentry.ino, record.now_ns, lsn)
    return dentry.ino


def drop_directory(engine: Engine, branch: Branch, ino: Ino, now_ns: int, lsn: Lsn) -> None:
    """An empty directory has lost its name."""
    inode = engine.edit(branch, ino, lsn)
    inode.nlink = 0
    inode.ctime_ns = now_ns
    branch.head.drop(inode)
    branch.orphans[ino] = inode
