"""What goes wrong with chunks: a small closed set of errors that carry data, not prose.

Trouble of the operating system (ENOSPC, EIO, EDQUOT) stays an OSError with its errno: whoever answers a
caller needs exactly that number. Must not know: errnos of a filesystem, transports, callers.
"""

from __future__ import annotations

from pathlib import Path


class CasError(Exception):
    """Base of everything this package raises on its own account."""


class ChunkMissing(CasError):
    """The store has no chunk of this name.

    Attributes:
        id: The ChunkId asked for.
    """

    def __init__(self, id: bytes) -> None:
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return f"chunk {self.id.hex()} is not in the store"


class ChunkDamaged(CasError):
    """The store has the chunk, but what it has is not what was put.

    Attributes:
        id: The ChunkId asked for.
        reason: What did not hold.
    """

    def __init__(self, id: bytes, reason: str) -> None:
        super().__init__(id, reason)
        self.id = id
        self.reason = reason

    def __str__(self) -> str:
        return f"chunk {self.id.hex()} is damaged: {self.reason}"


class FrameDamaged(CasError):
    """A frame cannot be decoded; the caller, who knows the chunk's name, raises ChunkDamaged from it.

    Attributes:
        reason: What did not hold.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PackDamaged(CasError):
    """The header of a pack file is not one; its entries cannot be enumerated.

    Attributes:
        path: The pack file.
        reason: What did not hold.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VersionUnknown(CasError):
    """A file of ours, of a version that this program does not read.

    Attributes:
        path: The file.
        version: What it says.
    """

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(path, version)
        self.path = path
        self.version = version

    def __str__(self) -> str:
        return f"{self.path}: version {self.version} is not known here"


class StoreLocked(CasError):
    """Another process has the store open.

    Attributes:
        path: The lock file.
        pid: The process that holds it, as far as the file tells; else None.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(path, pid)
        self.path = path
        self.pid = pid

    def __str__(self) -> str:
        return f"{self.path}: locked by {'another process' if self.pid is None else f'process {self.pid}'}"
