"""What a listing holds besides the tree's own names, and in which order: the same on both transports.

Cookies 1 and 2 stand behind `.` and `..`, 3 behind a visible `.helios`; the filesystem's own begin at 3, and no
name is known to have that one (it would be listed twice). The control tree numbers from 1, so its cookies are
shifted by two on the wire. Must not know: how an entry is written into a buffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from heliosfs.core.ids import ROOT_INO, Ino, NodeId, ino_of, node_id, view_of
from heliosfs.filesystem.types import Attributes, Caller, Entry
from heliosfs.transport.lookups import LookupTable
from heliosfs.transport.requests import is_control

if TYPE_CHECKING:
    from heliosfs.control.tree import ControlTree

_DOTS: Final = 2
HEAD: Final = 3


class Line(NamedTuple):
    """One entry of a listing.

    Attributes:
        entry: What the name leads to.
        cookie: To go on behind it.
        counted: It is handed out, and a lookup of it counted: not `.` and `..`, nor what the asker knows.
    """

    name: bytes
    entry: Entry
    cookie: int
    counted: bool = True


def head_lines(node: NodeId, attr: Attributes, start: int, shown: tuple[bytes, Entry] | None = None) -> list[Line]:
    """What comes before the names of a directory, from cookie `start` on.

    Args:
        shown: What is listed besides: `.helios` in the root of a branch, where it is visible.
    """
    lines = []
    if start == 0:
        lines.append(Line(b".", Entry(node, attr, 0, False), 1, False))
    if start < _DOTS:
        parent: Ino = getattr(attr, "parent", Ino(0))
        above = node_id(view_of(node), parent) if parent else node
        lines.append(Line(b"..", Entry(above, attr, 0, False), _DOTS, False))
    if start < HEAD and shown is not None:
        lines.append(Line(*shown, HEAD))
    return lines


def tree_lines(found: list[tuple[bytes, Entry, int]], start: int) -> Iterator[Line]:
    """The names that the filesystem gave for the cookie `start`.

    Entries of equal cookie may be told apart only by coming together: all but the last of them carry the
    cookie before theirs, so that a listing that was cut between them repeats some and loses none.
    """
    before = start
    last = len(found) - 1
    for index, (name, entry, cookie) in enumerate(found):
        if index == last or found[index + 1][2] != cookie:
            before = cookie
        yield Line(name, entry, before, entry.cacheable)


def begin_of(start: int) -> int:
    """The filesystem's cookie for a cookie on the wire: 0 to 3 mean its beginning."""
    return _DOTS if start <= HEAD else start


def shown_in(control: ControlTree, node: NodeId, start: int) -> tuple[bytes, Entry] | None:
    """What `head_lines` wants."""
    return control.listed_in(node) if start < HEAD and ino_of(node) == ROOT_INO else None


async def control_lines(control: ControlTree, node: NodeId, start: int, limit: int, caller: Caller) -> list[Line]:
    """Lines of a control directory, from cookie `start` on."""
    lines = head_lines(node, await control.getattr(node, caller), start) if start < _DOTS else []
    found = await control.readdir(node, max(start - _DOTS, 0), limit, caller)
    return lines + [Line(name, entry, cookie + _DOTS) for name, entry, cookie in found]


def give_back(control: ControlTree, lookups: LookupTable, lines: Iterable[Line]) -> None:
    """Free tickets that a listing made and the kernel had no room for."""
    for line in lines:
        if is_control(line.entry.node) and not lookups.knows(line.entry.node):
            control.forget(line.entry.node)
