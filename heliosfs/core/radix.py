"""A persistent radix tree over integer keys, used live and stored alike.

Directories (key: hash of the name), extent lists (key: offset) and inode tables (key: inode number) are
this tree. Nodes never change meaning once made: an edit copies the path to the root, O(log n), so every
older root stays whole. The shape depends on the present keys alone (invariant 1), which makes equal trees
have equal page ids:

* at most LEAF_MAX items: one `Leaf`;
* more: a `Branch` at the highest 4 bits in which the keys differ, one kid for each value of these bits.

A kid, or a whole tree, may be a `PageId`: it is stored and not in memory; `Pages.node` gives it or raises
NeedPages. Must not know: what the values mean, how pages are encoded or kept.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, TypeAlias

from heliosfs.core.ids import PageId

LEAF_MAX: Final = 64
"""Items in a leaf. 64 keeps a leaf's copy below 0.3 us and its page around 2 to 6 KiB."""

FANOUT_BITS: Final = 4
_FANOUT: Final = 1 << FANOUT_BITS
_MASK: Final = _FANOUT - 1


class Leaf:
    """Up to LEAF_MAX items in order of their keys. Never edited after it is made.

    Attributes:
        stored: Its page id once it has been written, else None.
    """

    __slots__ = ("keys", "stored", "values")

    def __init__(self, keys: list[int], values: list[Any]) -> None:
        self.keys = keys
        self.values = values
        self.stored: PageId | None = None


class Branch:
    """More than LEAF_MAX items, divided by the bits [shift, shift + 4) of their keys.

    Every key has the same bits above: `key >> (shift + 4) == prefix`. A kid in memory may be replaced by its
    page id once stored; nothing else is ever edited.
    """

    __slots__ = ("count", "kids", "prefix", "shift", "stored")

    def __init__(self, shift: int, prefix: int, count: int, kids: list[Tree]) -> None:
        self.shift = shift
        self.prefix = prefix
        self.count = count
        self.kids = kids
        self.stored: PageId | None = None


Node: TypeAlias = Leaf | Branch
Tree: TypeAlias = Leaf | Branch | PageId | None
"""None is the empty tree."""


class Pages(Protocol):
    """Gives stored nodes."""

    def node(self, page_id: PageId) -> Node:
        """The decoded page. Raises NeedPages when it is not in memory, Damaged when it cannot be had."""
        ...


def resolve(tree: Tree, pages: Pages) -> Node | None:
    """The tree's root node in memory."""
    return pages.node(tree) if type(tree) is bytes else tree  # type: ignore[return-value]


def count(tree: Tree, pages: Pages) -> int:
    """Number of items. O(1) but for loading the root."""
    node = resolve(tree, pages)
    if node is None:
        return 0
    return len(node.keys) if type(node) is Leaf else node.count  # type: ignore[union-attr]


def get(tree: Tree, key: int, pages: Pages) -> Any:
    """The value of `key`, or None. O(log n)."""
    while True:
        if type(tree) is Branch:
            # A key that it does not cover leads to a leaf that lacks it.
            tree = tree.kids[(key >> tree.shift) & _MASK]
        elif type(tree) is Leaf:
            keys = tree.keys
            at = bisect_left(keys, key)
            return tree.values[at] if at < len(keys) and keys[at] == key else None
        elif tree is None:
            return None
        else:
            assert type(tree) is bytes
            tree = pages.node(tree)


def floor(tree: Tree, key: int, pages: Pages) -> tuple[int, Any] | None:
    """The item with the greatest key that is not above `key`. O(log n)."""
    node = resolve(tree, pages)
    if node is None:
        return None
    if type(node) is Leaf:
        at = bisect_right(node.keys, key)
        return (node.keys[at - 1], node.values[at - 1]) if at else None
    assert type(node) is Branch
    above = key >> (node.shift + FANOUT_BITS)
    if above < node.prefix:
        return None
    index = (key >> node.shift) & _MASK if above == node.prefix else _MASK
    while index >= 0:
        kid = node.kids[index]
        if kid is not None:
            found = floor(kid, key, pages)
            if found is not None:
                return found
        index -= 1
    return None


