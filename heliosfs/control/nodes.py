"""Attributes of the control tree's own nodes, and how they are numbered.

A branch's control directories have node ids in the branch's own view, the same for ever. Everything else is a
ticket: a node id of view 0, fresh for each LOOKUP, whose st_ino is the same for ever all the same.
Must not know: commands, what any file holds.
"""

from __future__ import annotations

import stat
from typing import Final

from heliosfs.core.ids import FIRST_CONTROL_INO, INO_MASK, Ino, NodeId, ViewNo, node_id
from heliosfs.filesystem.types import BranchInfo

CONTROL_NAME: Final = b".helios"
SNAPSHOTS_NAME: Final = b"snapshots"
BRANCHES_NAME: Final = b"branches"

ROOT_DIRECTORY, SNAPSHOTS, BRANCHES = range(3)
"""The control directories, by their place behind FIRST_CONTROL_INO."""

_FIRST_FILE: Final = 16
DIRECTORY_MODE: Final = stat.S_IFDIR | 0o700
LINK_MODE: Final = stat.S_IFLNK | 0o777


class Attributes:
    """What stat(2) shows of a control node.

    Attributes:
        nlink: 1: so find(1) does not take a directory for one without directories in it.
        st_ino_constant: The inode number to show, whatever the node id.
    """

    __slots__ = ("gid", "mode", "mtime_ns", "size", "st_ino_constant", "uid")

    nlink = 1
    rdev = 0

    def __init__(self, mode: int, uid: int, gid: int, size: int, time_ns: int, st_ino: NodeId) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime_ns = time_ns
        self.st_ino_constant = st_ino

    @property
    def blocks(self) -> int:
        """512-byte blocks: tar takes a file without blocks for one hole."""
        return (self.size + 511) >> 9

    @property
    def atime_ns(self) -> int:
        """As mtime."""
        return self.mtime_ns

    @property
    def ctime_ns(self) -> int:
        """As mtime."""
        return self.mtime_ns

    @property
    def btime_ns(self) -> int:
        """As mtime."""
        return self.mtime_ns


def directory_node(view: ViewNo, which: int) -> NodeId:
    """Node id of a control directory of the branch with this view."""
    return node_id(view, Ino(FIRST_CONTROL_INO + which))


def which_directory(node: NodeId) -> int:
    """Which control directory a node id stands for; others than the three are none of a branch's."""
    return (node & INO_MASK) - FIRST_CONTROL_INO


def shown_ino(view: ViewNo, index: int) -> NodeId:
    """The st_ino of a control file, by its index in the listing."""
    return node_id(view, Ino(FIRST_CONTROL_INO + _FIRST_FILE + index))


def directory_attributes(branch: BranchInfo, which: int) -> Attributes:
    """A control directory of a branch: its owner's, 0700."""
    node = directory_node(branch.view, which)
    return Attributes(DIRECTORY_MODE, branch.owner_uid, branch.owner_gid, 0, branch.created_ns, node)
