"""Worker processes: reading, cutting, hashing, compressing and storing bytes outside the daemon's interpreter.

`WorkerPool` is the daemon's side (trio); the workers' side must start quickly, so this package imports
nothing heavy by itself: the pool is loaded when it is first asked for. docs/compaction.md tells the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliosfs.storage.workers.jobs import (
    ChunkSource,
    CutResult,
    CutRun,
    LogSource,
    ScannedNode,
    StoredFile,
    WorkerLost,
)

if TYPE_CHECKING:
    from heliosfs.storage.workers.pool import WorkerPool

__all__ = [
    "ChunkSource",
    "CutResult",
    "CutRun",
    "LogSource",
    "ScannedNode",
    "StoredFile",
    "WorkerLost",
    "WorkerPool",
]


def __getattr__(name: str) -> object:
    # trio takes 95 ms to import; a worker process never needs it.
    if name == "WorkerPool":
        from heliosfs.storage.workers.pool import WorkerPool

        return WorkerPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
