"""Every session that serves one store: what none of them may decide by itself.

An unlinked inode lives while any kernel knows it; a branch is in use while any session shows it. Owned by the
loop's thread. Must not know: which transport a session is of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from heliosfs.core.ids import NodeId, ViewNo
from heliosfs.filesystem.types import Change
from heliosfs.transport.requests import is_control
from heliosfs.transport.waking import WakeUps

if TYPE_CHECKING:
    from heliosfs.filesystem import Filesystem
    from heliosfs.transport.invalidate import CacheInvalidator
    from heliosfs.transport.lookups import LookupTable


class Registry:
    """The sessions of one filesystem.

    Attributes:
        asking: The session whose request is being answered; set by each before it calls the filesystem.
    """

    def __init__(self, fs: Filesystem, *, quick: bool = False) -> None:
        """
        Args:
            quick: Cores are to wake up quickly while requests follow each other closely.
        """
        self._fs = fs
        self._quick = quick
        self._sessions: dict[LookupTable, CacheInvalidator] = {}
        self._views: Counter[ViewNo] = Counter()
        self.asking: LookupTable | None = None

    def wake_ups(self) -> WakeUps | None:
        """For a session to make quick under load, and to close."""
        return WakeUps() if self._quick else None

    def add(self, view: ViewNo, lookups: LookupTable, invalidator: CacheInvalidator) -> None:
        """A session begins: it is told of changes from now on."""
        self._sessions[lookups] = invalidator
        self._views[view] += 1
        self._fs.mounted_views.add(view)
        self._fs.invalidators.append(invalidator)
        self._watch()

    def remove(self, view: ViewNo, lookups: LookupTable, invalidator: CacheInvalidator) -> None:
        """A session ends: it is told no more. What its kernel still knows is freed by `released`."""
        self._fs.invalidators.remove(invalidator)
        self._views[view] -= 1
        if not self._views[view]:
            self._fs.mounted_views.discard(view)

    def released(self, lookups: LookupTable, *, handed_over: bool = False) -> None:
        """A session's kernel knows nothing any more (at an unmount it sends no FORGET).

        Args:
            handed_over: It still knows everything, and another process goes on: what is unlinked and open stays, in
                the cut that closing makes, too.
        """
        del self._sessions[lookups]
        self._watch()
        if handed_over:
            return
        for node in lookups.drain():
            if not is_control(node):
                self.forgotten(node)
        if not self._sessions:
            # Where lookups were not counted, what is left is known to nobody either.
            self._fs.forget_all()

    def forgotten(self, node: NodeId) -> None:
        """A kernel has dropped a node of a tree; what no other one knows either may be freed."""
        if len(self._sessions) < 2 or not any(table.knows(node) for table in self._sessions):
            self._fs.forget(node)

    def _watch(self) -> None:
        self._fs.watcher = self._tell_others if len(self._sessions) > 1 else None

    def _tell_others(self, changes: Sequence[Change]) -> None:
        """Have the kernels of other sessions forget what one of them has had changed, once it has its reply.

        Not before: a kernel's caller holds locks until his reply, and two that wait for each other's would wait
        for ever. O(sessions), and nothing more for a kernel that knows nothing of the view.
        """
        for table, invalidator in self._sessions.items():
            if table is not self.asking:
                for change in changes:
                    if table.knows_any(change.view):
                        invalidator.post(change)
