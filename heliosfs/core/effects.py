"""What one record of a file operation makes differ, as a kernel that did not ask for it must be told.

Versioning verbs find their differences by comparing trees (diff.py); a single write or rename is told from its
record alone. Must not know: kernels, who asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliosfs.core import directory
from heliosfs.core.diff import Change
from heliosfs.core.ids import Ino, ViewNo
from heliosfs.core.oplog import (
    SET_SIZE,
    CopyRange,
    Fallocate,
    Link,
    Make,
    Record,
    RemoveDirectory,
    RemoveXattr,
    Rename,
    SetAttributes,
    SetXattr,
    Unlink,
    Write,
)

if TYPE_CHECKING:
    from heliosfs.core.engine import Engine


def changes_of(engine: Engine, record: Record) -> list[Change]:
    """What a record is about to change. Call it before `apply`, with pages loaded as they are needed.

    Returns:
        [] for records of other kinds. O(log n).
    """
    if isinstance(record, Write | CopyRange | Fallocate):
        return [Change(record.view, record.ino, True, ())]
    if isinstance(record, SetAttributes):
        return [Change(record.view, record.ino, bool(record.mask & SET_SIZE), ())]
    if isinstance(record, SetXattr | RemoveXattr):
        return [Change(record.view, record.ino, False, ())]
    if isinstance(record, Make):
        return [Change(record.view, record.parent, False, (record.name,))]
    if isinstance(record, Link):
        return [
            Change(record.view, record.parent, False, (record.name,)),
            Change(record.view, record.ino, False, ()),
        ]
    if isinstance(record, Unlink | RemoveDirectory):
        return [
            Change(record.view, record.parent, False, (record.name,)),
            *_inode_of(engine, record.view, record.parent, record.name),
        ]
    if isinstance(record, Rename):
        return [
            Change(record.view, record.parent, False, (record.name,)),
            Change(record.view, record.new_parent, False, (record.new_name,)),
            *_inode_of(engine, record.view, record.parent, record.name),
            *_inode_of(engine, record.view, record.new_parent, record.new_name),
        ]
    return []


def _inode_of(engine: Engine, view: ViewNo, parent: Ino, name: bytes) -> list[Change]:
    """The change of the attributes of what a name leads to, if it leads anywhere."""
    found = directory.find(engine.inode(view, parent).tree, name, engine.pages)
    return [] if found is None else [Change(view, found.ino, False, ())]
