"""What goes in and out of the door: plain values, the same for every transport and for control."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeAlias

from heliosfs.core.attributes import SetAttr
from heliosfs.core.diff import Change
from heliosfs.core.ids import Lsn, NodeId, ViewNo
from heliosfs.storage.collecting.report import Report

__all__ = [
    "TYPES",
    "AfterReply",
    "Attributes",
    "BranchInfo",
    "Caller",
    "Change",
    "Entry",
    "Invalidator",
    "Outcome",
    "Report",
    "SetAttr",
    "SnapshotInfo",
    "StatFs",
    "TypeOnly",
]

AfterReply: TypeAlias = Callable[[Callable[[], Awaitable[None]]], None]
"""Has something done once the reply to the present request has gone out."""


class Attributes(Protocol):
    """What stat(2) shows. Read it at once: it may be a live inode. blocks are of 512 bytes."""

    @property
    def mode(self) -> int: ...
    @property
    def nlink(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def rdev(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def atime_ns(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...
    @property
    def btime_ns(self) -> int: ...


class TypeOnly:
    """The attributes of what was listed without being looked up: the file type, and nothing else."""

    __slots__ = ("mode",)

    nlink = uid = gid = rdev = size = blocks = 0
    atime_ns = mtime_ns = ctime_ns = btime_ns = 0

    def __init__(self, kind: int) -> None:
        self.mode = kind << 12


TYPES: Final = tuple(TypeOnly(kind) for kind in range(16))
"""By d_type."""


@dataclass(slots=True, frozen=True)
class Caller:
    """Who asks. The pid is a thread's, and 0 from outside of the daemon's pid namespace."""

    uid: int
    gid: int
    pid: int = 0
    umask: int = 0


class Entry(NamedTuple):
    """A name's inode: node id (what st_ino shows), attributes, FUSE generation, and whether to cache it."""

    node: NodeId
    attr: Attributes
    generation: int = 0
    cacheable: bool = True


class StatFs(NamedTuple):
    """statvfs(3) of the store: blocks of `f_frsize` bytes; files are inode numbers."""

    f_bsize: int
    f_frsize: int
    f_blocks: int
    f_bfree: int
    f_bavail: int
    f_files: int
    f_ffree: int
    f_favail: int
    f_namemax: int


class Invalidator(Protocol):
    """A session that makes its kernel forget."""

    async def invalidate(self, changes: Sequence[Change]) -> None:
        """Return when nothing stale is left in the kernel."""
        ...

    async def begin(self, changes: Sequence[Change]) -> Callable[[], Awaitable[None]]:
        """The first half, while a caller of the kernel's holds locks: return when nobody new can see what was.

        Returns:
            The second half, for when he has his reply.
        """
        ...


def nothing_to_tell() -> None:
    """No kernel has to forget anything."""


@dataclass(slots=True)
class Outcome:
    """What a versioning verb did.

    Attributes:
        changes: What kernels must forget, not yet told: `publish` them.
        extra: Further keys of the JSON reply.
        told: To be called when kernels have forgotten.
    """

    verb: str
    id: str | None
    name: str | None
    lsn: Lsn
    durable: bool
    time_ns: int
    changes: list[Change] = field(default_factory=list)
    extra: dict[str, object] = field(default_factory=dict)
    told: Callable[[], None] = nothing_to_tell


@dataclass(slots=True, frozen=True)
class BranchInfo:
    """A branch: `path` is its names from the first branch down, as in b"main/exp/a"."""

    id: int
    name: bytes
    path: bytes
    view: ViewNo
    parent: int | None
    owner_uid: int
    owner_gid: int
    children: int
    created_ns: int
    files: int
    size: int


@dataclass(slots=True, frozen=True)
class SnapshotInfo:
    """A snapshot: size in logical bytes, `root` once it is persisted."""

    id: str
    name: bytes
    time_ns: int
    kind: str
    durable: bool
    root: str | None
    size: int
    files: int
