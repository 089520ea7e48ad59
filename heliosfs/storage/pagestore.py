"""Pages in RocksDB, and the shared cache of decoded nodes with its byte budget.

Every page is verified against its id when it is loaded (invariant 6). The cache gives nodes to the core:
a page that is not there raises NeedPages, so that the shell loads it off the loop, except inside
`blocking()`, where it is loaded at once (a replay, and the rare page that only `apply` finds it needs).
A page that was staged is as good as stored: it stays in memory until a write took it, whatever failed in between,
for the nodes that have its id are not encoded again. Must not know: what the pages mean.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final

from rocksdict import Rdict, WriteBatch

from cas import codec, database
from cas.database import Database
from cas.errors import FrameDamaged
from heliosfs.core import pages
from heliosfs.core.errors import Damaged, NeedPages
from heliosfs.core.ids import PageId
from heliosfs.core.radix import Node
from heliosfs.storage.collecting.claims import Claims
from heliosfs.storage.librarian import Librarian

PREFIX: Final = b"p"
BATCH: Final = 100
"""Records in a write batch: RocksDB's binding holds the interpreter lock throughout one (0.1 ms)."""
_WEIGHT: Final = 7
"""Bytes of Python objects for each byte of an encoded page; measured 5 (extents) to 8 (inodes)."""
_KEEP: Final = 64
"""Pages that stay whatever the budget: what a single call has had loaded must outlive its retry."""


class PageStore:
    """Encoded pages by id. Reads may be made from any thread, all else on the loop's."""

    def __init__(self, db: Database | Rdict | Librarian, claims: Claims | None = None) -> None:
        """Keep pages in `db`; in anything but a Database they can only be read."""
        self._db = db
        self._claims = claims or Claims()
        self._staged: dict[PageId, bytes] = {}

    def use(self, db: Database) -> None:
        """Keep pages there from now on: the same database, now ours."""
        self._db = db

    def load(self, page_id: PageId) -> bytes:
        """The verified encoding of a page. Raises Damaged (EIO) when it is missing or wrong. Blocks."""
        staged = self._staged.get(page_id)
        if staged is not None:
            return staged
        try:
            frame = self._db.get(PREFIX + page_id)
        except Exception as error:
            # RocksDB's have no class: a block that its own checksum finds wrong.
            raise Damaged(page_id.hex(), f"page {page_id.hex()} can't be read: {error}") from error
        if frame is None:
            raise Damaged(page_id.hex(), f"page {page_id.hex()} is missing")
        try:
            encoded = codec.decode(frame)
        except FrameDamaged as error:
            raise Damaged(page_id.hex(), f"page {page_id.hex()} is damaged") from error
        if pages.page_id(encoded) != page_id:
            raise Damaged(page_id.hex(), f"page {page_id.hex()} is damaged")
        return encoded

    def has(self, page_id: PageId) -> bool:
        """Whether it is stored. 0.7 us."""
        return page_id in self._staged or bool(self._db.get(PREFIX + page_id) is not None)

    def stage(self, page_id: PageId, encoded: bytes) -> bool:
        """A page to be stored by the next `flush`; it can be loaded at once. Whether BATCH of them wait."""
        self._claims.pages((page_id,))
        self._staged[page_id] = encoded
        return len(self._staged) >= BATCH

    def flush(self) -> tuple[int, int]:
        """Store what is staged, unsynced: (pages, bytes of their frames). OSError: those left stay staged."""
        assert isinstance(self._db, Database)
        pages_stored = stored = 0
        while self._staged:
            batch = list(islice(self._staged.items(), BATCH))
            writes = WriteBatch(raw_mode=True)
            pairs = [(PREFIX + page_id, codec.encode(encoded)) for page_id, encoded in batch]
            for key, frame in pairs:
                stored += len(frame)
                writes.put(key, frame)
            # Nodes in memory count as stored: what a failing database drops is put again.
            self._db.write(writes, again=pairs)
            for page_id, _ in batch:
                del self._staged[page_id]
            pages_stored += len(batch)
        return pages_stored, stored

    def ids(self) -> Iterator[tuple[PageId, int]]:
        """Every page in the database with the length of its frame, in order of ids. 8 us each. OSError: damage."""
        for key, frame in database.records(self._db, PREFIX):
            yield PageId(key[len(PREFIX) :]), len(frame)

    def delete(self, page_ids: Iterable[PageId]) -> None:
        """Delete at most BATCH pages that nothing reaches, unsynced. Raises OSError: none is deleted."""
        assert not isinstance(self._db, Librarian)
        writes = WriteBatch(raw_mode=True)
        for page_id in page_ids:
            writes.delete(PREFIX + page_id)
        database.write(self._db, writes)

    @property
    def unsynced_bytes(self) -> int:
        """Of pages that are held in memory until the next sync."""
        assert isinstance(self._db, Database)
        return self._db.unsynced_bytes

    def sync(self) -> None:
        """Make all pages stored so far power-safe. Blocks. Raises OSError."""
        assert not isinstance(self._db, Librarian)
        database.sync(self._db)


class PageCache:
    """Decoded nodes by page id, least recently used ones dropped above a budget.

    Attributes:
        hits, misses, evictions: True counts since the start.
        used_bytes: Estimate of the memory of what is kept.
    """

    def __init__(self, store: PageStore, budget_bytes: int) -> None:
        self._store = store
        self._nodes: OrderedDict[PageId, tuple[Node, int]] = OrderedDict()
        self._blocking = 0
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def node(self, page_id: PageId) -> Node:
        """The node. Raises NeedPages when it is not in memory, Damaged."""
        found = self._nodes.get(page_id)
        if found is not None:
            self.hits += 1
            self._nodes.move_to_end(page_id)
            return found[0]
        if not self._blocking:
            raise NeedPages((page_id,))
        return self.add(page_id, self._store.load(page_id))

    def add(self, page_id: PageId, encoded: bytes) -> Node:
        """Decode a page that has been loaded and verified, and keep it."""
        self.misses += 1
        node = pages.decode(encoded)
        self.keep(page_id, node, len(encoded))
        return node

    def keep(self, page_id: PageId, node: Node, encoded_bytes: int) -> None:
        """Keep a node, dropping others to stay within the budget."""
        nodes = self._nodes
        if page_id in nodes:
            nodes.move_to_end(page_id)
            return
        weight = encoded_bytes * _WEIGHT + 400
        nodes[page_id] = (node, weight)
        self.used_bytes += weight
        while self.used_bytes > self.budget_bytes and len(nodes) > _KEEP:
            _, (_, dropped) = nodes.popitem(last=False)
            self.used_bytes -= dropped
            self.evictions += 1

    def discard(self, page_id: PageId) -> None:
        """Drop a page if it is kept."""
        dropped = self._nodes.pop(page_id, None)
        if dropped is not None:
            self.used_bytes -= dropped[1]

    def load(self, page_id: PageId) -> bytes:
        """The encoding from the store, for a thread; pass it to `add` on the loop."""
        return self._store.load(page_id)

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Within, missing pages are read at once instead of raising NeedPages."""
        self._blocking += 1
        try:
            yield
        finally:
            self._blocking -= 1

    def begin_blocking(self) -> None:
        """As entering `blocking()`, without a context manager's cost (for every apply)."""
        self._blocking += 1

    def end_blocking(self) -> None:
        """Ends `begin_blocking`."""
        self._blocking -= 1
