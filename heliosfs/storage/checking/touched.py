"""Which paths and byte ranges of one tree the damaged objects of a store hold.

Must not know: how damage was found, who is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from heliosfs.core import radix
from heliosfs.core.extent import ChunkRef, LogData, locate
from heliosfs.core.ids import ROOT_INO, PageId
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Leaf, Tree
from heliosfs.core.view import GONE, State, View
from heliosfs.storage.checking.findings import Touched, text
from heliosfs.storage.checking.pages import LenientPages, holes

BadObject: TypeAlias = bytes | tuple[int, int]
"""A page's or chunk's id, or (life, offset) of a payload in the log."""

BadLog: TypeAlias = Mapping[tuple[int, int], list[tuple[int, int]]]
"""(life, payload offset) -> bad (start, end) in the payload."""


@dataclass(slots=True)
class Damage:
    """What is damaged in a store.

    Attributes:
        pages: Knows the damaged pages.
        chunks: Damaged or missing.
        log: Damaged payloads.
    """

    pages: LenientPages
    chunks: set[bytes] = field(default_factory=set)
    log: dict[tuple[int, int], list[tuple[int, int]]] = field(default_factory=dict)
    _dirty: dict[PageId, bool] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pages.damaged or self.chunks or self.log)

    def reaches(self, tree: Tree) -> bool:
        """Whether anything damaged is below a stored node or a tree. Each page is looked at once."""
        if tree is None:
            return False
        if not isinstance(tree, bytes):
            return self._reaches_node(tree)
        page_id = PageId(tree)
        known = self._dirty.get(page_id)
        if known is None:
            node = self.pages.node(page_id)
            known = page_id in self.pages.damaged or self._reaches_node(node)
            self._dirty[page_id] = known
        return known

    def _reaches_node(self, node: radix.Node) -> bool:
        if type(node) is not Leaf:
            return any(self.reaches(kid) for kid in node.kids)  # type: ignore[union-attr]
        return any(self._reaches_value(value) for value in node.values)

    def _reaches_value(self, value: object) -> bool:
        if isinstance(value, Inode):
            return self.reaches(value.tree)
        source = getattr(value, "source", None)
        if type(source) is ChunkRef:
            return source.id in self.chunks
        if type(source) is LogData:
            if (source.life, source.offset) in self.log:
                return True
            return any(chunk.id in self.chunks for _, _, chunk, _ in source.moved or ())
        return False

    def reaches_tree(self, tree: View | State) -> bool:
        """`reaches` for a whole version."""
        return self.reaches(tree.base) or any(
            isinstance(inode, Inode) and self.reaches(inode.tree) for _, inode in tree.overlay.items()
        )


def touched_by(
    tree: View | State, damage: Damage, branch: str, snapshot: str | None
) -> Iterator[tuple[BadObject, Touched]]:
    """What the damaged objects hold of one version. O(tree), its directories in memory meanwhile."""
    scan = _Scan(tree, damage)
    for object_, ino, ranges, names in scan.found():
        for path in scan.paths(ino):
            yield object_, Touched(branch, snapshot, path, ranges, names)


class _Scan:
    """One version of a tree, its names gathered."""

    def __init__(self, tree: View | State, damage: Damage) -> None:
        self._damage = damage
        self._pages = damage.pages
        self._base = tree.base
        self._inodes: dict[int, Inode] = dict(radix.items(tree.base, damage.pages))
        for number, changed in tree.overlay.items():
            if changed is GONE:
                self._inodes.pop(number, None)
            elif isinstance(changed, Inode):
                self._inodes[number] = changed
        self._names: dict[int, list[tuple[int, bytes]]] = {}
        for ino, inode in self._inodes.items():
            if inode.is_dir():
                for _, bucket in radix.items(inode.tree, damage.pages):
                    for name, child, _ in bucket:
                        self._names.setdefault(child, []).append((ino, name))

    def found(self) -> Iterator[tuple[BadObject, int, tuple[tuple[int, int], ...] | None, bool]]:
        """(object, inode number, ranges, whether names are lost)."""
        for first, last, page_id in holes(self._base, self._pages):
            for ino in self._names:
                if first <= ino <= last and ino not in self._inodes:
                    yield page_id, ino, None, False
            if first <= ROOT_INO <= last and int(ROOT_INO) not in self._inodes:
                yield page_id, ROOT_INO, None, False
        for ino, inode in self._inodes.items():
            if not self._damage.reaches(inode.tree):
                continue
            if inode.is_dir():
                for _, _, page_id in holes(inode.tree, self._pages):
                    yield page_id, ino, None, True
            else:
                bad: dict[BadObject, list[tuple[int, int]]] = {}
                for object_, start, end in _bad_ranges(inode, self._damage):
                    bad.setdefault(object_, []).append((start, end))
                for object_, ranges in bad.items():
                    yield object_, ino, merged(ranges), False

    def paths(self, ino: int) -> list[str]:
        """Every name of an inode, from the root; "?/..." where the way up is lost."""
        if ino == ROOT_INO:
            return [""]
        names = self._names.get(ino)
        if not names:
            return [f"?/inode {ino}"]
        found = []
        for parent, name in names:
            above = self._above(parent)
            found.append(text(b"/".join((*above, name))))
        return found

    def _above(self, ino: int) -> list[bytes]:
        parts: list[bytes] = []
        seen: set[int] = set()
        while ino != ROOT_INO:
            names = self._names.get(ino)
            if not names or ino in seen:
                parts.append(b"?")
                break
            seen.add(ino)
            above, name = names[0]
            ino = above
            parts.append(name)
        parts.reverse()
        return parts


def _bad_ranges(inode: Inode, damage: Damage) -> Iterator[tuple[BadObject, int, int]]:
    """(object, start, end) of the bytes of a file that can't be read."""
    for first, last, page_id in holes(inode.tree, damage.pages):
        following = next(radix.items(inode.tree, damage.pages, last + 1), None)
        end = inode.size if following is None else following[0]
        start = first
        before = radix.floor(inode.tree, first, damage.pages) if first else None
        if before is not None:
            start = max(first, before[0] + before[1].length)
        if start < end:
            yield page_id, start, end
    for offset, extent in radix.items(inode.tree, damage.pages):
        at = offset
        for source, start, length in locate(extent.source, extent.start, extent.length):
            if type(source) is ChunkRef:
                if source.id in damage.chunks:
                    yield source.id, at, at + length
            elif type(source) is LogData:
                key = (source.life, source.offset)
                for bad_start, bad_end in damage.log.get(key, ()):
                    low, high = max(bad_start, start), min(bad_end, start + length)
                    if low < high:
                        yield key, at + low - start, at + high - start
            at += length


def merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges sorted, adjoining ones joined."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return tuple(out)
