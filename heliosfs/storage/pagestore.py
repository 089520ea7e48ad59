"""Pages in RocksDB.

Every page is verified against its id when it is loaded (invariant 6). A page that was staged is as good as stored:
it stays in memory until a write took it, whatever failed in between, for the nodes that have its id are not encoded
again. Must not know: what the pages mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from rocksdict import Rdict, WriteBatch

from cas import codec, database
from cas.database import Database
from cas.errors import FrameDamaged
from heliosfs.core import pages
from heliosfs.core.errors import Damaged
from heliosfs.core.ids import PageId
from heliosfs.storage.collecting.claims import Claims
from heliosfs.storage.librarian import Librarian

PREFIX: Final = b"p"
BATCH: Final = 100
"""Records in a write batch: RocksDB's binding holds the interpreter lock throughout one (0.1 ms)."""


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