def items(tree: Tree, pages: Pages, start: int = 0) -> Iterator[tuple[int, Any]]:
    """Items with keys >= `start`, in order; loads pages as it goes."""
    node = resolve(tree, pages)
    if node is None:
        return
    if type(node) is Leaf:
        keys = node.keys
        at = bisect_left(keys, start) if start else 0
        if at:
            yield from zip(keys[at:], node.values[at:], strict=True)
        else:
            yield from zip(keys, node.values, strict=True)
        return
    assert type(node) is Branch
    above = start >> (node.shift + FANOUT_BITS)
    if above > node.prefix:
        return
    first = (start >> node.shift) & _MASK if above == node.prefix else 0
    for index in range(first, _FANOUT):
        kid = node.kids[index]
        if kid is not None:
            yield from items(kid, pages, start)


def build(pairs: Sequence[tuple[int, Any]]) -> Node | None:
    """The tree of `pairs`, which are sorted by distinct keys. O(n)."""
    if not pairs:
        return None
    if len(pairs) <= LEAF_MAX:
        return Leaf([key for key, _ in pairs], [value for _, value in pairs])
    shift = _shift_between(pairs[0][0], pairs[-1][0])
    kids: list[Tree] = [None] * _FANOUT
    keys = [key for key, _ in pairs]
    base = keys[0] >> (shift + FANOUT_BITS) << (shift + FANOUT_BITS)
    low = 0
    for index in range(_FANOUT):
        high = bisect_left(keys, base + ((index + 1) << shift), low)
        if high > low:
            kids[index] = build(pairs[low:high])
        low = high
    return Branch(shift, keys[0] >> (shift + FANOUT_BITS), len(pairs), kids)


def insert(tree: Tree, key: int, value: Any, pages: Pages) -> Node:
    """The tree with `key` set to `value`. O(log n); `tree` stays as it was."""
    path: list[tuple[Branch, int]] = []
    at, node = _descend(tree, key, pages, path)
    if node is None:
        return _rise(path, Leaf([key], [value]), 1)
    if type(node) is Branch:
        return _rise(path, _above(node, key, Leaf([key], [value])), 1)
    assert type(node) is Leaf
    if at < 0:
        values = node.values.copy()
        values[~at] = value
        return _rise(path, Leaf(node.keys, values), 0)
    return _rise(path, _grown(node, at, key, value), 1)


def insert_new(tree: Tree, key: int, value: Any, pages: Pages) -> Node | None:
    """As `insert`, but None where `key` is there already. Saves a new name the look-up before."""
    path: list[tuple[Branch, int]] = []
    at, node = _descend(tree, key, pages, path)
    if at < 0:
        return None
    if type(node) is Leaf:
        return _rise(path, _grown(node, at, key, value), 1)
    leaf = Leaf([key], [value])
    return _rise(path, leaf if node is None else _above(node, key, leaf), 1)  # type: ignore[arg-type]


def remove(tree: Tree, key: int, pages: Pages) -> Node | None:
    """The tree without `key`; the same tree when it is not there. O(log n)."""
    return pop(tree, key, pages)[0]


def pop(tree: Tree, key: int, pages: Pages) -> tuple[Node | None, Any]:
    """The tree without `key`, and the value that it had, or None. O(log n)."""
    path: list[tuple[Branch, int]] = []
    at, leaf = _descend(tree, key, pages, path)
    if at >= 0:
        return resolve(tree, pages), None
    assert type(leaf) is Leaf
    at = ~at
    value = leaf.values[at]
    node: Node | None = None
    if len(leaf.keys) > 1:
        node = Leaf(leaf.keys[:at] + leaf.keys[at + 1 :], leaf.values[:at] + leaf.values[at + 1 :])
    for branch, index in reversed(path):
        kids = branch.kids.copy()
        kids[index] = node
        left = branch.count - 1
        if node is not None and left > LEAF_MAX:
            node = Branch(branch.shift, branch.prefix, left, kids)
        else:
            node = _settle(branch.shift, branch.prefix, left, kids, pages)
    return node, value


