"""Attributes and extended attributes. Rules of chmod(2), chown(2), truncate(2), utimensat(2), setxattr(2)."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from heliosfs.core import acl, extent, oplog
from heliosfs.core.errors import FsError
from heliosfs.core.ids import Ino, Lsn, ViewNo
from heliosfs.core.inode import MAX_SIZE, Inode
from heliosfs.core.oplog import RemoveXattr, SetAttributes, SetXattr

if TYPE_CHECKING:
    from heliosfs.core.engine import Engine, Placed

XATTR_NAME_MAX: Final = 255
XATTR_VALUE_MAX: Final = 65536
XATTR_TOTAL_MAX: Final = 1 << 17
"""Bytes of names and values of one inode: 64 neighbours must fit a page's frame (16 MiB)."""
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
HIDDEN_XATTRS: Final = b"helios."
"""What begins so is kept in the record but is in no namespace of the kernel: never listed, never copied."""
CAPABILITY: Final = b"security.capability"
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_NAME_SPACES: Final = (b"user.", b"trusted.", b"security.")
KILL_SET_ID: Final = 1
"""The caller has no CAP_FSETID: the file's set-id bits go, see `without_set_id`."""
KILL_SET_ID_OF_A_GROUP: Final = 2
"""The same, and he is not in the file's group."""
_TIME_MAX_NS: Final = (1 << 63) - 1
"""Times are kept in 64 bits: from 1677 to 2262."""


class SetAttr(NamedTuple):
    """What a caller wants changed; None leaves a field as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    kill_set_id: int = 0
    """0, or KILL_SET_ID, KILL_SET_ID_OF_A_GROUP: the caller may not keep the file's set-id bits."""


def plan_set_attributes(engine: Engine, view: ViewNo, ino: Ino, wanted: SetAttr, now_ns: int) -> SetAttributes:
    """Plan a change of attributes.

    Raises:
        FsError: EROFS, ESTALE; EISDIR or EINVAL to truncate what is no regular file; EFBIG.
    """
    engine.writable(view)
    inode = engine.inode(view, ino)
    mask = 0
    mode = wanted.mode
    if mode is None and wanted.kill_set_id and inode.is_file() and inode.mode & _SET_ID:
        mode = without_set_id(inode.mode, member=wanted.kill_set_id != KILL_SET_ID_OF_A_GROUP)
    if mode is not None:
        mask |= oplog.SET_MODE
    if wanted.uid is not None:
        mask |= oplog.SET_UID
    if wanted.gid is not None:
        mask |= oplog.SET_GID
    if wanted.size is not None:
        if not inode.is_file():
            raise FsError(errno.EISDIR if inode.is_dir() else errno.EINVAL)
        if not 0 <= wanted.size <= MAX_SIZE:
            raise FsError(errno.EFBIG)
        if inode.tree is not None and wanted.size < inode.size:
            extent.punch(inode.tree, wanted.size, inode.size, engine.pages)
        mask |= oplog.SET_SIZE
    if wanted.atime_ns is not None:
        mask |= oplog.SET_ATIME
    if wanted.mtime_ns is not None:
        mask |= oplog.SET_MTIME
    return SetAttributes(
        view,
        ino,
        now_ns,
        mask,
        mode or 0,
        wanted.uid or 0,
        wanted.gid or 0,
        wanted.size or 0,
        _kept_time(wanted.atime_ns) if wanted.atime_ns else 0,
        _kept_time(wanted.mtime_ns) if wanted.mtime_ns else 0,
    )


def _kept_time(time_ns: int) -> int:
    """The nearest time that can be kept, as local filesystems do it. Source: utimensat(2)."""
    return max(-_TIME_MAX_NS, min(time_ns, _TIME_MAX_NS))


def apply_set_attributes(engine: Engine, record: SetAttributes, place: Placed) -> Inode:
    """The inode after the change."""
    branch = engine.branches[record.view]
    inode = engine.edit(branch, record.ino, Lsn(place.lsn))
    mask = record.mask
    if mask & (oplog.SET_UID | oplog.SET_GID):
        if mask & oplog.SET_UID:
            inode.uid = record.uid
        if mask & oplog.SET_GID:
            inode.gid = record.gid
        if not inode.is_dir():
            clear_privileges(inode)
        if inode.ino == 1:
            branch.uid, branch.gid = inode.uid, inode.gid
    if mask & oplog.SET_MODE:
        inode.mode = inode.mode & 0o170000 | record.mode & 0o7777
        if inode.xattrs and acl.ACCESS in inode.xattrs:
            access = acl.with_mode(inode.xattrs[acl.ACCESS], inode.mode)
            inode.xattrs = {**inode.xattrs, acl.ACCESS: access}
    if mask & oplog.SET_SIZE:
        size = record.size
        if size < inode.size and inode.tree is not None:
            inode.tree, freed = extent.punch(inode.tree, size, inode.size, engine.pages)
            inode.allocated -= freed
        if inode.nlink:
            branch.head.size_bytes += size - inode.size
        inode.size = size
        inode.mtime_ns = record.now_ns
        drop_capability(inode)
    if mask & oplog.SET_ATIME:
        inode.atime_set_ns = record.atime_ns
    if mask & oplog.SET_MTIME:
        inode.mtime_ns = record.mtime_ns
    inode.ctime_ns = record.now_ns
    return inode


