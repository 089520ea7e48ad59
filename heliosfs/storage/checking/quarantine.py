"""Where a repair puts what it takes out of a store: nothing is ever deleted.

`quarantine/TIME/` holds moved files under their old names, damaged bytes under the name of their object, and
`actions`, one line for each thing done. Must not know: what is damaged, how it is mended.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

NAME: Final = "quarantine"


class Quarantine:
    """One repair's directory, made when something is first put into it.

    Attributes:
        actions: What was done, one line each.
    """

    def __init__(self, store: Path, now: float | None = None) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        self._store = store
        self._parent = store / NAME
        self._stamp = stamp
        self._made: Path | None = None
        self.actions: list[str] = []

    @property
    def directory(self) -> Path:
        """Made with mode 0700, under a name that no repair before had. OSError."""
        if self._made is None:
            self._parent.mkdir(mode=0o700, exist_ok=True)
            number = 1
            while True:
                path = self._parent / (self._stamp if number == 1 else f"{self._stamp}-{number}")
                try:
                    path.mkdir(mode=0o700)
                    break
                except FileExistsError:
                    number += 1
            self._made = path
        return self._made

    def did(self, line: str) -> None:
        """Note an action, on disk before it is believed. OSError."""
        self.actions.append(line)
        with open(self.directory / "actions", "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def move(self, path: Path) -> Path:
        """Move a file or directory of the store here, under its old path. Returns the new one. OSError."""
        target = self.directory / path.relative_to(self._store)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.rename(target)
        sync_directory(path.parent)
        return target

    def keep(self, name: str, data: bytes) -> None:
        """Keep bytes that are about to be overwritten or let go. OSError."""
        with open(self.directory / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def copy(self, path: Path) -> None:
        """Keep a copy of a file that is about to be changed; holes stay holes. OSError."""
        target = self.directory / path.relative_to(self._store)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(path, "rb") as old, open(target, "wb") as new:
            size = os.fstat(old.fileno()).st_size
            at = 0
            while at < size:
                block = os.pread(old.fileno(), 1 << 20, at)
                if not block:
                    break
                if block.strip(b"\0"):
                    os.pwrite(new.fileno(), block, at)
                at += len(block)
            new.truncate(size)
            os.fsync(new.fileno())


def sync_directory(path: Path) -> None:
    """fsync of a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
