"""Every call of an open store into the operating system and RocksDB that can fail: what a test replaces.

The append path, packs (in worker processes) and the database each have their own table of labelled calls; this
is the three together. Must not know: when they are made.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cas.database import DatabaseCalls
from heliosfs.storage.log.oscalls import OsCalls
from heliosfs.storage.workers.handle import WORKER_MODULE


@dataclass(slots=True)
class StoreCalls:
    """The seams of a store.

    Attributes:
        log: The log's system calls.
        database: Calls into RocksDB.
        worker_module: What worker processes run; theirs are cas.packs.PackCalls.
    """

    log: OsCalls = field(default_factory=OsCalls)
    database: DatabaseCalls = field(default_factory=DatabaseCalls)
    worker_module: str = WORKER_MODULE
