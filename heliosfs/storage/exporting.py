"""Exporting a branch or snapshot: to a directory tree, or as a tar stream.

The tree is walked through the filesystem's door, a batch of steps at a time; a thread carries the batch out,
so that neither the disk nor tarfile holds up the event loop. A snapshot is exported exactly; a live branch
as it is while it is walked: what vanishes meanwhile is left out with a warning.
Must not know: pages, chunks, how content is kept.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol

import trio

from heliosfs.core.errors import FsError
from heliosfs.core.ids import ROOT_INO, NodeId, ViewNo, node_id
from heliosfs.storage.exporting_steps import BeginNode, Broken, EndFile, FileData, Sink, Step, shown
from heliosfs.storage.exporting_tar import TarSink
from heliosfs.storage.exporting_tree import TreeSink

_READ_BYTES: Final = 1 << 20
_BATCH_BYTES: Final = 8 << 20
_BATCH_STEPS: Final = 512
_LISTING: Final = 256

Progress = Callable[[int, int], None]
"""Told now and then of the names and the bytes of content that are done."""


class ExportSource(Protocol):
    """What of the filesystem an export uses; heliosfs/filesystem has it, docstrings included."""

    async def getattr(self, node: NodeId) -> Any: ...
    async def readdir(self, node: NodeId, cookie: int, limit: int) -> Sequence[tuple[bytes, Any, int]]: ...
    async def readlink(self, node: NodeId) -> bytes: ...
    async def read(self, node: NodeId, offset: int, size: int) -> bytes: ...
    async def data_runs(self, node: NodeId) -> list[tuple[int, int]]: ...
    async def getxattr(self, node: NodeId, name: bytes) -> bytes: ...
    async def listxattr(self, node: NodeId) -> list[bytes]: ...


@dataclass(slots=True, frozen=True)
class ExportResult:
    """What an export did.

    Attributes:
        files: Names written, directories and others included, the root not.
        bytes: Of content, holes included, hard links counted once.
        warnings: What could not be written as it is, one line each.
    """

    files: int
    bytes: int
    warnings: list[str]


async def export_tree(fs: ExportSource, view: ViewNo, dest: bytes, progress: Progress) -> ExportResult:
    """Write the tree of a branch or snapshot into the directory `dest`, made if it does not exist.

    Modes, times, hard links, symbolic links, devices, FIFOs, sockets, xattrs and holes are kept; owners if
    this process is root. What the destination refuses (an xattr, a device) is a warning.

    Raises:
        FsError: The view is dead (ESTALE).
        OSError: `dest` is not empty (ENOTEMPTY) or no directory, or can't be written (ENOSPC, EACCES).
    """
    return await _Export(fs, TreeSink(dest), progress).run(view)


async def export_tar(fs: ExportSource, view: ViewNo, fileobj: BinaryIO, progress: Progress) -> ExportResult:
    """Write the tree of a branch or snapshot as a PAX tar to `fileobj`, which need not be seekable.

    Times are exact, xattrs are SCHILY.xattr records, holes are written as zeros, sockets left out with a
    warning. The caller closes `fileobj`.

    Raises:
        FsError: The view is dead (ESTALE).
        OSError: `fileobj` takes no more (ENOSPC, EPIPE).
    """
    return await _Export(fs, TarSink(fileobj), progress).run(view)


class _Export:
    def __init__(self, fs: ExportSource, sink: Sink, progress: Progress) -> None:
        self._fs = fs
        self._sink = sink
        self._progress = progress
        self._steps: list[Step] = []
        self._held_bytes = 0
        self._files = -1  # The root is not counted.
        self._bytes = 0
        self._warnings: list[str] = []
        self._first_names: dict[NodeId, bytes] = {}

    async def run(self, view: ViewNo) -> ExportResult:
        root = node_id(view, ROOT_INO)
        await self._fs.getattr(root)  # A dead view leaves no empty destination behind.
        await trio.to_thread.run_sync(self._sink.start)
        # A directory is directly followed by all that is in it: tar sets its times when it sees another.
        waiting: list[tuple[bytes, NodeId]] = [(b"", root)]
        while waiting:
            path, node = waiting.pop()
            try:
                await self._node(path, node, await self._fs.getattr(node))
                await self._directory(path, node, waiting)
            except FsError as error:
                self._warn(path, error)
        await self._flush()
        self._warnings += await trio.to_thread.run_sync(self._sink.finish)
        return ExportResult(self._files, self._bytes, self._warnings)

    async def _directory(self, path: bytes, node: NodeId, waiting: list[tuple[bytes, NodeId]]) -> None:
        prefix = path + b"/" if path else b""
        cookie = 0
        while listing := await self._fs.readdir(node, cookie, _LISTING):
            for name, entry, cookie in listing:  # noqa: B007 - the last cookie is where to go on
                below = prefix + name
                if stat.S_ISDIR(entry.attr.mode):
                    waiting.append((below, entry.node))
                    continue
                try:
                    await self._node(below, entry.node, entry.attr)
                except FsError as error:
                    self._warn(below, error)

    async def _node(self, path: bytes, node: NodeId, attr: Any) -> None:
        """One name; FsError if nothing of it has been handed on yet."""
        mode = attr.mode
        directory = stat.S_ISDIR(mode)
        first = b""
        if attr.nlink > 1 and not directory:
            first = self._first_names.get(node, b"")
        # The attributes are of a live inode: all are taken before the first await.
        fixed = (mode, attr.uid, attr.gid, attr.rdev, attr.size, attr.atime_ns, attr.mtime_ns)
        target = await self._fs.readlink(node) if stat.S_ISLNK(mode) and not first else b""
        xattrs = () if first else await self._xattrs(node)
        regular = stat.S_ISREG(mode) and not first
        runs = await self._fs.data_runs(node) if regular and fixed[4] else []
        if attr.nlink > 1 and not directory and not first:
            self._first_names[node] = path
        await self._put(BeginNode(path, *fixed, xattrs, target, first))
        self._files += 1
        if regular:
            await self._content(path, node, fixed[4], runs)

    async def _content(self, path: bytes, node: NodeId, size: int, runs: list[tuple[int, int]]) -> None:
        try:
            for offset, length in runs:
                end = min(offset + length, size)
                while offset < end:
                    data = await self._fs.read(node, offset, min(_READ_BYTES, end - offset))
                    if not data:
                        break  # It was truncated: what is missing becomes a hole.
                    await self._put(FileData(offset, data), len(data))
                    offset += len(data)
        except FsError as error:
            self._warn(path, error)
            await self._put(Broken())
            return
        await self._put(EndFile())
        self._bytes += size

    async def _xattrs(self, node: NodeId) -> tuple[tuple[bytes, bytes], ...]:
        names = await self._fs.listxattr(node)
        if not names:
            return ()
        return tuple([(name, await self._fs.getxattr(node, name)) for name in names])

    async def _put(self, step: Step, size: int = 0) -> None:
        self._steps.append(step)
        self._held_bytes += size
        if self._held_bytes >= _BATCH_BYTES or len(self._steps) >= _BATCH_STEPS:
            await self._flush()

    async def _flush(self) -> None:
        steps, self._steps = self._steps, []
        self._held_bytes = 0
        self._warnings += await trio.to_thread.run_sync(self._sink.write, steps)
        self._progress(max(self._files, 0), self._bytes)

    def _warn(self, path: bytes, error: FsError) -> None:
        self._warnings.append(f"{shown(path)}: {error}")