def _descend(tree: Tree, key: int, pages: Pages, path: list[tuple[Branch, int]]) -> tuple[int, Node | None]:
    """Walk to where `key` is or belongs, noting the branches passed and the kid taken in each.

    Returns:
        (~place, leaf) where the leaf has the key; (place, leaf) where it lacks it; (0, None) for an empty kid;
        (0, branch) for a branch that does not cover the key.
    """
    while True:
        kind = type(tree)
        if kind is Branch:
            shift = tree.shift  # type: ignore[union-attr]
            if key >> (shift + FANOUT_BITS) != tree.prefix:  # type: ignore[union-attr]
                return 0, tree  # type: ignore[return-value]
            index = (key >> shift) & _MASK
            path.append((tree, index))  # type: ignore[arg-type]
            tree = tree.kids[index]  # type: ignore[union-attr]
        elif kind is Leaf:
            keys = tree.keys  # type: ignore[union-attr]
            at = bisect_left(keys, key)
            return (~at if at < len(keys) and keys[at] == key else at), tree  # type: ignore[return-value]
        elif tree is None:
            return 0, None
        else:
            tree = pages.node(tree)  # type: ignore[arg-type]


def _grown(leaf: Leaf, at: int, key: int, value: Any) -> Node:
    """The leaf with one item more, at this place; divided if that is one too many."""
    keys = leaf.keys.copy()
    values = leaf.values.copy()
    keys.insert(at, key)
    values.insert(at, value)
    if len(keys) <= LEAF_MAX:
        return Leaf(keys, values)
    grown = build(list(zip(keys, values, strict=True)))
    assert grown is not None
    return grown


def _rise(path: list[tuple[Branch, int]], node: Node, added: int) -> Node:
    """The root over `node`, which replaces the kid at the end of the path."""
    for branch, index in reversed(path):
        kids = branch.kids.copy()
        kids[index] = node
        node = Branch(branch.shift, branch.prefix, branch.count + added, kids)
    return node


def update(tree: Tree, changes: Sequence[tuple[int, Any]], pages: Pages) -> Node | None:
    """The tree with many changes at once: (key, value), or (key, None) to remove; sorted, distinct keys.

    Equal to inserting and removing them one by one. O(changes * log n), and each node copied once.
    """
    node = resolve(tree, pages)
    if not changes:
        return node
    if node is None:
        return build([change for change in changes if change[1] is not None])
    if len(changes) == 1:
        key, value = changes[0]
        return remove(node, key, pages) if value is None else insert(node, key, value, pages)
    if type(node) is Leaf:
        merged = dict(zip(node.keys, node.values, strict=True))
        for key, value in changes:
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = value
        return build(sorted(merged.items()))
    assert type(node) is Branch
    top = node.shift + FANOUT_BITS
    low = bisect_left(changes, node.prefix << top, key=_first)
    high = bisect_left(changes, (node.prefix + 1) << top, key=_first)
    inside = _update_inside(node, changes[low:high], pages) if high > low else node
    outside = [c for c in (*changes[:low], *changes[high:]) if c[1] is not None]
    if not outside:
        return inside
    if inside is None:
        return build(outside)
    return _join(inside, outside, pages)


def difference(old: Tree, new: Tree, pages: Pages) -> Iterator[tuple[int, Any, Any]]:
    """(key, old value or None, new value or None) of each key whose item may differ.

    Subtrees that are the same node or the same page are skipped, so it costs O(changes * log n).
    Values are compared by identity and equality.
    """
    if old is new or (_page_of(old) is not None and _page_of(old) == _page_of(new)):
        return
    a = resolve(old, pages)
    b = resolve(new, pages)
    if a is None or b is None:
        for key, value in items(a or b, pages):
            yield (key, value, None) if b is None else (key, None, value)
        return
    if type(a) is Branch and type(b) is Branch:
        for index, kid_a, kid_b in _aligned(a, b):
            if index >= 0:
                yield from difference(kid_a, kid_b, pages)
                continue
            break
        else:
            return
    yield from _difference_of_items(a, b, pages)


