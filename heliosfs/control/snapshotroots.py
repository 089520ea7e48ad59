"""Snapshots that have been looked up: which view is which snapshot's, and back.

The kernel knows a snapshot's root by its node id alone, while a name may change; and a listing has to show
the node that the kernel has already, or it would throw the directory out under everybody who stands in it
(getcwd(2) fails then). Invariant: holds no snapshot that was forgotten or renamed through control.
Must not know: how views are numbered.
"""

from __future__ import annotations

from typing import Final

from heliosfs.core.ids import ViewNo, view_of
from heliosfs.filesystem.types import Entry

_NONE: Final[dict[bytes, Entry]] = {}


class SnapshotRoots:
    """One entry a snapshot that was looked up since the start: about 300 bytes."""

    __slots__ = ("_entries", "_names")

    def __init__(self) -> None:
        self._entries: dict[ViewNo, dict[bytes, Entry]] = {}
        self._names: dict[ViewNo, tuple[ViewNo, bytes]] = {}

    def add(self, branch: ViewNo, name: bytes, entry: Entry) -> None:
        """A snapshot of the branch with this view has its root here."""
        self._entries.setdefault(branch, {})[name] = entry
        self._names[view_of(entry.node)] = (branch, name)

    def find(self, branch: ViewNo, name: bytes) -> Entry | None:
        """The root of a snapshot, if it was looked up."""
        return self._entries.get(branch, _NONE).get(name)

    def owner(self, view: ViewNo) -> tuple[ViewNo, bytes] | None:
        """Branch view and name of the snapshot with this view."""
        return self._names.get(view)

    def rename(self, branch: ViewNo, old: bytes, new: bytes) -> None:
        """The snapshot has another name now."""
        entry = self._entries.get(branch, _NONE).pop(old, None)
        if entry is not None:
            self.add(branch, new, entry)

    def drop(self, branch: ViewNo, name: bytes) -> None:
        """The snapshot is gone."""
        entry = self._entries.get(branch, _NONE).pop(name, None)
        if entry is not None:
            del self._names[view_of(entry.node)]

    def drop_branch(self, branch: ViewNo) -> None:
        """The branch is gone, its snapshots with it. O(its snapshots that were looked up)."""
        for entry in self._entries.pop(branch, _NONE).values():
            del self._names[view_of(entry.node)]
