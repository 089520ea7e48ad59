"""POSIX access control lists as xattrs: what a new inode inherits, and how mode and list keep in step.

The lists are stored in the kernel's own xattr form (version 2: u32 version, then entries of u16 tag,
u16 permissions, u32 id). Source: acl(5). Enforcement is the kernel's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from heliosfs.core.inode import Inode

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"
LISTS: Final = (ACCESS, DEFAULT)
_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20
_HEADER: Final = struct.pack("<I", 2)
_ENTRY: Final = struct.Struct("<HHI")


def entries(value: bytes) -> Iterator[tuple[int, int, int]]:
    """(tag, permissions, id) of each entry; nothing for a value of another form."""
    if value[:4] == _HEADER and len(value) % _ENTRY.size == 4:
        yield from _ENTRY.iter_unpack(value[4:])


def with_mode(value: bytes, mode: int) -> bytes:
    """The list after a chmod: owner and other follow, and the mask, or the group where there is no mask."""
    found = list(entries(value))
    group = _MASK if any(tag == _MASK for tag, _, _ in found) else _GROUP_OBJ
    bits = {_USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, _OTHER: mode & 7}
    return _HEADER + b"".join(_ENTRY.pack(tag, bits.get(tag, perm), id_) for tag, perm, id_ in found)


def mode_of(value: bytes, mode: int) -> int:
    """The permission bits that a list stands for, in a mode with the other bits of `mode`."""
    bits = {tag: perm for tag, perm, _ in entries(value)}
    group = bits.get(_MASK, bits.get(_GROUP_OBJ, 0))
    return mode & ~0o777 | bits.get(_USER_OBJ, 0) << 6 | group << 3 | bits.get(_OTHER, 0)


def inherit(inode: Inode, parent: Inode) -> None:
    """Give a new inode its parent's default list. The kernel has applied the umask already."""
    default = parent.xattrs.get(DEFAULT)
    if default is None or inode.mode & 0o170000 == 0o120000:
        return
    wanted = {tag: perm for tag, perm, _ in entries(default)}
    group = _MASK if _MASK in wanted else _GROUP_OBJ
    limit = {_USER_OBJ: inode.mode >> 6 & 7, group: inode.mode >> 3 & 7, _OTHER: inode.mode & 7}
    access = _HEADER + b"".join(
        _ENTRY.pack(tag, perm & limit.get(tag, 7), id_) for tag, perm, id_ in entries(default)
    )
    inode.mode = mode_of(access, inode.mode)
    xattrs = {}
    if len(wanted) > 3 or _MASK in wanted:
        xattrs[ACCESS] = access
    if inode.is_dir():
        xattrs[DEFAULT] = default
    inode.xattrs = xattrs