def without_set_id(mode: int, *, member: bool = True) -> int:
    """A file's mode after a write or a truncation by somebody without CAP_FSETID. Source: write(2), inode(7).

    Args:
        member: He is in the file's group: set-group-ID without group execute, which lets nobody run as the
            group, then stays.
    """
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP or not member else mode


def drop_capability(inode: Inode) -> None:
    """A file's capabilities do not outlive a change of its content, whoever makes it. Source: capabilities(7)."""
    if inode.xattrs and CAPABILITY in inode.xattrs:
        inode.xattrs = {name: value for name, value in inode.xattrs.items() if name != CAPABILITY}


def clear_privileges(inode: Inode) -> None:
    """Set-id bits and file capabilities do not outlive a change of owner. Source: chown(2)."""
    if inode.mode & _SET_ID:
        inode.mode = without_set_id(inode.mode)
    drop_capability(inode)


def check_xattr_name(name: bytes) -> None:
    """The kernel passes on names that every local filesystem refuses.

    Raises:
        FsError: EOPNOTSUPP: no such name space; EINVAL: nothing behind its dot.
    """
    if name in _NAME_SPACES:
        raise FsError(errno.EINVAL)
    if not name.startswith(_NAME_SPACES) and name not in acl.LISTS:
        raise FsError(errno.EOPNOTSUPP)


def plan_set_xattr(
    engine: Engine, view: ViewNo, ino: Ino, name: bytes, value: bytes, flags: int, now_ns: int
) -> SetXattr:
    """Plan to set an extended attribute.

    Raises:
        FsError: ERANGE, EOPNOTSUPP, EINVAL (name), E2BIG (value), ENOSPC (128 KiB in all), EEXIST, ENODATA,
            EROFS, ESTALE.
    """
    engine.writable(view)
    inode = engine.inode(view, ino)
    if not 0 < len(name) <= XATTR_NAME_MAX:
        raise FsError(errno.ERANGE)
    check_xattr_name(name)
    if len(value) > XATTR_VALUE_MAX:
        raise FsError(errno.E2BIG)
    present = name in inode.xattrs
    if flags & XATTR_CREATE and present:
        raise FsError(errno.EEXIST)
    if flags & XATTR_REPLACE and not present:
        raise FsError(errno.ENODATA)
    total = sum(len(n) + len(v) for n, v in inode.xattrs.items() if n != name)
    if total + len(name) + len(value) > XATTR_TOTAL_MAX:
        raise FsError(errno.ENOSPC)
    return SetXattr(view, ino, now_ns, name, value)


def apply_set_xattr(engine: Engine, record: SetXattr, place: Placed) -> Inode:
    """The inode with the attribute."""
    inode = engine.edit(engine.branches[record.view], record.ino, Lsn(place.lsn))
    inode.ctime_ns = record.now_ns
    if record.name == acl.ACCESS:
        inode.mode = acl.mode_of(record.value, inode.mode)
        if len(list(acl.entries(record.value))) <= 3:
            inode.xattrs = {name: value for name, value in inode.xattrs.items() if name != acl.ACCESS}
            return inode
    inode.xattrs = {**inode.xattrs, record.name: record.value}
    return inode


def plan_remove_xattr(engine: Engine, view: ViewNo, ino: Ino, name: bytes, now_ns: int) -> RemoveXattr:
    """Plan to remove an extended attribute. Raises FsError: ENODATA, EOPNOTSUPP, EINVAL, EROFS, ESTALE."""
    engine.writable(view)
    check_xattr_name(name)
    if name not in engine.inode(view, ino).xattrs:
        raise FsError(errno.ENODATA)
    return RemoveXattr(view, ino, now_ns, name)


def apply_remove_xattr(engine: Engine, record: RemoveXattr, place: Placed) -> Inode:
    """The inode without the attribute."""
    inode = engine.edit(engine.branches[record.view], record.ino, Lsn(place.lsn))
    inode.xattrs = {name: value for name, value in inode.xattrs.items() if name != record.name}
    inode.ctime_ns = record.now_ns
    return inode
