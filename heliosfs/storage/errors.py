"""What can be wrong with a store on disk: a small closed set of errors that carry data, not prose.

`StoreError` is an answer about the whole store (the command line gives each kind an exit code);
`LogDamaged` is an answer about one range of the log (EIO to whoever reads it).
Must not know: exit codes, FUSE.
"""

from __future__ import annotations

from pathlib import Path

from heliosfs.core.errors import Damaged
from heliosfs.core.ids import Lsn


class StoreError(Exception):
    """The store can't be used as asked; nothing in it has changed.

    Attributes:
        path: The store's directory.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class StoreAbsent(StoreError):
    """There is no store at this path."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "no store here")


class StoreExists(StoreError):
    """A store was to be made where there is one already."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "there is a store here already")


class StoreOccupied(StoreError):
    """A store was to be made in a directory that holds something else.

    Attributes:
        entry: Name of one thing found in it.
    """

    def __init__(self, path: Path, entry: str) -> None:
        super().__init__(path, f"not empty, and not a store: it holds {entry!r}")
        self.entry = entry


class StoreLocked(StoreError):
    """Another process has the store open.

    Attributes:
        pid: That process, or None if it has not yet said so.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(path, "in use" if pid is None else f"in use by process {pid}")
        self.pid = pid


class StoreDamaged(StoreError):
    """Something that every store has is missing or unreadable."""


class StoreNewer(StoreError):
    """Written by a later version of this program.

    Attributes:
        version: The format version found.
    """

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(path, f"format version {version} is newer than this program")
        self.version = version


class LogDamaged(Damaged):
    """Log bytes that had reached the disk are no longer what was written (EIO).

    Attributes:
        life: The segment life they belong to; 0 if that life is gone altogether.
        offset: Bytes from the start of the segment file.
        lsn: The same place as a log position.
    """

    def __init__(self, life: int, offset: int, lsn: Lsn, reason: str = "") -> None:
        super().__init__(f"log life {life} offset {offset}", reason)
        self.life = life
        self.offset = offset
        self.lsn = lsn


class LifeReleased(LogDamaged):
    """The log does not hold this life any more: everything in it was persisted (EIO, if it gets that far).

    Whoever reads log data across an await may meet it, and finds the data under its chunks instead.
    """

    def __init__(self, life: int) -> None:
        super().__init__(life, 0, Lsn(0), "released")
