"""Trees that lost pages, mended: what is left is made a whole tree again, and what is lost is told.

A mended tree names no inode that is gone, counts its links right, and keeps what lost its names in `lost+found`.
Bytes whose place is lost stay lost: EIO, never zeros. Mended inodes get a ctime of their own, so that
nobody takes them for what they were (invariant 10). Must not know: refs, branches, where pages are kept.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cas.digest import ID_BYTES, ChunkId
from heliosfs.core import pages as page_format
from heliosfs.core import radix
from heliosfs.core.directory import Dentry, name_key
from heliosfs.core.extent import ChunkRef, Extent
from heliosfs.core.ids import ROOT_INO, Ino, Lsn, PageId
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Branch, Leaf, Node, Tree
from heliosfs.storage.checking.pages import LenientPages, holes

LOST_CHUNK: Final = ChunkId(bytes(ID_BYTES))
"""Named by extents whose chunk nobody knows any more: no content has this name, so reading it is EIO."""

LOST_AND_FOUND: Final = b"lost+found"
_PIECE: Final = 1 << 30
"""Bytes of one lost extent: its length is stored in 32 bits."""

Put = Callable[[PageId, bytes], None]


@dataclass(slots=True)
class Mended:
    """A tree made whole.

    Attributes:
        files: Inodes in it; size_bytes: sum of the sizes of its regular files.
        dropped: Names that led to lost inodes.
        found: Inodes that had lost their names, now in `lost+found`.
    """

    root: PageId
    files: int
    size_bytes: int
    dropped: int = 0
    found: int = 0


@dataclass(slots=True)
class TreeMender:
    """Mends trees of one store.

    Attributes:
        next_ino: A number that no inode has; a `lost+found` takes it.
        now_ns: Greater than every ctime in the store; counts up.
    """

    pages: LenientPages
    put: Put
    next_ino: int
    now_ns: int
    uid: int
    gid: int
    _inodes: dict[int, Inode] = field(default_factory=dict)
    _changed: set[int] = field(default_factory=set)

    def mend(self, root: PageId) -> Mended:
        """Make a whole tree of what is left of `root`. O(tree)."""
        self._inodes = dict(radix.items(root, self.pages))
        self._changed = set()
        done = Mended(root, 0, 0)
        if ROOT_INO not in self._inodes or not self._inodes[ROOT_INO].is_dir():
            self._inodes[ROOT_INO] = self._new_directory(ROOT_INO, ROOT_INO)
        entries = {ino: self._entries(inode, done) for ino, inode in self._inodes.items() if inode.is_dir()}
        self._take_in_the_lost(entries, done)
        self._write_directories(entries)
        for ino in [ino for ino, inode in self._inodes.items() if inode.is_file()]:
            self._mend_file(self._inodes[ino])
        inodes = self._inodes
        built = radix.build(sorted(inodes.items()))
        assert built is not None
        done.root = store_tree(built, self.put)
        done.files = len(inodes)
        done.size_bytes = sum(inode.size for inode in inodes.values() if inode.is_file())
        return done

    def _edit(self, ino: int) -> Inode:
        """The inode, to be changed: its own copy, with a ctime that nobody else has."""
        if ino not in self._changed:
            self._changed.add(ino)
            copy = self._inodes[ino].copy(Lsn(0))
            self.now_ns += 1
            copy.ctime_ns = self.now_ns
            self._inodes[ino] = copy
        return self._inodes[ino]

    def _new_directory(self, ino: int, parent: int) -> Inode:
        self.now_ns += 1
        self._changed.add(ino)
        return Inode(
            Ino(ino), Lsn(0), stat.S_IFDIR | 0o700, self.uid, self.gid, self.now_ns, nlink=2, parent=Ino(parent)
        )

    def _entries(self, inode: Inode, done: Mended) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for _, bucket in radix.items(inode.tree, self.pages):
            for name, child, _ in bucket:
                if child in self._inodes:
                    found[name] = child
                else:
                    done.dropped += 1
        return found

    def _take_in_the_lost(self, entries: dict[int, dict[bytes, int]], done: Mended) -> None:
        """Give what cannot be reached from the root a name in `lost+found`; a directory keeps what is in it."""
        reached = self._reach(ROOT_INO, entries)
        lost = [ino for ino in sorted(self._inodes) if ino not in reached]
        if not lost:
            return
        named = {child for ino in lost for child in entries.get(ino, {}).values()}
        home: dict[bytes, int] = {}
        # Those first that nothing lost names; then whatever is left, for a ring names itself.
        for ino in (*(ino for ino in lost if ino not in named), *lost):
            if ino not in reached:
                home[b"inode-%d" % ino] = ino
                done.found += 1
                reached |= self._reach(ino, entries)
        number = self.next_ino
        self.next_ino += 1
        self._inodes[number] = self._new_directory(number, ROOT_INO)
        name, suffix = LOST_AND_FOUND, 2
        while name in entries[ROOT_INO]:
            name, suffix = b"%s-%d" % (LOST_AND_FOUND, suffix), suffix + 1
        entries[ROOT_INO][name] = number
        entries[number] = home

    def _reach(self, start: int, entries: dict[int, dict[bytes, int]]) -> set[int]:
        reached = {start}
        waiting = [start]
        while waiting:
            for child in entries.get(waiting.pop(), {}).values():
                if child not in reached:
                    reached.add(child)
                    waiting.append(child)
        return reached

    def _write_directories(self, entries: dict[int, dict[bytes, int]]) -> None:
        """Directories' trees, sizes, parents and every link count as the entries say."""
        links: dict[int, int] = dict.fromkeys(self._inodes, 0)
        for ino, names in entries.items():
            subdirectories = 0
            for name, child in list(names.items()):
                inode = self._inodes[child]
                if inode.is_dir():
                    if links[child]:
                        # A directory has one name; this is a second one of a tree that went wrong before.
                        del names[name]
                        continue
                    subdirectories += 1
                    if inode.parent != ino:
                        self._edit(child).parent = Ino(ino)
                links[child] += 1
            self._write_directory(ino, names, 2 + subdirectories)
        for ino, count in links.items():
            if ino not in entries and self._inodes[ino].nlink != count:
                self._edit(ino).nlink = count

    def _write_directory(self, ino: int, names: dict[bytes, int], nlink: int) -> None:
        inode = self._inodes[ino]
        buckets: dict[int, list[Dentry]] = {}
        for name, child in names.items():
            kind = stat.S_IFMT(self._inodes[child].mode) >> 12
            buckets.setdefault(name_key(name), []).append(Dentry(name, Ino(child), kind))
        old = {key: tuple(bucket) for key, bucket in radix.items(inode.tree, self.pages)}
        new = {key: tuple(sorted(bucket)) for key, bucket in buckets.items()}
        if old == new and inode.nlink == nlink and inode.size == len(names) and not self._holed(inode.tree):
            return
        inode = self._edit(ino)
        inode.tree = radix.build(sorted(new.items()))
        inode.size = len(names)
        inode.nlink = nlink
        inode.mtime_ns = inode.ctime_ns

    def _mend_file(self, inode: Inode) -> None:
        if inode.tree is None or not self._holed(inode.tree):
            return
        pairs: dict[int, Extent] = dict(radix.items(inode.tree, self.pages))
        for start, end in lost_ranges(inode, self.pages):
            for at in range(start, end, _PIECE):
                length = min(_PIECE, end - at)
                pairs[at] = Extent(length, ChunkRef(LOST_CHUNK, length), 0)
        inode = self._edit(inode.ino)
        inode.tree = radix.build(sorted(pairs.items()))
        inode.allocated = sum(extent.length for extent in pairs.values())

    def _holed(self, tree: Tree) -> bool:
        return next(holes(tree, self.pages), None) is not None


