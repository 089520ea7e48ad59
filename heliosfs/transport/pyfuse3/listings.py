"""Listings: OPENDIR, READDIRPLUS.

Cookies 1 and 2 stand behind `.` and `..`, 3 behind a visible `.helios`; the filesystem's own begin at 3, and no
name is known to have that one (it would be listed twice). The control tree numbers from 1, so its cookies are
shifted by two on the wire.
"""

from __future__ import annotations

from typing import Final

import pyfuse3
from pyfuse3 import EntryAttributes, ReaddirToken, RequestContext

from heliosfs.core.ids import ROOT_INO, Ino, NodeId, ino_of, node_id, view_of
from heliosfs.filesystem.types import Attributes, Entry
from heliosfs.transport.pyfuse3.attributes import attributes_reply, entry_reply
from heliosfs.transport.pyfuse3.requests import Handlers, caller_of
from heliosfs.transport.requests import UNKNOWN_CALLER, is_control

_DOTS: Final = 2
_HEAD: Final = 3
_AT_LEAST: Final = 16
_AT_MOST: Final = 1024


class ListingHandlers(Handlers):
    """The kernel's buffer holds 25 (4 KiB) to about 200 (32 KiB) entries.

    How many is learned from what it took.
    """

    _batch = 200

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Source: opendir(3). A directory that is gone says so at the first read."""
        node = self.root if inode == 1 else NodeId(inode)
        if is_control(node):
            try:
                caller = caller_of(ctx)
                self.openers[node] = caller
                await self.control.open(node, 0, caller)
            except Exception as error:
                raise self.refusal("opendir", node, error) from None
        return node

    async def releasedir(self, fh: int) -> None:
        """Handles hold nothing."""

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        """Fill the kernel's buffer with entries behind the cookie `start_id`. Source: readdir(3).

        Entries of equal cookie may be told apart only by coming together: all but the last of them carry the
        cookie before theirs, so that a listing that was cut between them repeats some and loses none.
        """
        node = NodeId(fh)
        try:
            if is_control(node):
                await self._readdir_control(node, start_id, token)
                return
            before = start_id
            if start_id <= _HEAD:
                if not await self._head(node, start_id, token):
                    return
                before = _DOTS
            batch = self._batch
            found = await self.fs.readdir(node, before, batch)
        except Exception as error:
            raise self.refusal("readdir", node, error) from None
        add, accept = self.lookups.add, pyfuse3.readdir_reply
        last = len(found) - 1
        for index, (name, entry, cookie) in enumerate(found):
            if index < last and found[index + 1][2] == cookie:
                following = before
            else:
                following = before = cookie
            if not accept(token, name, entry_reply(entry), following):
                self._batch = max(index + 4, _AT_LEAST)
                return
            add(entry.node)
        if len(found) >= batch:
            self._batch = min(batch * 2, _AT_MOST)

    async def _readdir_control(self, node: NodeId, start_id: int, token: ReaddirToken) -> None:
        caller = self.openers.get(node, UNKNOWN_CALLER)
        if start_id < _DOTS and not self._dots(node, await self.control.getattr(node, caller), start_id, token):
            return
        found = await self.control.readdir(node, max(start_id - _DOTS, 0), self._batch, caller)
        for index, (name, entry, cookie) in enumerate(found):
            if not pyfuse3.readdir_reply(token, name, entry_reply(entry), cookie + _DOTS):
                self._give_back(found[index:])
                return
            self.lookups.add(entry.node)

    def _give_back(self, found: list[tuple[bytes, Entry, int]]) -> None:
        """Free tickets that a listing made and the kernel had no room for."""
        for _, entry, _ in found:
            if is_control(entry.node) and not self.lookups.knows(entry.node):
                self.control.forget(entry.node)

    async def _head(self, node: NodeId, start_id: int, token: ReaddirToken) -> bool:
        """What comes before the tree's own entries, `.helios` where it is visible included."""
        if start_id < _DOTS and not self._dots(node, await self.fs.getattr(node), start_id, token):
            return False
        if start_id < _HEAD and ino_of(node) == ROOT_INO:
            shown = self.control.listed_in(node)
            if shown is not None:
                name, entry = shown
                if not pyfuse3.readdir_reply(token, name, entry_reply(entry), _HEAD):
                    return False
                self.lookups.add(entry.node)
        return True

    def _dots(self, node: NodeId, attr: Attributes, start_id: int, token: ReaddirToken) -> bool:
        """`.` and `..`, which count no lookup. False if the buffer is full."""
        if start_id == 0 and not pyfuse3.readdir_reply(token, b".", _dot(node, attr), 1):
            return False
        parent: Ino = getattr(attr, "parent", Ino(0))
        above = node_id(view_of(node), parent) if parent else node
        return pyfuse3.readdir_reply(token, b"..", _dot(above, attr), _DOTS)


def _dot(node: NodeId, attr: Attributes) -> EntryAttributes:
    return attributes_reply(node, attr, 0)
