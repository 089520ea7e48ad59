"""A walk visits every page that a store's trees need, each once, and knows their chunks."""

from __future__ import annotations

import random
from pathlib import Path

from heliosfs.core import extent as extents
from heliosfs.core import radix
from heliosfs.core.extent import ChunkRef
from heliosfs.core.ids import ROOT_INO, PageId, node_id
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.storage.reachable import Walk, chunks_of, kids_of, walk_pages

ME = Caller(0, 0)


async def filled(fs: Filesystem) -> list[PageId]:
    """A tree with inline and paged extents and directories, two snapshots; the roots of all."""
    assert fs.engine.main is not None
    view = fs.engine.main.view
    root = node_id(view, ROOT_INO)
    noise = random.Random(1)
    for number in range(150):
        entry = await fs.make(root, b"file-%d" % number, 0o100644, ME)
        await fs.write(entry.node, 0, b"content %d" % number, ME)
    large = await fs.make(root, b"large", 0o100644, ME)
    for at in range(0, 6 << 20, 1 << 20):
        await fs.write(large.node, at, noise.randbytes(1 << 20), ME)
    await fs.checkpoint(view, b"one", ME)
    await fs.write(large.node, 0, b"changed", ME)
    await fs.checkpoint(view, b"two", ME)
    await fs.wait_persisted()
    roots = [snapshot.state.root for snapshot in fs.engine.main.snapshots.values()]
    assert all(root is not None for root in roots)
    return [root for root in roots if root is not None]


async def test_every_page_and_chunk_of_the_trees_is_met_and_no_page_twice(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        roots = await filled(fs)
        walk = Walk(roots)
        visited = list(walk_pages(walk, fs.page_store.load))
        ids = [found.page_id for found in visited]
        assert len(ids) == len(set(ids)) == len(walk.seen)
        assert all(found.damage is None for found in visited)
        chunks = {ref.id for found in visited if found.node is not None for ref in chunks_of(found.node)}
        wanted: set[bytes] = set()
        with fs.cache.blocking():
            for root in roots:
                for _, inode in radix.items(root, fs.cache):
                    if inode.is_file():
                        for _, found in radix.items(inode.tree, fs.cache):
                            assert isinstance(found, extents.Extent) and isinstance(found.source, ChunkRef)
                            wanted.add(found.source.id)
        assert chunks == wanted and len(wanted) > 150


async def test_a_missing_page_is_told_and_the_others_are_visited(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        roots = await filled(fs)
        whole = [found.page_id for found in walk_pages(Walk(roots), fs.page_store.load)]
        victim = next(
            found.page_id
            for found in walk_pages(Walk(roots), fs.page_store.load)
            if found.node is not None and not kids_of(found.node)
        )
        fs.db.delete(b"p" + victim)
        found = {each.page_id: each for each in walk_pages(Walk(roots), fs.page_store.load)}
        assert set(found) == set(whole)
        assert [each for each in found if found[each].damage is not None] == [victim]


def test_taking_more_than_waits_takes_what_waits() -> None:
    pages = [PageId(bytes([number]) * 32) for number in range(5)]
    walk = Walk(pages)
    assert walk.take(2) == [pages[4], pages[3]]
    assert walk.take(10) == [pages[2], pages[1], pages[0]]
    assert not walk and walk.take(3) == []