def lost_ranges(inode: Inode, pages: LenientPages) -> Iterator[tuple[int, int]]:
    """(start, end) of the bytes of a file whose place was in a damaged page: all that may have been data there."""
    for first, last, _ in holes(inode.tree, pages):
        following = next(radix.items(inode.tree, pages, last + 1), None)
        end = inode.size if following is None else following[0]
        before = radix.floor(inode.tree, first, pages) if first else None
        start = first if before is None else max(first, before[0] + before[1].length)
        if start < end:
            yield start, end


def store_tree(node: Node, put: Put) -> PageId:
    """Store a tree and everything below it, bottom-up. Its page id."""
    if node.stored is not None:
        return node.stored
    if type(node) is Branch:
        for index, kid in enumerate(node.kids):
            if isinstance(kid, Leaf | Branch):
                node.kids[index] = store_tree(kid, put)
    elif type(node) is Leaf and type(node.values[0]) is Inode:
        for inode in node.values:
            tree = inode.tree
            if isinstance(tree, Branch) or (
                isinstance(tree, Leaf) and len(page_format.encode(tree)) > page_format.INLINE_MAX
            ):
                inode.tree = store_tree(tree, put)
    encoded = page_format.encode(node)
    page_id = page_format.page_id(encoded)
    node.stored = page_id
    put(page_id, encoded)
    return page_id
