"""Listings: READDIRPLUS, which hands out the inodes that the kernel lacks, and READDIR, which hands out none."""

from __future__ import annotations

import stat
from collections.abc import Coroutine, Iterable
from typing import Any, Final

from heliosfs.core.ids import NodeId
from heliosfs.filesystem.types import Caller
from heliosfs.transport.kernel.handlers import Answer, Handlers, Header
from heliosfs.transport.kernel.replies import entry_body, entry_reply, shown_ino
from heliosfs.transport.kernel.wire import BODY, DIRENT, ENTRY_OUT, MAX_WRITE, Layouts
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
from heliosfs.transport.requests import FOREVER_S, is_control

_NAME_AT: Final = DIRENT.size
_PLUS: Final = ENTRY_OUT.size
_NO_ENTRY: Final = bytes(_PLUS)
_LEAST: Final = 8
"""What the shortest name takes, filled up."""
_PADDING: Final = [bytes(n) for n in range(8)]
_pack_dirent: Final = DIRENT.pack


def _any(node: NodeId) -> bool:
    return True


class ListingHandlers(Handlers):
    """The kernel says how many bytes it has room for; as many entries as fit are answered.

    What it knows already is listed by name and type alone: its attributes are told when they change, and a node id
    of 0 has the kernel leave what it has of it as it is.
    """

    def readdirplus(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: readdir(3)."""
        return self._list(head, view, plus=True)

    def readdir(self, head: Header, view: memoryview, end: int) -> Answer | Coroutine[Any, Any, Answer]:
        """Source: readdir(3)."""
        return self._list(head, view, plus=False)

    def _list(self, head: Header, view: memoryview, *, plus: bool) -> Answer | Coroutine[Any, Any, Answer]:
        node = self.node(head[3])
        _, start, room, _, _, _, _ = Layouts.READ.unpack_from(view, BODY)
        room = min(room, MAX_WRITE)
        limit = room // ((_PLUS if plus else 0) + _NAME_AT + _LEAST) + 1
        if is_control(node):
            return self._list_control(node, start, room, limit, self.caller(head), plus=plus)
        lines: list[Line] = []
        if start < HEAD:
            lines = head_lines(node, self.fs.try_getattr(node), start, shown_in(self.control, node, start))
        begin = begin_of(start)
        known = self.lookups.counts if plus else _any
        lines.extend(tree_lines(self.fs.try_readdir(node, begin, limit, known), begin))
        return self._fill(lines, room, plus=plus)[0]

    async def _list_control(
        self, node: NodeId, start: int, room: int, limit: int, caller: Caller, *, plus: bool
    ) -> Answer:
        lines = await control_lines(self.control, node, start, limit, caller)
        body, taken = self._fill(lines, room, plus=plus)
        give_back(self.control, self.lookups, lines[taken if plus else 0 :])
        return body

    def _fill(self, lines: Iterable[Line], room: int, *, plus: bool) -> tuple[bytes, int]:
        """The body that holds as many of the lines as there is room for, and how many that are."""
        parts: list[bytes] = []
        add = self.lookups.add
        taken = 0
        for name, entry, cookie, counted in lines:
            length = len(name)
            padding = -length & 7
            room -= _NAME_AT + length + padding + (_PLUS if plus else 0)
            if room < 0:
                break
            node, attr, generation, cacheable = entry
            if not cacheable:
                shown = shown_ino(node, attr)
                if plus:
                    parts.append(entry_reply(entry, settling=node in self.settling) if counted else _NO_ENTRY)
            else:
                shown = node
                if plus:
                    valid_s = 0 if node in self.settling else FOREVER_S
                    parts.append(entry_body(node, node, attr, generation, valid_s))
            parts.append(_pack_dirent(shown, cookie, length, stat.S_IFMT(attr.mode) >> 12))
            parts.append(name)
            parts.append(_PADDING[padding])
            if plus and counted:
                add(node)
            taken += 1
        return b"".join(parts), taken
