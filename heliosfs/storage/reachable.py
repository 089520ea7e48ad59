"""What stored trees reach: pages and chunks, each page once however many trees share it.

A walk knows which pages come next and which were seen; whoever drives it loads, decodes and breathes as it
likes: garbage collection in slices of the loop, fsck in a process of its own. Pages of a tree that is not
changed are shared between trees, so walking every snapshot costs O(distinct pages), not O(trees * pages).
Must not know: why pages are wanted, refs of branches, where pages are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from heliosfs.core import pages
from heliosfs.core.errors import Damaged
from heliosfs.core.extent import ChunkRef, Extent
from heliosfs.core.ids import PageId
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Branch, Leaf, Node


class Walk:
    """The order in which the pages below some roots are visited: depth first, each once.

    Attributes:
        seen: Every page that was handed out or waits; 0.1 KiB each.
    """

    __slots__ = ("_waiting", "seen")

    def __init__(self, roots: Iterable[PageId] = ()) -> None:
        self.seen: set[PageId] = set()
        self._waiting: list[PageId] = []
        self.add(roots)

    def __bool__(self) -> bool:
        """Whether pages wait."""
        return bool(self._waiting)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, page_ids: Iterable[PageId]) -> None:
        """Further pages to visit; those seen already are left out."""
        seen = self.seen
        for page_id in page_ids:
            if page_id not in seen:
                seen.add(page_id)
                self._waiting.append(page_id)

    def take(self, limit: int) -> list[PageId]:
        """Up to `limit` pages to load next; their nodes go to `visit`."""
        waiting = self._waiting
        taken = waiting[: -limit - 1 : -1]
        del waiting[-len(taken) :]
        return taken

    def visit(self, node: Node) -> None:
        """The pages that a loaded one names wait from now on."""
        self.add(kids_of(node))


class Visited(NamedTuple):
    """One page of a walk.

    Attributes:
        node: None where it can't be had; then `damage` says why.
    """

    page_id: PageId
    node: Node | None
    damage: Damaged | None


def walk_pages(walk: Walk, load: Callable[[PageId], bytes]) -> Iterator[Visited]:
    """Load and visit one page after another until none waits. A damaged page is told, and passed over.

    Args:
        load: The verified encoding of a page; raises Damaged.
    """
    while walk:
        (page_id,) = walk.take(1)
        try:
            node = pages.decode(load(page_id))
        except Damaged as damage:
            yield Visited(page_id, None, damage)
            continue
        walk.visit(node)
        yield Visited(page_id, node, None)


def kids_of(node: Node) -> list[PageId]:
    """Pages that a stored node names: kids of a branch; trees of the inodes in a leaf. O(items)."""
    if type(node) is Branch:
        return [PageId(kid) for kid in node.kids if isinstance(kid, bytes)]
    if type(node) is not Leaf or not node.values or type(node.values[0]) is not Inode:
        return []
    return [PageId(inode.tree) for inode in node.values if isinstance(inode.tree, bytes)]


def chunks_of(node: Node) -> list[ChunkRef]:
    """Chunks that a stored node names by itself: of an extent leaf, or of the inline lists in inodes. O(items)."""
    if type(node) is not Leaf or not node.values:
        return []
    first = node.values[0]
    if type(first) is Extent:
        return [extent.source for extent in node.values if type(extent.source) is ChunkRef]
    if type(first) is not Inode:
        return []
    found: list[ChunkRef] = []
    for inode in node.values:
        tree = inode.tree
        if type(tree) is Leaf and inode.is_file():
            found.extend(extent.source for extent in tree.values if type(extent.source) is ChunkRef)
    return found
