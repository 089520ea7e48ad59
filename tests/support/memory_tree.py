"""A filesystem in plain dictionaries with the surface of the real one: transports are tested and measured over it.

It knows one writable view (VIEW), one frozen view (FROZEN) and no log, no versions but `swap`: the whole tree is
replaced by another one and the changes are returned, as a restore does.
"""

from __future__ import annotations

import copy
import errno
import itertools
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import INO_BITS, INO_MASK, Ino, NodeId, ViewNo, node_id
from heliosfs.filesystem.types import AfterReply, Caller, Change, Entry, Invalidator, SetAttr, StatFs

VIEW = ViewNo(3)
FROZEN = ViewNo(4)
ROOT = node_id(VIEW, Ino(1))
FROZEN_ROOT = node_id(FROZEN, Ino(1))


@dataclass(slots=True)
class Node:
    """An inode."""

    ino: int
    mode: int
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    rdev: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    parent: int = 0
    data: bytearray = field(default_factory=bytearray)
    names: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.data) if not self.names else len(self.names)

    @property
    def blocks(self) -> int:
        return (len(self.data) + 511) // 512


class MemoryFilesystem:
    """What transports call. Times are a counter, cookies the order of creation, so that runs are alike."""

    def __init__(self) -> None:
        self.invalidators: list[Invalidator] = []
        self.mounted_views: set[ViewNo] = set()
        self.synced: list[NodeId] = []
        self.forgotten: list[NodeId] = []
        self.failures: dict[str, Exception] = {}
        self.counts: dict[str, int] = {}
        self._numbers = itertools.count(2)
        self._clock = itertools.count(1_700_000_000_000_000_000, 1_000_000)
        root = Node(1, stat.S_IFDIR | 0o755, nlink=2, parent=1)
        self._trees: dict[int, dict[int, Node]] = {VIEW: {1: root}, FROZEN: {1: copy.deepcopy(root)}}

    # --- for tests -----------------------------------------------------------------------------------

    def freeze(self) -> None:
        """FROZEN becomes a copy of VIEW."""
        self._trees[FROZEN] = copy.deepcopy(self._trees[VIEW])

    def swap(self) -> list[Change]:
        """VIEW becomes a copy of FROZEN; what differs is returned."""
        old, new = self._trees[VIEW], copy.deepcopy(self._trees[FROZEN])
        self._trees[VIEW] = new
        changes = []
        for ino in old.keys() | new.keys():
            before, after = old.get(ino), new.get(ino)
            if before == after:
                continue
            if before is None or after is None:
                changes.append(Change(VIEW, Ino(ino), True, (), gone=after is None))
                continue
            names = {n for n, i in before.names.items() ^ after.names.items()}
            changes.append(Change(VIEW, Ino(ino), before.data != after.data, tuple(sorted(names))))
        return changes

    async def publish(self, changes: Sequence[Change]) -> None:
        for invalidator in self.invalidators:
            await invalidator.invalidate(changes)

    async def publish_around(self, changes: Sequence[Change], later: AfterReply) -> None:
        for invalidator in self.invalidators:
            later(await invalidator.begin(changes))

    def _count(self, verb: str) -> None:
        self.counts[verb] = self.counts.get(verb, 0) + 1
        if verb in self.failures:
            raise self.failures[verb]

    # --- looking -------------------------------------------------------------------------------------

    def _node(self, node: int) -> Node:
        found = self._trees.get(node >> INO_BITS, {}).get(node & INO_MASK)
        if found is None:
            raise StaleHandle
        return found

    def _directory(self, node: int, *, write: bool = False) -> Node:
        found = self._node(node)
        if not stat.S_ISDIR(found.mode):
            raise FsError(errno.ENOTDIR)
        if write and node >> INO_BITS == FROZEN:
            raise FsError(errno.EROFS)
        return found

    def _entry(self, like: int, ino: int) -> Entry:
        node = NodeId(like >> INO_BITS << INO_BITS | ino)
        return Entry(node, self._node(node))

    def is_snapshot(self, view: int) -> bool:
        return view == FROZEN

    def is_branch(self, view: int) -> bool:
        return view == VIEW

    def branch_root(self, view: ViewNo) -> Entry:
        return self._entry(node_id(view, Ino(1)), 1)

    async def lookup(self, parent: NodeId, name: bytes) -> Entry:
        self._count("lookup")
        ino = self._directory(parent).names.get(name)
        if ino is None:
            raise FsError(errno.ENAMETOOLONG if len(name) > 255 else errno.ENOENT)
        return self._entry(parent, ino)

    async def getattr(self, node: NodeId) -> Node:
        self._count("getattr")
        return self._node(node)

    async def readlink(self, node: NodeId) -> bytes:
        return bytes(self._node(node).data)

    async def readdir(self, node: NodeId, cookie: int, limit: int) -> list[tuple[bytes, Entry, int]]:
        self._count("readdir")
        found = sorted((ino + 2, name) for name, ino in self._directory(node).names.items())
        rest = [(key, name) for key, name in found if key > cookie]
        while limit < len(rest) and rest[limit][0] == rest[limit - 1][0]:
            limit += 1
        return [(name, self._entry(node, key - 2), key) for key, name in rest[:limit]]

    # --- names ---------------------------------------------------------------------------------------

    def _changed(self, *nodes: Node) -> None:
        now = next(self._clock)
        for node in nodes:
            node.mtime_ns = node.ctime_ns = now

    async def make(
        self,
        parent: NodeId,
        name: bytes,
        mode: int,
        caller: Caller,
        *,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> Entry:
        self._count("make")
        above = self._directory(parent, write=True)
        if name in above.names:
            raise FsError(errno.EEXIST)
        ino = next(self._numbers)
        new = Node(ino, mode, caller.uid, caller.gid, rdev=rdev, data=bytearray(target or b""))
        if stat.S_ISDIR(mode):
            new.nlink, new.parent = 2, above.ino
            above.nlink += 1
        self._trees[parent >> INO_BITS][ino] = new
        above.names[name] = ino
        self._changed(above, new)
        new.atime_ns = new.mtime_ns
        return self._entry(parent, ino)

    async def link(self, node: NodeId, new_parent: NodeId, new_name: bytes, caller: Caller) -> Entry:
        above = self._directory(new_parent, write=True)
        if node >> INO_BITS != new_parent >> INO_BITS:
            raise FsError(errno.EXDEV)
        inode = self._node(node)
        inode.nlink += 1
        above.names[new_name] = inode.ino
        self._changed(above)
        return self._entry(new_parent, inode.ino)

    async def unlink(self, parent: NodeId, name: bytes, caller: Caller) -> None:
        self._remove(parent, name)

    async def rmdir(self, parent: NodeId, name: bytes, caller: Caller) -> None:
        above = self._directory(parent, write=True)
        if name in above.names and self._entry(parent, above.names[name]).attr.size:
            raise FsError(errno.ENOTEMPTY)
        self._remove(parent, name)
        above.nlink -= 1

    def _remove(self, parent: NodeId, name: bytes) -> None:
        above = self._directory(parent, write=True)
        ino = above.names.pop(name, None)
        if ino is None:
            raise FsError(errno.ENOENT)
        self._node(parent >> INO_BITS << INO_BITS | ino).nlink -= 1
        self._changed(above)

    async def rename(
        self, parent: NodeId, name: bytes, new_parent: NodeId, new_name: bytes, flags: int, caller: Caller
    ) -> None:
        above, below = self._directory(parent, write=True), self._directory(new_parent, write=True)
        if flags & 1 and new_name in below.names:
            raise FsError(errno.EEXIST)
        if flags & 2:
            above.names[name], below.names[new_name] = below.names[new_name], above.names[name]
        else:
            below.names[new_name] = above.names.pop(name)
        self._changed(above, below)

    def forget_all(self) -> None:
        """No kernel knows anything any more."""

    def forget(self, node: NodeId) -> None:
        self.forgotten.append(node)

    # --- attributes ----------------------------------------------------------------------------------

    async def setattr(self, node: NodeId, wanted: SetAttr, caller: Caller) -> Node:
        inode = self._node(node)
        if node >> INO_BITS == FROZEN:
            raise FsError(errno.EROFS)
        now = next(self._clock)
        inode.ctime_ns = now
        if wanted.mode is not None:
            inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(wanted.mode)
        inode.uid = inode.uid if wanted.uid is None else wanted.uid
        inode.gid = inode.gid if wanted.gid is None else wanted.gid
        if wanted.size is not None:
            size = wanted.size
            inode.data = inode.data[:size] + bytes(max(0, size - len(inode.data)))
            inode.mtime_ns = now
        inode.atime_ns = inode.atime_ns if wanted.atime_ns is None else wanted.atime_ns
        inode.mtime_ns = inode.mtime_ns if wanted.mtime_ns is None else wanted.mtime_ns
        return inode

    async def getxattr(self, node: NodeId, name: bytes) -> bytes:
        self._count("getxattr")
        value = self._node(node).xattrs.get(name)
        if value is None:
            raise FsError(errno.ENODATA)
        return value

    async def setxattr(self, node: NodeId, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        self._node(node).xattrs[name] = value

    async def listxattr(self, node: NodeId, *, trusted: bool = True) -> list[bytes]:
        names = sorted(self._node(node).xattrs)
        return [name for name in names if trusted or not name.startswith(b"trusted.")]

    async def removexattr(self, node: NodeId, name: bytes, caller: Caller) -> None:
        if self._node(node).xattrs.pop(name, None) is None:
            raise FsError(errno.ENODATA)

    # --- content -------------------------------------------------------------------------------------

    async def read(self, node: NodeId, offset: int, size: int) -> bytes:
        self._count("read")
        return bytes(self._node(node).data[offset : offset + size])

    async def write(self, node: NodeId, offset: int, content: bytes, caller: Caller) -> int:
        self._count("write")
        inode = self._node(node)
        if node >> INO_BITS == FROZEN:
            raise FsError(errno.EROFS)
        data = inode.data
        if offset > len(data):
            data.extend(bytes(offset - len(data)))
        data[offset : offset + len(content)] = content
        self._changed(inode)
        return len(content)

    async def fsync(self, node: NodeId) -> None:
        self.synced.append(node)

    async def statfs(self) -> StatFs:
        return StatFs(4096, 4096, 1000, 500, 400, 300, 200, 100, 255)
