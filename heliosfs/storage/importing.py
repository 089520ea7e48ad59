"""Importing a directory tree: a branch becomes equal to it.

Workers walk the tree and read its files; this process only keeps the list of nodes. What a file of the
branch already has by path, size and mtime is not read again. Nothing of the branch changes before
everything is stored; then one record swaps the tree. Must not know: packs, the log, how trees are kept.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import trio

from heliosfs.core.ids import ViewNo
from heliosfs.core.imported import ImportedNode
from heliosfs.storage.importing_nodes import FileToRead, Importer, Known, NodeList
from heliosfs.storage.workers import ScannedNode, StoredFile, WorkerLost, WorkerPool
from heliosfs.storage.workers.jobs import ScanWarning

_BATCH_FILES: Final = 128
_BATCH_BYTES: Final = 4 << 20
"""Content of one batch: small enough for all workers to end at about the same time."""

_BREATH: Final = 50
"""Nodes taken in between two turns of the event loop: 0.3 ms, and as much for what the branch has."""

_TRIES: Final = 3

Progress = Callable[[int, int], None]
"""Told now and then of the files and the bytes that are done, unchanged ones included."""


class ImportTarget(Protocol):
    """What of the filesystem an import uses (heliosfs/filesystem has it).

    Attributes:
        pool: The workers that store into this filesystem's packs.
    """

    pool: WorkerPool

    def find_branch(self, path: bytes) -> Any:
        """The branch, with its `view`. Raises FsError ENOENT."""
        ...

    def import_baseline(self, view: ViewNo, path: bytes) -> Known | None:
        """What a branch has at a path now."""
        ...

    async def adopt(
        self, view: ViewNo, nodes: Sequence[ImportedNode], caller: Any, *, drops: int | None = None
    ) -> Any:
        """Make a branch equal to `nodes`, after a safety snapshot, and snapshot it: an Outcome."""
        ...

    async def publish(self, changes: Sequence[Any]) -> None:
        """Tell the kernel."""
        ...


@dataclass(slots=True, frozen=True)
class ImportResult:
    """What an import did.

    Attributes:
        files: Names in the tree, directories and others included, its root not.
        bytes: Logical size of its regular files, each counted once.
        new_bytes: Of these, what the store did not have yet (decoded).
        unchanged: Files that were not read again.
        snapshot: Name of the snapshot made.
        warnings: What was left out or changed while it was read, one line each.
    """

    files: int
    bytes: int
    new_bytes: int
    unchanged: int
    snapshot: str
    warnings: list[str]


async def import_tree(
    fs: ImportTarget, directory: bytes, branch: bytes, progress: Progress, caller: Importer
) -> ImportResult:
    """Make `branch` equal to the tree at `directory`, deletions included, and snapshot it.

    Owners, modes, times, hard links, xattrs and holes are kept. What can't be read is left out with a
    warning. By a caller who is not root, other people's files become his.

    Args:
        directory: A directory, or a symbolic link to one.
        branch: Its path, b"main/exp".
        progress: See Progress.
        caller: A filesystem's Caller.

    Raises:
        FsError: No such branch (ENOENT).
        OSError: The tree's root can't be walked (ENOENT, ENOTDIR, EACCES), or the store can't take it
            (ENOSPC, EIO): the branch is as it was.

    Memory: about 1 KiB for each name. Disk: 100 us for each small file and worker, once; 15 us where it
    is unchanged.
    """
    # From the first question of a worker until the record that adopts the tree is applied.
    with fs.pool.claims.claim():
        return await _import(fs, directory, branch, progress, caller)


async def _import(
    fs: ImportTarget, directory: bytes, branch: bytes, progress: Progress, caller: Importer
) -> ImportResult:
    info = fs.find_branch(branch)
    view = info.view
    pool = fs.pool
    # A branch that has its root alone has nothing to compare with.
    baseline = partial(fs.import_baseline, view) if info.files > 1 else None
    pool.start()
    before = pool.stats().new_raw_bytes
    drops = pool.drops
    tries = 0
    while True:
        reading = _Reading(pool, directory, baseline, progress, caller)
        try:
            await reading.run()
            break
        except WorkerLost:
            # A walk can't be continued by another worker. What was stored is found stored.
            tries += 1
            if tries == _TRIES:
                raise
    new_bytes = pool.stats().new_raw_bytes - before
    nodes = reading.list.finished()
    outcome = await fs.adopt(view, nodes, caller, drops=drops)
    await fs.publish(outcome.changes)
    outcome.told()
    return ImportResult(
        len(nodes) - 1,
        sum(node.size for node in nodes if node.link_to < 0),
        new_bytes,
        reading.list.unchanged,
        outcome.name or "",
        reading.list.warnings,
    )


class _Reading:
    """One attempt to walk a tree and store its files: the walk goes on while files are read."""

    def __init__(
        self,
        pool: WorkerPool,
        directory: bytes,
        baseline: Callable[[bytes], Known | None] | None,
        progress: Progress,
        caller: Importer,
    ) -> None:
        self.list = NodeList(directory, baseline, caller)
        self._pool = pool
        self._directory = directory
        self._progress = progress
        self._batch: list[FileToRead] = []
        self._batch_bytes = 0
        self._files = 0
        self._bytes = 0
        self._error: OSError | None = None
        # Without bound: a walk that waits for a reader could wait for the worker that does the walk. The
        # nodes are in memory in any case.
        self._send, self._receive = trio.open_memory_channel[list[FileToRead]](math.inf)

    async def run(self) -> None:
        """Walk and store. Raises OSError."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._pool.count + 1):
                nursery.start_soon(self._store_batches)
            try:
                await self._pool.scan_tree(self._directory, self._take)
            except WorkerLost as error:
                self._error = error
                nursery.cancel_scope.cancel()
            except OSError as error:
                self._error = OSError(error.errno, error.strerror, self._directory)
                nursery.cancel_scope.cancel()
            self._hand_on()
            self._send.close()
        if self._error is not None:
            raise self._error

    async def _take(self, nodes: list[ScannedNode], warnings: list[ScanWarning]) -> None:
        for warning in warnings:
            self.list.warn(warning.path, warning.reason)
        files = done = 0
        for count, node in enumerate(nodes, 1):
            if count % _BREATH == 0:
                await trio.lowlevel.checkpoint()
            to_read, size = self.list.add(node)
            if to_read is None:
                files += 1
                done += size
                continue
            self._batch.append(to_read)
            self._batch_bytes += to_read.size
            if len(self._batch) >= _BATCH_FILES or self._batch_bytes >= _BATCH_BYTES:
                self._hand_on()
        self._report(files, done)

    def _hand_on(self) -> None:
        if self._batch:
            self._send.send_nowait(self._batch)
            self._batch = []
            self._batch_bytes = 0

    async def _store_batches(self) -> None:
        async for batch in self._receive:
            waiting = batch
            while waiting and self._error is None:
                try:
                    results = await self._pool.store_files([file.path for file in waiting])
                except OSError as error:
                    self._error = error
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        self._error = OSError(error.errno, "no space left in the store for this import")
                    return
                waiting = self._settle(waiting, results)

    def _settle(self, batch: list[FileToRead], results: Sequence[StoredFile | OSError]) -> list[FileToRead]:
        """Enter what came of a batch; returns other names to try for files whose first name is gone."""
        again: list[FileToRead] = []
        done = 0
        for file, result in zip(batch, results, strict=True):
            if isinstance(result, OSError):
                other = self.list.failed(file, result)
                if other is not None:
                    again.append(other)
            else:
                self.list.stored(file, result)
                done += result.size
        self._report(len(batch) - len(again), done)
        return again

    def _report(self, files: int, size: int) -> None:
        self._files += files
        self._bytes += size
        self._progress(self._files, self._bytes)
