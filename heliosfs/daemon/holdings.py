"""What a supervisor holds for its workers: descriptors that outlive them, and what goes with each.

Invariant: each descriptor here is ours alone to close. Imports the standard library alone, and must not know what a
filesystem is: only that what is named "mount ..." is a connection of the kernel's, which somebody has to answer.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from heliosfs.daemon import words

CONNECTIONS: Final = "/sys/fs/fuse/connections"
_CONNECTION: Final = "mount "
_MNT_FORCE: Final = 1
_UMOUNT_NOFOLLOW: Final = 8
_AT_ONCE: Final = 20
"""A name and what goes with it have up to 6 KiB, paths included."""


@dataclass(slots=True)
class Kept:
    """A descriptor that outlives its worker, and what goes with it."""

    fd: int
    more: dict[str, Any]


class Holdings(dict[str, Kept]):
    """By name."""

    def hold(self, name: str, fd: int, more: dict[str, Any]) -> None:
        """Hold a descriptor, in place of the one of that name."""
        self.drop(name)
        self[name] = Kept(fd, more)

    def drop(self, name: str) -> None:
        """Close one. Idempotent."""
        kept = self.pop(name, None)
        if kept is not None:
            os.close(kept.fd)

    def drop_all(self) -> None:
        """Close them all."""
        for name in list(self):
            self.drop(name)

    def connections(self) -> list[int]:
        """Those on which a kernel waits for answers. All others are closed: who asks there would wait in vain."""
        for name in [name for name in self if not name.startswith(_CONNECTION)]:
            self.drop(name)
        return [kept.fd for kept in self.values()]

    def entrust(self, line: socket.socket, order: dict[str, object], patience_s: float) -> bool:
        """Give a worker all of it, in as many messages as it needs, and its order last. Whether it takes it."""
        left = list(self.items())
        line.settimeout(patience_s)
        try:
            while True:
                some, left = left[:_AT_ONCE], left[_AT_ONCE:]
                message: dict[str, object] = {"do": "kept"} if left else order
                message["kept"] = [[name, kept.more] for name, kept in some]
                words.say(line, message, [kept.fd for _, kept in some])
                if not left:
                    return True
        except TimeoutError:
            return False
        finally:
            line.setblocking(False)

    def abort(self, say: Callable[[str], None]) -> None:
        """End all connections: every process that waits for an answer gets an error. Never waits.

        Where fusectl is not mounted, as in many a container, MNT_FORCE does the same.
        """
        for kept in self.values():
            number = kept.more.get("number")
            if number is not None:
                try:
                    with open(f"{CONNECTIONS}/{number}/abort", "w") as abort:
                        abort.write("1")
                except OSError as error:
                    mountpoint = kept.more["mountpoint"]
                    say(f"can't abort connection {number} ({error}): forcing {mountpoint} off")
                    threading.Thread(target=_force_off, args=(mountpoint,), daemon=True).start()


def _force_off(mountpoint: str) -> None:
    ctypes.CDLL(None).umount2(os.fsencode(mountpoint), _MNT_FORCE | _UMOUNT_NOFOLLOW)
