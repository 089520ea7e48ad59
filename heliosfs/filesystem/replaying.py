"""The state that a store's refs and its log make: loaded, then brought up record by record.

Whoever opens a store does this in one go; who follows another process's log does it as that grows. Must not know:
where records come from.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from cas.database import Database
from heliosfs.core import oplog, radix
from heliosfs.core.apply import apply
from heliosfs.core.engine import Engine
from heliosfs.core.errors import Damaged
from heliosfs.core.ids import Ino, Lsn
from heliosfs.filesystem.continuing import Continuation
from heliosfs.storage import refstore
from heliosfs.storage.collecting.claims import Claims
from heliosfs.storage.librarian import Librarian
from heliosfs.storage.log import Place
from heliosfs.storage.pagecache import PageCache
from heliosfs.storage.pagestore import PageStore


class Replay:
    """One replay. Records are applied inside `cache.blocking()`.

    Attributes:
        head: What the refs say of themselves, as it is stored; None for a store that never had a cut.
        start: Position that the log is to be replayed from.
    """

    def __init__(
        self, db: Database | Librarian, store: Path, memory: int, claims: Claims, continuation: Continuation
    ) -> None:
        """Load the refs. Raises Damaged, OSError. O(branches + snapshots)."""
        self.claims = claims
        self.continuation = continuation
        self.page_store = PageStore(db, claims)
        self.cache = PageCache(self.page_store, memory // 2)
        self.engine = Engine(self.cache)
        stored = refstore.load(db, self.engine)
        self.head = None if stored is None else stored.head
        self.start = Lsn(0) if stored is None else stored.position
        if stored is None:
            owner = os.stat(store)
            self.engine.found(owner.st_uid, owner.st_gid, time.time_ns())
        continuation.begin(self.engine)
        if stored is not None:
            # Records behind the cut may write to files that were unlinked before it.
            with self.cache.blocking():
                for branch in self.engine.branches.values():
                    table = stored.orphans.get(branch.id)
                    branch.orphans.update((Ino(ino), inode) for ino, inode in radix.items(table, self.cache))

    def record(self, lsn: Lsn, end: Lsn, kind: int, body: bytes | memoryview, place: Place) -> None:
        """Apply the next record. Raises Damaged, OSError."""
        try:
            record = oplog.decode(kind, body)
        except oplog.BadRecord as error:
            raise Damaged(f"log record {lsn}", f"log record at {lsn}: {error}") from error
        engine = self.engine
        engine.last_ns = max(engine.last_ns, getattr(record, "now_ns", 0))
        try:
            result = apply(engine, record, place)
        except (Damaged, OSError):
            raise
        except Exception as error:
            # It was planned against another state: bytes that were not written so, or a bug of ours.
            name = type(record).__name__
            what = f"log record at {lsn} ({name}) does not fit what is stored: {error!r}"
            raise Damaged(f"log record {lsn}", what) from error
        if self.continuation:
            self.continuation.applied(engine, record, body, place, result)
