"""A control tree of one file, `.helios/ctl`, for tests of transports: a write of `swap` restores the frozen tree.

Written text comes back with the opener's uid in front. `user.helios.swap` on a directory does the same as an
attribute, and publishes after the reply. `snapshots/frozen` is the frozen view's root.
"""

from __future__ import annotations

import errno
import itertools
import stat
from collections.abc import Awaitable, Callable

from heliosfs.core.errors import FsError
from heliosfs.core.ids import CONTROL_VIEW, FIRST_CONTROL_INO, INO_MASK, Ino, NodeId, node_id
from heliosfs.filesystem.types import Caller, Entry, SetAttr
from tests.support.memory_tree import FROZEN, ROOT, VIEW, MemoryFilesystem, Node

HELIOS = node_id(VIEW, FIRST_CONTROL_INO)
SNAPSHOTS = node_id(VIEW, Ino(FIRST_CONTROL_INO + 1))
_NAMES = (b"ctl", b"snapshots", b"frozen")


class ControlNode(Node):
    """A node that says which inode number stat shows."""

    __slots__ = ("st_ino_constant",)

    def __init__(self, mode: int, shown: int, data: bytes = b"") -> None:
        super().__init__(0, mode, data=bytearray(data))
        self.st_ino_constant = shown


class MemoryControl:
    """What a transport calls."""

    def __init__(self, fs: MemoryFilesystem, after_reply: Callable[[Callable[[], Awaitable[None]]], None]):
        self._fs = fs
        self._after_reply = after_reply
        self._tickets: dict[int, bytes] = {}
        self._numbers = itertools.count(2)
        self.touches = 0
        self.visible = False

    def owns(self, node: NodeId) -> bool:
        return node <= INO_MASK or node & INO_MASK >= FIRST_CONTROL_INO

    def names_root(self, parent: NodeId, name: bytes) -> bool:
        return parent == ROOT and name == b".helios"

    def listed_in(self, node: NodeId) -> tuple[bytes, Entry] | None:
        return (b".helios", self._entry(HELIOS)) if self.visible and node == ROOT else None

    def _entry(self, node: NodeId) -> Entry:
        return Entry(node, self._attr(node), 0, False)

    def _attr(self, node: NodeId) -> ControlNode:
        if node in (HELIOS, SNAPSHOTS):
            return ControlNode(stat.S_IFDIR | 0o700, node)
        data = self._tickets[node]
        return ControlNode(stat.S_IFREG | 0o600, FIRST_CONTROL_INO + 16, data)

    def _ticket(self) -> Entry:
        node = node_id(CONTROL_VIEW, Ino(next(self._numbers)))
        self._tickets[node] = b"tickets=%d touches=%d\n" % (len(self._tickets), self.touches)
        return self._entry(node)

    async def lookup(self, parent: NodeId, name: bytes, caller: Caller) -> Entry:
        return self.try_lookup(parent, name, caller)

    def try_lookup(self, parent: NodeId, name: bytes, caller: Caller) -> Entry:
        if parent == ROOT:
            return self._entry(HELIOS)
        if parent == HELIOS and name == b"snapshots":
            return self._entry(SNAPSHOTS)
        if parent == SNAPSHOTS and name == b"frozen":
            root = self._fs.branch_root(FROZEN)
            return Entry(root.node, root.attr, 0, False)
        if parent == HELIOS and name == b"ctl":
            return self._ticket()
        raise FsError(errno.ENOENT)

    async def getattr(self, node: NodeId, caller: Caller) -> ControlNode:
        return self._attr(node)

    def try_getattr(self, node: NodeId) -> ControlNode:
        return self._attr(node)

    async def setattr(self, node: NodeId, wanted: SetAttr, touched: bool, caller: Caller) -> ControlNode:
        self.touches += touched
        return self._attr(node)

    async def readdir(
        self, node: NodeId, cookie: int, limit: int, caller: Caller
    ) -> list[tuple[bytes, Entry, int]]:
        names = [b"ctl", b"snapshots"] if node == HELIOS else [b"frozen"]
        return [(name, self._ticket(), at) for at, name in enumerate(names, 1) if at > cookie]

    async def open(self, node: NodeId, flags: int, caller: Caller) -> None:
        pass

    async def read(self, node: NodeId, offset: int, size: int) -> bytes:
        return self._tickets[node][offset : offset + size]

    async def write(self, node: NodeId, offset: int, data: bytes, caller: Caller) -> int:
        if data.strip() == b"swap":
            await self._fs.publish(self._fs.swap())
        elif data.strip() == b"fail":
            raise FsError(errno.EEXIST)
        self._tickets[node] = b"%d: %s" % (caller.uid, data)
        return len(data)

    async def readlink(self, node: NodeId) -> bytes:
        raise FsError(errno.EINVAL)

    async def make(
        self, parent: NodeId, name: bytes, mode: int, caller: Caller, *, target: bytes | None = None
    ) -> Entry:
        raise FsError(errno.EPERM)

    async def unlink(self, parent: NodeId, name: bytes, caller: Caller) -> None:
        raise FsError(errno.EPERM)

    async def rmdir(self, parent: NodeId, name: bytes, caller: Caller) -> None:
        raise FsError(errno.EPERM)

    async def rename(
        self, parent: NodeId, name: bytes, new_parent: NodeId, new_name: bytes, flags: int, caller: Caller
    ) -> None:
        raise FsError(errno.EPERM)

    def forget(self, node: NodeId) -> None:
        self._tickets.pop(node, None)

    def is_ours(self, name: bytes) -> bool:
        return name.startswith(b"user.helios.")

    async def getxattr(self, node: NodeId, name: bytes, caller: Caller) -> bytes:
        if name == b"user.helios.counts":
            return b" ".join(b"%s=%d" % (k.encode(), v) for k, v in sorted(self._fs.counts.items()))
        raise FsError(errno.ENODATA)

    async def setxattr(self, node: NodeId, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        if name == b"user.helios.freeze":
            self._fs.freeze()
        elif name == b"user.helios.swap":
            await self._fs.publish_around(self._fs.swap(), self._after_reply)
        elif name == b"user.helios.deadlock":
            # What control must never do: the caller holds this directory's lock until our reply.
            await self._fs.publish(self._fs.swap())
        else:
            raise FsError(errno.EINVAL)
