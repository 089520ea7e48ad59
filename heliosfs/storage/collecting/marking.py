"""What a store reaches: pages and chunks, from everything that may still be asked for.

Roots are taken in one turn of the loop, between two cuts (`take_roots`), with every branch frozen: what is walked
afterwards never changes, however long the walk takes and whatever writers do meanwhile. What they reach later is
reached from these roots, or recorded by the claims (claims.py). The roots:
- the refs in the database: a replay starts from them, and may restore what was forgotten since;
- trees that records since the last cut adopt (`Engine.logged_roots`): a replay needs them, too;
- live branches, snapshots, unlinked open files: after a cut they may still hold parts of chunks that no stored
  tree names;
- versions that running work holds.
Must not know: what becomes of the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import trio

from heliosfs.core import pages
from heliosfs.core.engine import Engine
from heliosfs.core.extent import ChunkRef, Extent, locate
from heliosfs.core.ids import Lsn, PageId
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Branch, Leaf, Tree
from heliosfs.core.view import State
from heliosfs.storage.collecting.claims import Claims, IdSet
from heliosfs.storage.collecting.pace import Pace
from heliosfs.storage.pagestore import PageStore
from heliosfs.storage.reachable import Walk, chunks_of, kids_of

_LOAD: Final = 32
"""Pages that a thread loads at a time: it has the interpreter lock for 1 ms in all, in pieces of 30 us."""


@dataclass(slots=True)
class Roots:
    """Where walks begin.

    Attributes:
        pages: Stored trees.
        states: Frozen versions, partly in memory.
        inodes: Unlinked files that are open.
    """

    pages: set[PageId] = field(default_factory=set)
    states: list[State] = field(default_factory=list)
    inodes: list[Inode] = field(default_factory=list)


@dataclass(slots=True)
class Reached:
    """What was found.

    Attributes:
        pages, chunks: Ids.
    """

    pages: set[PageId] = field(default_factory=set)
    chunks: IdSet = field(default_factory=IdSet)


def take_roots(engine: Engine, claims: Claims, log_end: int, stored: Iterable[PageId]) -> Roots:
    """All roots, now; every branch is frozen. O(branches + snapshots), 0.5 us each. Between two cuts.

    Args:
        stored: Roots of the refs in the database.
    """
    roots = Roots(set(stored))
    roots.pages.update(root for _, root in engine.logged_roots)
    versions: list[State] = [state for claim in claims.open for state in claim.states]
    versions += engine.requested
    for branch in engine.branches.values():
        # Inodes of a frozen version are never edited in place again, unlinked ones included.
        versions.append(branch.head.freeze(Lsn(log_end)))
        versions += [snapshot.state for snapshot in branch.snapshots.values()]
        roots.inodes += branch.orphans.values()
    seen: set[int] = set()
    for version in versions:
        at: State | None = version
        while at is not None and id(at) not in seen:
            seen.add(id(at))
            if at.root is not None:
                # A cut starts from the newest stored ancestor of a version that it stores.
                roots.pages.add(at.root)
                break
            roots.states.append(at)
            at = at.parent
    return roots


async def mark(roots: Roots, store: PageStore, pace: Pace) -> Reached:
    """Walk everything. O(pages reached), in slices; pages are loaded by a thread.

    Raises:
        Damaged: A page can't be had (EIO). What lies below it is not known, so nothing may be deleted.
    """
    reached = Reached()
    walk = Walk(roots.pages)
    await _walk_memory(roots, walk, reached, pace)
    while walk:
        for encoded in await trio.to_thread.run_sync(_load, store, walk.take(_LOAD)):
            node = pages.decode(encoded)
            walk.add(kids_of(node))
            reached.chunks.update([chunk.id for chunk in chunks_of(node)])
            await pace.take()
    reached.pages = walk.seen
    return reached


def _load(store: PageStore, ids: list[PageId]) -> list[bytes]:
    return [store.load(page_id) for page_id in ids]


async def _walk_memory(roots: Roots, walk: Walk, reached: Reached, pace: Pace) -> None:
    """What of the roots is in memory: their chunks, and the stored pages that they name."""
    done: set[int] = set()
    for state in roots.states:
        walk.add(_pages_in(state.base))
        overlay = iter(state.overlay.values())
        while group := list(islice(overlay, 64)):
            for found in group:
                if isinstance(found, Inode) and id(found) not in done:
                    # Shared by versions; all of them are held by `roots`, so no id comes twice.
                    done.add(id(found))
                    await _walk_inode(found, walk, reached, pace)
            await pace.take()
    for inode in roots.inodes:
        await _walk_inode(inode, walk, reached, pace)


async def _walk_inode(inode: Inode, walk: Walk, reached: Reached, pace: Pace) -> None:
    for tree in _nodes_in(inode.tree):
        if type(tree) is bytes:
            walk.add((PageId(tree),))
        elif isinstance(tree, (Leaf, Branch)):
            if tree.stored is not None:
                # Never written again, as it has its id: the page must stay, even if no stored tree names it.
                walk.add((tree.stored,))
            if isinstance(tree, Leaf) and inode.is_file():
                reached.chunks.update(_chunks_in(tree))
        await pace.take()


def _nodes_in(tree: Tree) -> Iterator[Tree]:
    """The nodes of a tree that are in memory, and the page ids where it goes on."""
    waiting = [tree]
    while waiting:
        at = waiting.pop()
        if at is None:
            continue
        yield at
        if isinstance(at, Branch):
            waiting += [kid for kid in at.kids if kid is not None]


def _pages_in(tree: Tree) -> list[PageId]:
    """The page of an inode table, which is stored whenever it is a base."""
    if tree is None:
        return []
    if isinstance(tree, bytes):
        return [tree]
    assert tree.stored is not None, "a base that is not stored"
    return [tree.stored]


def _chunks_in(leaf: Leaf) -> Iterator[bytes]:
    """Chunks of extents, those that log data has become included, as far as the extents reach."""
    for extent in leaf.values:
        assert isinstance(extent, Extent)
        for source, _, _ in locate(extent.source, extent.start, extent.length):
            if isinstance(source, ChunkRef):
                yield source.id
