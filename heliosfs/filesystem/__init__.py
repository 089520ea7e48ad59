"""The one door: validate, append, apply. Transports, control and the command line call nothing else.

types.py      values that go in and out
door.py       plan, append, apply; pages loaded on demand; time
immediate.py  the same without a coroutine: done at once, or pages or room are asked for
files.py      what a kernel asks of a tree
ranges.py     copies by reference, fallocate, holes, files without a name
versions.py   checkpoint, fork, restore, discard; questions about branches and snapshots
observing.py  status, stats, the operation log
adopting.py   making a branch equal to an imported tree
continuing.py  connections that outlive their daemon
opening.py    from a directory to a Filesystem, and back
"""

from heliosfs.filesystem.opening import Filesystem, StoreOptions, open_filesystem
from heliosfs.filesystem.types import (
    Attributes,
    BranchInfo,
    Caller,
    Change,
    Entry,
    Invalidator,
    Outcome,
    SetAttr,
    SnapshotInfo,
    StatFs,
)

__all__ = [
    "Attributes",
    "BranchInfo",
    "Caller",
    "Change",
    "Entry",
    "Filesystem",
    "Invalidator",
    "Outcome",
    "SetAttr",
    "SnapshotInfo",
    "StatFs",
    "StoreOptions",
    "open_filesystem",
]
