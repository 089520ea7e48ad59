"""The one way to change: `apply` a record to the state. Live work and recovery run the same code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from heliosfs.core import (
    adopt,
    attributes,
    data,
    namespace,
    oplog,
    pathrestore,
    ranges,
    rename,
    retaining,
    versions,
)
from heliosfs.core.engine import Engine, Placed
from heliosfs.core.ids import Lsn
from heliosfs.core.oplog import Record

_RULES: Final[dict[type[Record], Callable[[Engine, Any, Any], Any]]] = {
    oplog.Make: namespace.apply_make,
    oplog.Write: data.apply_write,
    oplog.SetAttributes: attributes.apply_set_attributes,
    oplog.Unlink: namespace.apply_unlink,
    oplog.RemoveDirectory: namespace.apply_remove_directory,
    oplog.Link: namespace.apply_link,
    oplog.Rename: rename.apply_rename,
    oplog.SetXattr: attributes.apply_set_xattr,
    oplog.RemoveXattr: attributes.apply_remove_xattr,
    oplog.CopyRange: ranges.apply_copy,
    oplog.Fallocate: ranges.apply_fallocate,
    oplog.MakeUnnamed: namespace.apply_make_unnamed,
    oplog.Checkpoint: versions.apply_checkpoint,
    oplog.Fork: versions.apply_fork,
    oplog.Restore: versions.apply_restore,
    oplog.RestorePath: pathrestore.apply_restore_path,
    oplog.ForgetSnapshot: versions.apply_forget_snapshot,
    oplog.RenameSnapshot: versions.apply_rename_snapshot,
    oplog.Discard: versions.apply_discard,
    oplog.AssignView: versions.apply_assign_view,
    oplog.Adopt: adopt.apply_adopt,
    oplog.SetRetention: retaining.apply_set_retention,
    oplog.ExpireSnapshots: retaining.apply_expire,
}


def apply(engine: Engine, record: Record, place: Placed) -> Any:
    """Change the state as a record says, which was planned against this state or replays one that was.

    Cannot fail but for pages that cannot be read (Damaged). What it returns is its rule's.
    """
    engine.applied = Lsn(place.end_lsn)
    branch = engine.branches.get(record.view)
    if branch is not None:
        # So that a cut looks at these alone, however many branches there are.
        engine.touched_branches.add(branch)
    return _RULES[type(record)](engine, record, place)
