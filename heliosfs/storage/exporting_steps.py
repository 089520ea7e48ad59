"""The steps of an export, in the order in which a sink gets them.

A BeginNode for each name, directories before what is in them; after that of a regular file (not of a further
name of one) its FileData, ascending, and an EndFile, or Broken if its content can't be had.
Must not know: where the steps come from, what a sink makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias


class BeginNode(NamedTuple):
    """A name.

    Attributes:
        path: Below the root; b"" is the root itself.
        mode: Type and permission bits.
        size: Bytes of a regular file.
        target: Of a symbolic link.
        first: Path of another name of this file that came before, b"" if there is none.
    """

    path: bytes
    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    target: bytes
    first: bytes


class FileData(NamedTuple):
    """Content of the file that was begun last, at an offset; what is left out is a hole."""

    offset: int
    data: bytes


class EndFile(NamedTuple):
    """The file that was begun last is complete."""


class Broken(NamedTuple):
    """The rest of the file that was begun last can't be read."""


Step: TypeAlias = BeginNode | FileData | EndFile | Broken


class Sink(Protocol):
    """Takes an export. Called from threads, one call at a time."""

    def start(self) -> None:
        """Before the first step. Raises OSError: the destination is not to be had."""
        ...

    def write(self, steps: Sequence[Step]) -> list[str]:
        """Carry out steps; returns warnings. Raises OSError: the end of the export."""
        ...

    def finish(self) -> list[str]:
        """After the last step; returns warnings. Raises OSError."""
        ...


def shown(path: bytes) -> str:
    """A path for a warning."""
    return path.decode("utf-8", "backslashreplace") or "."
