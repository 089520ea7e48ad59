"""Stored nodes for a check: a page that can't be had is taken for an empty leaf, and remembered.

So one walk goes through a whole tree however damaged it is; whoever walks asks afterwards what was missing.
Must not know: what trees mean.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from heliosfs.core import pages
from heliosfs.core.errors import Damaged
from heliosfs.core.ids import PageId
from heliosfs.core.radix import FANOUT_BITS, Branch, Leaf, Node, Tree

_KEPT: Final = 4096
"""Decoded nodes in memory: some 30 MB."""

_TOP: Final = (1 << 64) - 1


class StrictPages:
    """Decoded pages, read at once when they are wanted. Raises Damaged."""

    def __init__(self, load: Callable[[PageId], bytes]) -> None:
        self._load = load
        self._nodes: OrderedDict[PageId, Node] = OrderedDict()

    def node(self, page_id: PageId) -> Node:
        """See radix.Pages."""
        found = self._nodes.get(page_id)
        if found is not None:
            self._nodes.move_to_end(page_id)
            return found
        node = pages.decode(self._load(page_id))
        self._nodes[page_id] = node
        if len(self._nodes) > _KEPT:
            self._nodes.popitem(last=False)
        return node


class LenientPages:
    """The same, an empty leaf standing for what can't be had.

    Attributes:
        damaged: The pages that were wanted and can't be had, with the reason.
    """

    def __init__(self, strict: StrictPages) -> None:
        self._strict = strict
        self.damaged: dict[PageId, Damaged] = {}

    def node(self, page_id: PageId) -> Node:
        """See radix.Pages. Never raises."""
        if page_id in self.damaged:
            return Leaf([], [])
        try:
            return self._strict.node(page_id)
        except Damaged as damage:
            self.damaged[page_id] = damage
            return Leaf([], [])


def holes(tree: Tree, lenient: LenientPages) -> Iterator[tuple[int, int, PageId]]:
    """(first key, last key, page) of each damaged page in one tree: keys that it may have held. O(branches)."""
    if tree is None:
        return
    waiting: list[tuple[Tree, int, int]] = [(tree, 0, _TOP)]
    while waiting:
        part, first, last = waiting.pop()
        node = part
        if isinstance(part, bytes):
            node = lenient.node(PageId(part))
            if part in lenient.damaged:
                yield first, last, PageId(part)
                continue
        if type(node) is not Branch:
            continue
        for index, kid in enumerate(node.kids):
            if kid is not None and (isinstance(kid, bytes) or type(kid) is Branch):
                start = (node.prefix << FANOUT_BITS | index) << node.shift
                waiting.append((kid, start, start + (1 << node.shift) - 1))
