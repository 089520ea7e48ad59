"""Pages: how nodes of the three trees are stored. Canonical, so equal nodes have equal ids.

docs/format/pages.md is the reference. A page is `kind u8, version u8, count u16` and its items. Must not
know: where pages are kept.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from blake3 import blake3

from cas.digest import ID_BYTES, ChunkId
from heliosfs.core.directory import Dentry
from heliosfs.core.errors import Damaged
from heliosfs.core.extent import ChunkRef, Extent
from heliosfs.core.ids import Ino, Lsn, PageId
from heliosfs.core.inode import NO_XATTRS, Inode
from heliosfs.core.radix import FANOUT_BITS, Branch, Leaf, Node, Tree

VERSION: Final = 0
BRANCH: Final = ord("B")
INODES: Final = ord("I")
DENTRIES: Final = ord("D")
EXTENTS: Final = ord("E")
INLINE_MAX: Final = 512
"""A root leaf of at most so many bytes is part of its inode's record instead of a page of its own."""

_HEAD: Final = struct.Struct("<BBH")
_BRANCH: Final = struct.Struct("<BQQH")
_INODE: Final = struct.Struct("<QIIIIQqqqqIQQBHII")
_DENTRY: Final = struct.Struct("<QQBB")
_EXTENT: Final = struct.Struct("<QI32s")
_XATTR: Final = struct.Struct("<HI")
_TREE_NONE, _TREE_PAGE, _TREE_INLINE, _HAS_ATIME = 0, 1, 2, 4


def page_id(encoded: bytes) -> PageId:
    """The name of a page: BLAKE3 of its encoding."""
    return PageId(blake3(encoded).digest())


