"""Listings: OPENDIR, READDIRPLUS. What is listed, and in which order, is in transport/listings.py."""

from __future__ import annotations

from typing import Final

import pyfuse3
from pyfuse3 import ReaddirToken, RequestContext

from heliosfs.core.ids import NodeId
from heliosfs.transport.listings import (
    HEAD,
    Line,
    begin_of,
    control_lines,
    give_back,
    head_lines,
    shown_in,
    tree_lines,
)
from heliosfs.transport.pyfuse3.attributes import entry_reply
from heliosfs.transport.pyfuse3.requests import Handlers, caller_of
from heliosfs.transport.requests import UNKNOWN_CALLER, is_control

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
        """Fill the kernel's buffer with entries behind the cookie `start_id`. Source: readdir(3)."""
        node = NodeId(fh)
        batch = self._batch
        lines: list[Line] = []
        try:
            if is_control(node):
                caller = self.openers.get(node, UNKNOWN_CALLER)
                lines = await control_lines(self.control, node, start_id, batch, caller)
            else:
                if start_id < HEAD:
                    shown = shown_in(self.control, node, start_id)
                    lines = head_lines(node, await self.fs.getattr(node), start_id, shown)
                begin = begin_of(start_id)
                lines.extend(tree_lines(await self.fs.readdir(node, begin, batch), begin))
        except Exception as error:
            raise self.refusal("readdir", node, error) from None
        add, accept = self.lookups.add, pyfuse3.readdir_reply
        for index, (name, entry, cookie, counted) in enumerate(lines):
            if not accept(token, name, entry_reply(entry, settling=entry.node in self.settling), cookie):
                self._batch = max(index + 4, _AT_LEAST)
                give_back(self.control, self.lookups, lines[index:])
                return
            if counted:
                add(entry.node)
        if len(lines) >= batch:
            self._batch = min(batch * 2, _AT_MOST)