def _aligned(a: Branch, b: Branch) -> Iterator[tuple[int, Tree, Tree]]:
    """Pairs of kids that cover the same keys; a single (-1, ...) when the two cannot be aligned."""
    if a.shift == b.shift and a.prefix == b.prefix:
        for index in range(_FANOUT):
            yield index, a.kids[index], b.kids[index]
    elif a.shift > b.shift and b.prefix >> (a.shift - b.shift) == a.prefix:
        inner = (b.prefix >> (a.shift - b.shift - FANOUT_BITS)) & _MASK
        for index in range(_FANOUT):
            yield index, a.kids[index], b if index == inner else None
    elif b.shift > a.shift and a.prefix >> (b.shift - a.shift) == b.prefix:
        inner = (a.prefix >> (b.shift - a.shift - FANOUT_BITS)) & _MASK
        for index in range(_FANOUT):
            yield index, a if index == inner else None, b.kids[index]
    else:
        yield -1, None, None


def _difference_of_items(a: Node, b: Node, pages: Pages) -> Iterator[tuple[int, Any, Any]]:
    left = dict(items(a, pages))
    for key, value in items(b, pages):
        before = left.pop(key, None)
        if before is not value and before != value:
            yield key, before, value
    for key, before in left.items():
        yield key, before, None


def _update_inside(node: Branch, changes: Sequence[tuple[int, Any]], pages: Pages) -> Node | None:
    shift = node.shift
    kids = node.kids.copy()
    total = node.count
    base = node.prefix << (shift + FANOUT_BITS)
    low = 0
    while low < len(changes):
        index = (changes[low][0] >> shift) & _MASK
        high = bisect_left(changes, base + ((index + 1) << shift), low, key=_first)
        kid = resolve(kids[index], pages)
        new_kid = update(kid, changes[low:high], pages)
        total += _size(new_kid) - _size(kid)
        kids[index] = new_kid
        low = high
    return _settle(shift, node.prefix, total, kids, pages)


def _settle(shift: int, prefix: int, total: int, kids: list[Tree], pages: Pages) -> Node | None:
    """Make the canonical node of these kids: collapse what is small, drop a branch with one kid."""
    if total <= LEAF_MAX:
        keys: list[int] = []
        values: list[Any] = []
        for kid in kids:
            for key, value in items(kid, pages):
                keys.append(key)
                values.append(value)
        return Leaf(keys, values) if keys else None
    only: Tree = None
    for kid in kids:
        if kid is not None:
            if only is not None:
                return Branch(shift, prefix, total, kids)
            only = kid
    return resolve(only, pages)


def _join(node: Node, outside: list[tuple[int, Any]], pages: Pages) -> Node:
    """Add items whose keys lie outside of the range that `node` covers."""
    if type(node) is Leaf or len(outside) == 1:
        tree: Node = node
        for key, value in outside:
            tree = insert(tree, key, value, pages)
        return tree
    assert type(node) is Branch
    first = _above(node, outside[0][0], Leaf([outside[0][0]], [outside[0][1]]))
    rest = update(first, outside[1:], pages)
    assert rest is not None
    return rest


def _above(node: Branch, key: int, leaf: Leaf) -> Branch:
    """A branch over `node` and the one-item leaf of a key that is outside of it."""
    inner = node.prefix << (node.shift + FANOUT_BITS)
    shift = _shift_between(inner, key)
    kids: list[Tree] = [None] * _FANOUT
    kids[(inner >> shift) & _MASK] = node
    kids[(key >> shift) & _MASK] = leaf
    return Branch(shift, key >> (shift + FANOUT_BITS), node.count + 1, kids)


def _shift_between(a: int, b: int) -> int:
    """The position of the highest 4-bit digit in which two different keys differ."""
    return ((a ^ b).bit_length() - 1) // FANOUT_BITS * FANOUT_BITS


def _size(node: Node | None) -> int:
    if node is None:
        return 0
    return len(node.keys) if type(node) is Leaf else node.count  # type: ignore[union-attr]


def _page_of(tree: Tree) -> PageId | None:
    if tree is None:
        return None
    return tree if type(tree) is bytes else tree.stored  # type: ignore[union-attr]


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]
