"""The control directories: what they list, find, make and remove.

Invariants: a listing assigns no view numbers and keeps no state for what it hands out; a name that the kernel
has a directory for is listed with that directory's node. Nothing above the branch can be reached.
Must not know: what control files hold.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from hashlib import blake2b
from typing import Final

from heliosfs.control.commands import Checkpoint, Command, Discard, ForgetSnapshot, Fork, RenameSnapshot
from heliosfs.control.door import Versions
from heliosfs.control.files import ENTRY_INDEX, FILES, LATEST_INDEX
from heliosfs.control.names import LATEST
from heliosfs.control.nodes import (
    BRANCHES,
    BRANCHES_NAME,
    DIRECTORY_MODE,
    LINK_MODE,
    ROOT_DIRECTORY,
    SNAPSHOTS,
    SNAPSHOTS_NAME,
    Attributes,
    directory_attributes,
    directory_node,
    shown_ino,
)
from heliosfs.control.snapshotroots import SnapshotRoots
from heliosfs.control.tickets import Tickets
from heliosfs.core.errors import FsError
from heliosfs.core.ids import NodeId, ViewNo, view_of
from heliosfs.filesystem.types import BranchInfo, Entry

Listed = list[tuple[bytes, Entry, int]]
"""(name, entry, cookie behind it)."""

_COOKIE_BITS: Final = 62
_FIXED: Final = ((SNAPSHOTS_NAME, SNAPSHOTS), (BRANCHES_NAME, BRANCHES))


def make_command(which: int, name: bytes) -> Command | None:
    """What mkdir of this name means in a control directory; None where nothing can be made.

    Raises:
        FsError: EINVAL, ENAMETOOLONG: no name for it.
    """
    if which == SNAPSHOTS:
        return Checkpoint(name)
    return Fork(name) if which == BRANCHES else None


def remove_command(which: int, name: bytes) -> Command | None:
    """What rmdir means; as `make_command`."""
    if which == SNAPSHOTS:
        return ForgetSnapshot(name)
    return Discard(name) if which == BRANCHES else None


def rename_command(which: int, old: bytes, new: bytes) -> Command | None:
    """What rename within one control directory means; None where nothing can be renamed."""
    return RenameSnapshot(old, new) if which == SNAPSHOTS else None


def _cookie(name: bytes) -> int:
    """Where a name stands in a listing: the same however many come and go around it."""
    return (int.from_bytes(blake2b(name, digest_size=8).digest(), "little") & (1 << _COOKIE_BITS) - 1) or 1


class Directories:
    """Lookup and listing in `.helios`, `snapshots` and `branches` of every branch."""

    def __init__(self, fs: Versions, tickets: Tickets, roots: SnapshotRoots) -> None:
        self._fs = fs
        self._tickets = tickets
        self._roots = roots
        self._orders: dict[NodeId, list[tuple[int, bytes]]] = {}

    def try_find(self, which: int, branch: BranchInfo, name: bytes) -> Entry | None:
        """A directory or link by its name (files are not found here). Never cached by the kernel.

        None: it may be a snapshot, for which `snapshot_root` has to be awaited.

        Raises:
            FsError: ENOENT; as the filesystem.
        """
        fs = self._fs
        if which == ROOT_DIRECTORY:
            for known, inner in _FIXED:
                if name == known:
                    node = directory_node(branch.view, inner)
                    return Entry(node, directory_attributes(branch, inner), 0, False)
            raise FsError(errno.ENOENT)
        if which == BRANCHES:
            child = fs.find_branch(branch.path + b"/" + name)
            return fs.branch_root(child.view)._replace(cacheable=False)
        if name == LATEST:
            target = fs.latest(branch.view)
            if target is None:
                raise FsError(errno.ENOENT, "there is no snapshot yet")
            link = self._tickets.link(branch, target)
            return Entry(link.node, link, 0, False)
        return None

    async def find(self, which: int, branch: BranchInfo, name: bytes) -> Entry:
        """As `try_find`, snapshots included."""
        return self.try_find(which, branch, name) or await self.snapshot_root(branch.view, name)

    async def snapshot_root(self, view: ViewNo, name: bytes) -> Entry:
        """The root directory of a snapshot of the branch, which has a view number from now on."""
        entry = (await self._fs.snapshot_root(view, name))._replace(cacheable=False)
        self._roots.add(view, name, entry)
        return entry

    def listing(self, which: int, branch: BranchInfo, cookie: int, limit: int) -> Listed:
        """Entries behind a cookie (0: from the start), `limit` >= 1 and what shares the last one's cookie.

        Every name that is there from the first call to the last is listed exactly once. O(n log n) for the
        first call, O(limit) for those that follow it.
        """
        if which == ROOT_DIRECTORY:
            return self._fixed(branch)[cookie : cookie + limit]
        node = directory_node(branch.view, which)
        order = self._orders.get(node) if cookie else None
        if order is None:
            order = self._order(which, branch)
        at = bisect_right(order, cookie, key=_first)
        listed: Listed = []
        # What has gone is passed over, never an empty answer before the end: that would end the listing.
        while at < len(order):
            behind, name = order[at]
            if len(listed) >= limit and behind != listed[-1][2]:
                break
            entry = self._branch(branch, name) if which == BRANCHES else self._snapshot(branch, name)
            if entry is not None:
                listed.append((name, entry, behind))
            at += 1
        if at < len(order):
            self._orders[node] = order
        else:
            self._orders.pop(node, None)
        return listed

    def _fixed(self, branch: BranchInfo) -> Listed:
        listed: Listed = []
        for name, which in _FIXED:
            node = directory_node(branch.view, which)
            entry = Entry(node, directory_attributes(branch, which), 0, False)
            listed.append((name, entry, len(listed) + 1))
        for file in FILES:
            listed.append((file.name, self._passing(branch, file.mode, file.index), len(listed) + 1))
        return listed

    def _order(self, which: int, branch: BranchInfo) -> list[tuple[int, bytes]]:
        """All names by their cookies."""
        fs, view = self._fs, branch.view
        if which == BRANCHES:
            return sorted((_cookie(child.name), child.name) for child in fs.children(view))
        order = [(_cookie(snapshot.name), snapshot.name) for snapshot in fs.snapshots(view)]
        if fs.latest(view) is not None:
            order.append((_cookie(LATEST), LATEST))
        return sorted(order)

    def _branch(self, branch: BranchInfo, name: bytes) -> Entry | None:
        """A branch's own root: another node would throw it out under a sandbox that is bound to it."""
        try:
            child = self._fs.find_branch(branch.path + b"/" + name)
        except FsError:
            return None
        return self._fs.branch_root(child.view)._replace(cacheable=False)

    def _snapshot(self, branch: BranchInfo, name: bytes) -> Entry | None:
        if name == LATEST:
            return self._latest(branch)
        known = self._roots.find(branch.view, name)
        if known is not None and self._fs.is_snapshot(view_of(known.node)):
            return known
        return self._passing(branch, DIRECTORY_MODE, ENTRY_INDEX)

    def _latest(self, branch: BranchInfo) -> Entry | None:
        target = self._fs.latest(branch.view)
        if target is None:
            return None
        link = self._tickets.known_link(branch.view, target)
        if link is not None:
            return Entry(link.node, link, 0, False)
        return self._passing(branch, LINK_MODE, LATEST_INDEX)

    def _passing(self, branch: BranchInfo, mode: int, index: int) -> Entry:
        """An entry that shows a name and its type; whoever uses the name looks it up."""
        attr = Attributes(
            mode, branch.owner_uid, branch.owner_gid, 0, branch.created_ns, shown_ino(branch.view, index)
        )
        return Entry(self._tickets.fresh(), attr, 0, False)


def _first(item: tuple[int, bytes]) -> int:
    return item[0]
