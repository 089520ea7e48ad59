"""Writing trees to the page store, bottom-up. Must not know: which trees, when they become visible."""

from __future__ import annotations

from typing import Final

import trio

from heliosfs.core import pages as page_format
from heliosfs.core.ids import PageId
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Branch, Leaf, Node
from heliosfs.storage.breath import Breath
from heliosfs.storage.pagecache import PageCache
from heliosfs.storage.pagestore import PageStore

_UNSYNCED_MAX: Final = 8 << 20
"""Bytes of pages after which a sync comes between: until one they are held in memory a second time."""


class PageWriter:
    """Stores trees bottom-up; every node is written once and its kids are let go."""

    def __init__(self, store: PageStore, cache: PageCache, breath: Breath) -> None:
        self._store = store
        self._cache = cache
        self._breath = breath
        self.pages = 0
        self.stored_bytes = 0

    async def tree(self, node: Node) -> PageId:
        """Store a tree that is not stored yet, and everything below. Its page id."""
        if node.stored is not None:
            return node.stored
        if type(node) is Branch:
            for index, kid in enumerate(node.kids):
                if kid is not None and type(kid) is not bytes:
                    node.kids[index] = await self.tree(kid)  # type: ignore[arg-type]
        elif isinstance(node, Leaf) and type(node.values[0]) is Inode:
            for inode in node.values:
                await self._content(inode)
        encoded = page_format.encode(node)
        page_id = page_format.page_id(encoded)
        node.stored = page_id
        # Staged in the turn in which the node gets its id: a node with an id is never written again.
        full = self._store.stage(page_id, encoded)
        self._cache.keep(page_id, node, len(encoded))
        if full:
            self.flush()
            if self._store.unsynced_bytes > _UNSYNCED_MAX:
                await trio.to_thread.run_sync(self._store.sync)
        await self._breath.take()
        return page_id

    async def _content(self, inode: Inode) -> None:
        """Store the entries or extents of an inode that is about to be encoded."""
        tree = inode.tree
        if tree is None or type(tree) is bytes:
            return
        if type(tree) is Leaf and tree.stored is None and len(page_format.encode(tree)) <= page_format.INLINE_MAX:
            return
        inode.tree = await self.tree(tree)  # type: ignore[arg-type]

    def flush(self) -> None:
        """Hand what is gathered to the page store, unsynced."""
        pages, stored_bytes = self._store.flush()
        self.pages += pages
        self.stored_bytes += stored_bytes
