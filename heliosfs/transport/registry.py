"""Every session that serves one store: what none of them may decide by itself.

An unlinked inode lives while any kernel knows it; a branch is in use while any session shows it. Owned by the
loop's thread. Must not know: which transport a session is of.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from heliosfs.core.ids import NodeId, ViewNo
from heliosfs.transport.requests import is_control

if TYPE_CHECKING:
    from heliosfs.filesystem import Filesystem
    from heliosfs.transport.invalidate import CacheInvalidator
    from heliosfs.transport.lookups import LookupTable


class Registry:
    """The sessions of one filesystem."""

    def __init__(self, fs: Filesystem) -> None:
        self._fs = fs
        self._tables: list[LookupTable] = []
        self._views: Counter[ViewNo] = Counter()

    def add(self, view: ViewNo, lookups: LookupTable, invalidator: CacheInvalidator) -> None:
        """A session begins: it is told of changes from now on."""
        self._tables.append(lookups)
        self._views[view] += 1
        self._fs.mounted_views.add(view)
        self._fs.invalidators.append(invalidator)

    def remove(self, view: ViewNo, lookups: LookupTable, invalidator: CacheInvalidator) -> None:
        """A session ends: it is told no more. What its kernel still knows is freed by `released`."""
        self._fs.invalidators.remove(invalidator)
        self._views[view] -= 1
        if not self._views[view]:
            self._fs.mounted_views.discard(view)

    def released(self, lookups: LookupTable) -> None:
        """A session's kernel knows nothing any more (at an unmount it sends no FORGET)."""
        self._tables.remove(lookups)
        for node in lookups.drain():
            if not is_control(node):
                self.forgotten(node)

    def forgotten(self, node: NodeId) -> None:
        """A kernel has dropped a node of a tree; what no other one knows either may be freed."""
        if len(self._tables) < 2 or not any(table.knows(node) for table in self._tables):
            self._fs.forget(node)
