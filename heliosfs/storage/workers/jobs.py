"""What workers are asked and what they answer: plain values, the same on both sides of the socket.

Must not know: how they travel, who cuts when, inodes and views.
"""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple, TypeAlias

from cas.digest import ChunkId

JOB_RUNS: Final = 200
"""Runs or files in one job: what the daemon does with a message stays below a millisecond."""

JOB_BYTES: Final = 16 << 20
"""Content bytes from which a job gets no further run (one run alone may be longer)."""


class WorkerLost(OSError):
    """A worker died or hung, and its work could not be done by another one (EIO)."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EIO, reason)


class LogSource(NamedTuple):
    """Bytes [start, start + length) of the payload of a log record.

    Attributes:
        path: The segment file. The caller pins the life while the job runs.
        salt: Of the life, 16 bytes; seeds the checksums.
        payload_offset: Of the payload in the file.
        payload_length: Of the payload.
        sums: Of the payload's blocks, as `storage.log` gives them.
    """

    path: str | bytes | os.PathLike[str]
    salt: bytes
    payload_offset: int
    payload_length: int
    sums: bytes
    start: int
    length: int


class ChunkSource(NamedTuple):
    """Bytes [start, start + length) of a stored chunk, whose frame lies at (pack, offset, frame_length)."""

    pack: int
    offset: int
    frame_length: int
    chunk_id: ChunkId
    start: int
    length: int


Source: TypeAlias = LogSource | ChunkSource


class CutRun(NamedTuple):
    """Bytes to cut anew, from a boundary on.

    Attributes:
        sources: In order.
        resync: Offsets from the first byte, sorted: a piece that ends at one of them is the last that is
            cut, because behind it nothing has changed.
    """

    sources: tuple[Source, ...]
    resync: tuple[int, ...] = ()


class CutResult(NamedTuple):
    """What a run was cut into: (chunk, length) in order, `consumed` bytes in all."""

    pieces: tuple[tuple[ChunkId, int], ...]
    consumed: int


class StoredFile(NamedTuple):
    """A regular file as it was read.

    Attributes:
        size: Bytes, holes included.
        extents: (offset, length, chunk), sorted and disjoint; what they leave out is a hole.
        changed: It was written to while it was read, twice: what was read may never have been its state.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    changed: bool
    extents: list[tuple[int, int, ChunkId]]


class ScannedNode(NamedTuple):
    """What the walk of a tree found at one name.

    Attributes:
        parent: Position of its directory in the order of all nodes of the walk; -1 for the first, the root.
        mode: Type and permission bits, as st_mode.
        nlink: Names that the file has, in the walked tree or elsewhere.
        xattrs: (name, value).
        target: Of a symbolic link.
    """

    parent: int
    name: bytes
    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime_ns: int
    ctime_ns: int
    dev: int
    ino: int
    nlink: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    target: bytes


class ScanWarning(NamedTuple):
    """Something that the walk left out: its path below the root, an errno (0: on purpose), why."""

    path: bytes
    errno: int
    reason: str
