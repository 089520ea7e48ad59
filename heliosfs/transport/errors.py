"""What can go wrong with a mount itself. Must not know: exit codes."""

from __future__ import annotations

from pathlib import Path


class MountRefused(Exception):
    """The kernel or fusermount3 would not mount; nothing is mounted.

    Attributes:
        mountpoint: Where it was wanted.
        reason: What libfuse said.
    """

    def __init__(self, mountpoint: Path, reason: str) -> None:
        super().__init__(f"{mountpoint}: {reason}")
        self.mountpoint = mountpoint
        self.reason = reason
