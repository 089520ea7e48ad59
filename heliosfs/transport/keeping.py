"""What outlives a session's process, as a session sees it: descriptors that somebody else holds, by name.

Must not know: who holds them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

MOUNT: Final = "mount "
"""What the names of mounts begin with."""


def kept_name(mountpoint: Path) -> str:
    """The name of a mount's descriptor."""
    return f"{MOUNT}{mountpoint}"


class Found(NamedTuple):
    """A descriptor that a former process has left, now ours, and what it said of it."""

    fd: int
    more: Mapping[str, Any]


class Keeper(Protocol):
    """Keeps descriptors for the next process.

    Attributes:
        refuse_resent: What was asked before is answered with EIO: it has killed processes again and again.
        handing_over: This process ends so that the next one goes on: nothing is to be unmounted.
    """

    refuse_resent: bool
    handing_over: bool

    def found(self, name: str) -> Found | None:
        """What a former process has left under a name; the caller owns the descriptor. Once."""

    def keep(self, name: str, fd: int, more: Mapping[str, Any]) -> bool:
        """Have a copy of a descriptor kept. False: nobody does that here."""

    def drop(self, name: str) -> None:
        """It is not needed any more."""

    def caught_up(self) -> None:
        """All that was asked of the former process has been answered."""

    def taken_down(self) -> None:
        """A session is cancelled: something else has failed. Does not return where another process goes on."""


class NobodyKeeps:
    """A process that stands alone."""

    refuse_resent = False
    handing_over = False
    leaving = False
    read_only = False
    again = False
    restarts = 0
    followed = None
    mounts: tuple[tuple[Path, Any], ...] = ()
    connections: tuple[int, ...] = ()

    @property
    def pid(self) -> int:
        """Of the process to send signals to."""
        return os.getpid()

    def found(self, name: str) -> Found | None:
        """Nothing."""
        return None

    def keep(self, name: str, fd: int, more: Mapping[str, Any]) -> bool:
        """No."""
        return False

    def drop(self, name: str) -> None:
        """Nothing is kept."""

    def caught_up(self) -> None:
        """There was no former process."""

    def taken_down(self) -> None:
        """Nobody goes on: the mount ends."""