def encode(node: Node) -> bytes:
    """The page of a node, whose kids and trees are stored already (page ids or inline leaves)."""
    if type(node) is Branch:
        present = 0
        for index, kid in enumerate(node.kids):
            if kid is not None:
                present |= 1 << index
        ids = b"".join(_id_of(kid) for kid in node.kids if kid is not None)
        return (
            _HEAD.pack(BRANCH, VERSION, present.bit_count())
            + _BRANCH.pack(node.shift, node.prefix, node.count, present)
            + ids
        )
    assert type(node) is Leaf
    first = node.values[0]
    if type(first) is Inode:
        return _HEAD.pack(INODES, VERSION, len(node.keys)) + b"".join(map(_encode_inode, node.values))
    if type(first) is Extent:
        return _HEAD.pack(EXTENTS, VERSION, len(node.keys)) + b"".join(
            [
                _EXTENT.pack(key, extent.length, extent.source.id)
                for key, extent in zip(node.keys, node.values, strict=True)
            ]
        )
    parts: list[bytes] = []
    for key, bucket in zip(node.keys, node.values, strict=True):
        for name, ino, kind in bucket:
            parts.append(_DENTRY.pack(key, ino, kind, len(name)))
            parts.append(name)
    return _HEAD.pack(DENTRIES, VERSION, len(parts) // 2) + b"".join(parts)


def _id_of(tree: Tree) -> bytes:
    if type(tree) is bytes:
        return tree
    assert tree is not None and not isinstance(tree, bytes) and tree.stored is not None
    return tree.stored


def _encode_inode(inode: Inode) -> bytes:
    tree = inode.tree
    flags = _TREE_NONE
    blob = b""
    if tree is not None:
        stored = tree if type(tree) is bytes else tree.stored  # type: ignore[union-attr]
        if stored is not None:
            flags, blob = _TREE_PAGE, stored
        else:
            assert type(tree) is Leaf
            flags, blob = _TREE_INLINE, encode(tree)
    atime = inode.atime_set_ns
    if atime is not None:
        flags |= _HAS_ATIME
    xattrs = b"".join(
        [_XATTR.pack(len(name), len(value)) + name + value for name, value in sorted(inode.xattrs.items())]
    )
    fixed = _INODE.pack(
        inode.ino,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.nlink,
        inode.size,
        inode.mtime_ns,
        inode.ctime_ns,
        inode.btime_ns,
        atime or 0,
        inode.rdev,
        inode.parent,
        inode.allocated,
        flags,
        len(inode.target),
        len(xattrs),
        len(blob),
    )
    return b"".join((fixed, inode.target, xattrs, blob))


def decode(encoded: bytes) -> Node:
    """The node of a page. Raises Damaged (EIO) for bytes that are no page of this version."""
    try:
        kind, version, count = _HEAD.unpack_from(encoded)
        reader = _READERS.get(kind)
        if version != VERSION or reader is None:
            raise Damaged(page_id(encoded).hex(), f"page of unknown kind {kind} or version {version}")
        node = reader(encoded, count)
        if type(node) is Leaf:
            keys = node.keys
            # Empty or out of order, searches in it would find what is not there.
            if not keys or keys != sorted(set(keys)):
                raise ValueError("order")
        return node
    except (struct.error, IndexError, ValueError) as error:
        raise Damaged(page_id(encoded).hex(), f"malformed page: {error}") from error


def _decode_branch(encoded: bytes, count: int) -> Node:
    shift, prefix, total, present = _BRANCH.unpack_from(encoded, _HEAD.size)
    at = _HEAD.size + _BRANCH.size
    if len(encoded) != at + 32 * count or present.bit_count() != count:
        raise ValueError("length")
    if shift % FANOUT_BITS or shift >= 64:
        raise ValueError("shift")
    kids: list[Tree] = [None] * 16
    for index in range(16):
        if present >> index & 1:
            kids[index] = PageId(encoded[at : at + 32])
            at += 32
    return Branch(shift, prefix, total, kids)


def _decode_dentries(encoded: bytes, count: int) -> Node:
    keys: list[int] = []
    buckets: list[Any] = []
    at = _HEAD.size
    last = -1
    size = _DENTRY.size
    for _ in range(count):
        key, ino, kind, length = _DENTRY.unpack_from(encoded, at)
        at += size + length
        dentry = Dentry(encoded[at - length : at], ino, kind)
        if len(dentry.name) != length:
            raise ValueError("length")
        if key == last:
            buckets[-1] = (*buckets[-1], dentry)
        else:
            keys.append(key)
            buckets.append((dentry,))
            last = key
    if at != len(encoded):
        raise ValueError("length")
    return Leaf(keys, buckets)


def _decode_extents(encoded: bytes, count: int) -> Node:
    if len(encoded) != _HEAD.size + count * _EXTENT.size:
        raise ValueError("length")
    keys: list[int] = []
    extents: list[Any] = []
    for key, length, id_ in _EXTENT.iter_unpack(encoded[_HEAD.size :]):
        keys.append(key)
        extents.append(Extent(length, ChunkRef(ChunkId(id_), length), 0))
    return Leaf(keys, extents)


def _decode_inodes(encoded: bytes, count: int) -> Node:
    keys: list[int] = []
    inodes: list[Any] = []
    at = _HEAD.size
    for _ in range(count):
        inode, at = _decode_inode(encoded, at)
        keys.append(inode.ino)
        inodes.append(inode)
    if at != len(encoded):
        raise ValueError("length")
    return Leaf(keys, inodes)


def _decode_inode(encoded: bytes, at: int) -> tuple[Inode, int]:
    inode: Inode = object.__new__(Inode)
    (
        ino,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.nlink,
        inode.size,
        inode.mtime_ns,
        inode.ctime_ns,
        inode.btime_ns,
        atime,
        inode.rdev,
        parent,
        inode.allocated,
        flags,
        target_length,
        xattrs_length,
        blob_length,
    ) = _INODE.unpack_from(encoded, at)
    inode.ino = Ino(ino)
    inode.parent = Ino(parent)
    inode.born = Lsn(0)
    inode.atime_set_ns = atime if flags & _HAS_ATIME else None
    at += _INODE.size
    inode.target = encoded[at : at + target_length]
    at += target_length
    inode.xattrs = _decode_xattrs(encoded[at : at + xattrs_length]) if xattrs_length else NO_XATTRS
    at += xattrs_length
    blob = encoded[at : at + blob_length]
    if len(blob) != blob_length:
        raise ValueError("length")
    at += blob_length
    if flags & _TREE_PAGE:
        if blob_length != ID_BYTES:
            raise ValueError("length")
        inode.tree = PageId(blob)
    elif flags & _TREE_INLINE:
        # Never inodes, which could have trees of their own: bytes from a disk do not decide how deep we recurse.
        if not 0 < blob_length <= INLINE_MAX or blob[0] not in _INLINE_KINDS:
            raise ValueError("inline")
        inode.tree = decode(blob)
    else:
        inode.tree = None
    return inode, at


def _decode_xattrs(blob: bytes) -> dict[bytes, bytes]:
    xattrs: dict[bytes, bytes] = {}
    at = 0
    while at < len(blob):
        name_length, value_length = _XATTR.unpack_from(blob, at)
        at += _XATTR.size
        name = blob[at : at + name_length]
        at += name_length
        xattrs[name] = blob[at : at + value_length]
        at += value_length
    if at != len(blob):
        raise ValueError("length")
    return xattrs


_INLINE_KINDS: Final = frozenset((DENTRIES, EXTENTS))

_READERS: Final[dict[int, Callable[[bytes, int], Node]]] = {
    BRANCH: _decode_branch,
    INODES: _decode_inodes,
    DENTRIES: _decode_dentries,
    EXTENTS: _decode_extents,
}
