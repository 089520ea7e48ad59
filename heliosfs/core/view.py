"""One tree: a branch's live state or a frozen one, as a base of stored pages and an overlay of changes.

`State` is a version that never changes: what a checkpoint holds. `View` is a branch's head: it is edited
in place where nobody else can see the inode, copied where somebody can (invariant 3). Freezing is O(1).
Must not know: names, the log, which branch it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import immutables

from heliosfs.core import radix
from heliosfs.core.ids import Ino, Lsn, PageId
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Pages, Tree


class Tombstone:
    """Stands in an overlay for an inode that the base has and this version has not."""

    __slots__ = ()


GONE: Final = Tombstone()
EMPTY: Final[immutables.Map[Ino, Inode | Tombstone]] = immutables.Map()


class State:
    """A frozen version of a tree.

    Attributes:
        base: Inode table in stored pages.
        overlay: Changes against `base`.
        parent: The version it grew from, until this one is stored; None: `base` alone.
        delta: Numbers of the inodes that differ from `parent`.
        files: Inodes of the tree; size_bytes: sum of the sizes of its regular files.
        root: The inode table's page id once it is stored (then base == root, overlay is empty).
    """

    __slots__ = ("base", "delta", "files", "overlay", "parent", "root", "size_bytes")

    def __init__(
        self,
        base: Tree,
        overlay: immutables.Map[Ino, Inode | Tombstone],
        parent: State | None,
        delta: Iterable[Ino],
        files: int,
        size_bytes: int,
    ) -> None:
        self.base = base
        self.overlay = overlay
        self.parent = parent
        self.delta = delta
        self.files = files
        self.size_bytes = size_bytes
        self.root: PageId | None = None

    def get(self, ino: Ino, pages: Pages) -> Inode | None:
        """The inode, or None. O(log n)."""
        found = self.overlay.get(ino)
        if found is not None:
            return found if isinstance(found, Inode) else None
        inode: Inode | None = radix.get(self.base, ino, pages)
        return inode

    def store(self, root: PageId) -> None:
        """The version is in the page store under `root`: let go of everything else."""
        self.root = root
        self.base = root
        self.overlay = EMPTY
        self.parent = None
        self.delta = ()

    @classmethod
    def stored(cls, root: PageId, files: int, size_bytes: int) -> State:
        """A version that the page store holds."""
        state = cls(root, EMPTY, None, (), files, size_bytes)
        state.root = root
        return state


class View:
    """A branch's live tree.

    Attributes:
        frozen_at: Log position of the last freeze; inodes born before it are shared.
        changed: Numbers of inodes that differ from `parent`.
        parent: The last frozen version.
    """

    __slots__ = ("base", "changed", "files", "frozen_at", "overlay", "parent", "size_bytes")

    def __init__(self, state: State, frozen_at: Lsn) -> None:
        self.adopt(state, frozen_at)

    def adopt(self, state: State, frozen_at: Lsn) -> None:
        """Become `state`, all of it shared: the root swap of a restore. O(1)."""
        self.base = state.base
        self.overlay = state.overlay
        self.parent = state
        self.changed: set[Ino] = set()
        self.frozen_at = frozen_at
        self.files = state.files
        self.size_bytes = state.size_bytes

    def get(self, ino: Ino, pages: Pages) -> Inode | None:
        """The inode, or None. 0.1 us in the overlay, O(log n) below."""
        found = self.overlay.get(ino)
        if found is not None:
            return found if isinstance(found, Inode) else None
        inode: Inode | None = radix.get(self.base, ino, pages)
        return inode

    def edit(self, inode: Inode, lsn: Lsn) -> Inode:
        """The inode to change for the record at `lsn`: itself if born here since the freeze, else a copy."""
        if inode.born >= self.frozen_at:
            return inode
        copy = inode.copy(lsn)
        self.overlay = self.overlay.set(inode.ino, copy)
        self.changed.add(inode.ino)
        return copy

    def add(self, inode: Inode) -> None:
        """A new inode, or one that comes back."""
        self.overlay = self.overlay.set(inode.ino, inode)
        self.changed.add(inode.ino)
        self.files += 1
        if inode.is_file():
            self.size_bytes += inode.size

    def drop(self, inode: Inode) -> None:
        """The inode leaves the tree."""
        self.overlay = self.overlay.set(inode.ino, GONE)
        self.changed.add(inode.ino)
        self.files -= 1
        if inode.is_file():
            self.size_bytes -= inode.size

    def freeze(self, at: Lsn) -> State:
        """The present version, for ever. O(1): two freezes of an unchanged tree give the same object."""
        if not self.changed:
            self.frozen_at = at
            return self.parent
        state = State(self.base, self.overlay, self.parent, self.changed, self.files, self.size_bytes)
        self.parent = state
        self.changed = set()
        self.frozen_at = at
        return state
