"""Bodies of replies that show an inode. The hottest code of this transport: one pack each, no loops.

Must not know: requests, the filesystem.
"""

from __future__ import annotations

import time
from stat import S_IFDIR
from typing import Final

from heliosfs.core.ids import INO_MASK, NodeId
from heliosfs.core.oplog import Make
from heliosfs.filesystem.types import Attributes, Entry
from heliosfs.transport.kernel.wire import ATTR_OUT, ENTRY_OUT, STATX_OUT
from heliosfs.transport.requests import FOREVER_S, is_control, is_control_root

_BLOCK_BYTES: Final = 4096
_SECOND: Final = 1_000_000_000
_DEVICE_MASK: Final = 0xFFFFFFFF
_BASIC_STATS: Final = 0x7FF
_BTIME: Final = 0x800

_pack_entry: Final = ENTRY_OUT.pack

ATTRIBUTES: Final = slice(ENTRY_OUT.size - ATTR_OUT.size, None)
"""What of a fuse_entry_out is a fuse_attr_out: both end with validity of attributes, 8 bytes of 0, fuse_attr."""
ABSENT: Final = ENTRY_OUT.pack(0, 0, FOREVER_S, *(0,) * 19)
"""There is no such name, and the kernel remembers it."""


def entry_body(
    node: int,
    shown: int,
    attr: Attributes,
    generation: int,
    valid_s: int,
    attr_valid_s: int = -1,
    attr_valid_ns: int = 0,
) -> bytes:
    """fuse_entry_out: `node` on the wire, `shown` as st_ino; attributes are good as long as the name. 1.1 us."""
    mtime_s, mtime_ns = divmod(attr.mtime_ns, _SECOND)
    ctime_s, ctime_ns = divmod(attr.ctime_ns, _SECOND)
    atime_s, atime_ns = divmod(attr.atime_ns, _SECOND)
    return _pack_entry(
        node,
        generation,
        valid_s,
        valid_s if attr_valid_s < 0 else attr_valid_s,
        0,
        attr_valid_ns,
        shown,
        attr.size,
        attr.blocks,
        atime_s,
        mtime_s,
        ctime_s,
        atime_ns,
        mtime_ns,
        ctime_ns,
        attr.mode,
        attr.nlink,
        attr.uid,
        attr.gid,
        attr.rdev & _DEVICE_MASK,
        _BLOCK_BYTES,
        0,
    )


def attributes_body(shown: int, attr: Attributes, valid_s: int = FOREVER_S) -> bytes:
    """fuse_attr_out; `shown` is st_ino."""
    return entry_body(0, shown, attr, 0, valid_s)[ATTRIBUTES]


def made_body(node: int, made: Make) -> bytes:
    """As `entry_body`, of an inode that nothing was inherited by. 0.8 us."""
    now_s, now_ns = divmod(made.now_ns, _SECOND)
    mode = made.mode
    return _pack_entry(
        node,
        0,
        FOREVER_S,
        FOREVER_S,
        0,
        0,
        node,
        len(made.target),
        0,
        now_s,
        now_s,
        now_s,
        now_ns,
        now_ns,
        now_ns,
        mode,
        2 if mode & 0o170000 == S_IFDIR else 1,
        made.uid,
        made.gid,
        made.rdev & _DEVICE_MASK,
        _BLOCK_BYTES,
        0,
    )


def entry_reply(entry: Entry, *, settling: bool = False) -> bytes:
    """An entry that is handed out. The caller counts the lookup.

    A name in the control tree is good for this once, the attributes of the root that it leads to as any others.
    Those of `.helios` are good for a tick of the kernel's clock: who walks through it has just looked it up.
    """
    node, attr, generation, cacheable = entry
    if is_control(node):
        walked_ns = 1 if is_control_root(node) else 0
        return entry_body(node, shown_ino(node, attr), _fresh(node, attr), generation, 0, 0, walked_ns)
    if settling:
        return entry_body(node, node, attr, generation, 0)
    return entry_body(node, node, attr, generation, FOREVER_S if cacheable else 0, FOREVER_S)


def statx_body(shown: int, attr: Attributes, valid_s: int) -> bytes:
    """fuse_statx_out: what stat(2) shows, and when the inode was made."""
    times: list[int] = []
    for time_ns in (attr.atime_ns, attr.btime_ns, attr.ctime_ns, attr.mtime_ns):
        times += (*divmod(time_ns, _SECOND), 0)
    rdev = attr.rdev
    major, minor = rdev >> 8 & 0xFFF, rdev & 0xFF | rdev >> 12 & 0xFFF00
    return STATX_OUT.pack(
        valid_s,
        0,
        0,
        _BASIC_STATS | _BTIME,
        _BLOCK_BYTES,
        0,
        attr.nlink,
        attr.uid,
        attr.gid,
        attr.mode,
        shown,
        attr.size,
        attr.blocks,
        0,
        *times,
        major,
        minor,
        0,
        0,
    )


def shown_ino(node: NodeId, attr: Attributes) -> int:
    """The st_ino of a control node: the same for every ticket of a file."""
    return int(getattr(attr, "st_ino_constant", node))


def control_body(node: NodeId, attr: Attributes) -> bytes:
    """Attributes of a control node, good for this once."""
    return attributes_body(shown_ino(node, attr), _fresh(node, attr), 0)


def _fresh(node: NodeId, attr: Attributes) -> Attributes:
    return _Fresh(attr) if node > INO_MASK else attr


class _Fresh:
    """A control directory whose mtime is now.

    Without OPENDIR the kernel keeps every listing, and throws one away only where it sees another mtime.
    """

    def __init__(self, attr: Attributes) -> None:
        self.mode, self.nlink = attr.mode, attr.nlink
        self.uid, self.gid, self.rdev = attr.uid, attr.gid, attr.rdev
        self.size, self.blocks = attr.size, attr.blocks
        self.atime_ns = self.mtime_ns = self.ctime_ns = time.time_ns()
        self.btime_ns = attr.btime_ns
