"""A worker's line to its supervisor: what it entrusts to it, what it is told, and that it is alive.

Invariants: a message never makes the loop wait; without a supervisor any more the worker serves on. Must not know:
what is kept.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from heliosfs.control.remembering import Memory
from heliosfs.daemon import words
from heliosfs.daemon.errors import DaemonError
from heliosfs.daemon.follower import Follower, born
from heliosfs.daemon.options import MountOptions
from heliosfs.filesystem.following import Following
from heliosfs.storage.note import StoreNote
from heliosfs.transport.keeping import MOUNT, Found, Keeper, NobodyKeeps

_log = logging.getLogger("heliosfs.daemon")

BEAT_S: Final = 1.0


@dataclass(slots=True, frozen=True)
class Order:
    """What a worker is to do.

    Attributes:
        kept: What a former worker has left, by name; nothing at the first start.
        again: A former worker has served: what it left is to go on, and nothing else.
        restarts: Workers that died.
        read_only: Serve, but change nothing: workers that did have died again and again.
    """

    store: str
    mountpoint: str
    options: str
    foreground: bool = False
    kept: dict[str, Found] = field(default_factory=dict)
    again: bool = False
    restarts: int = 0
    refuse_resent: bool = False
    read_only: bool = False


class Supervised:
    """The worker's end of the line; a Keeper (transport.keeping)."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._kept: dict[str, Found] = {}
        self._alone = False
        self.restarts = 0
        self.serving = False
        self.supervisor_pid = 0
        self.again = False
        self.refuse_resent = False
        self.read_only = False
        self.handing_over = False
        self.followed: Following | None = None
        self._twin = 0

    def begin(self) -> Order | None:
        """Say who we are, and take the order to serve; until it comes, follow. None: it will never come."""
        # Not getppid: until the process between us has ended, that is its number.
        self.supervisor_pid = words.maker_of(self._line)
        born(self._line)
        heard = words.hear(self._line)
        if heard is not None and heard[0]["do"] == "follow":
            heard = self._follow(*heard)
        if heard is None:
            return None
        message, fds = heard
        kept = zip(message.pop("kept"), fds, strict=True)
        self._kept = {name: Found(fd, more) for (name, more), fd in kept}
        message.pop("do")
        order = Order(**message, kept=dict(self._kept))
        self.again, self.restarts, self.read_only = order.again, order.restarts, order.read_only
        self.refuse_resent = order.refuse_resent
        self._line.setblocking(False)
        return order

    def _follow(self, order: Mapping[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]] | None:
        gc.disable()
        follower = Follower(self._line, order, fds)
        heard = follower.run()
        # Its own, where this is a twin.
        self._line = follower.line
        self.followed, self._twin = follower.following, follower.twin
        # What was replayed is all alive: no collection is to look at it.
        gc.freeze()
        gc.enable()
        return heard

    @property
    def pid(self) -> int:
        """Of the process to send signals to: the supervisor's, while it lives."""
        return os.getpid() if self._alone else self.supervisor_pid

    @property
    def connections(self) -> list[int]:
        """Numbers of the kernel connections that a former worker has served."""
        return [found.more["connection"] for found in self._kept.values() if "connection" in found.more]

    @property
    def mounts(self) -> list[tuple[Path, MountOptions]]:
        """Mountpoints that a former worker has served, and their options."""
        return [
            (Path(found.more["mountpoint"]), MountOptions.from_json(found.more["options"]))
            for name, found in self._kept.items()
            if name.startswith(MOUNT)
        ]

    # --- as a keeper ---------------------------------------------------------------------------------

    def found(self, name: str) -> Found | None:
        """What a former worker has left under this name, once."""
        return self._kept.pop(name, None)

    def keep(self, name: str, fd: int, more: Mapping[str, Any]) -> bool:
        """Have a copy kept."""
        return self._say({"say": "keep", "name": name, "more": dict(more)}, fd)

    def drop(self, name: str) -> None:
        """It is not needed any more; not if this is but the end of this process."""
        if not self.handing_over:
            self._say({"say": "drop", "name": name})

    def caught_up(self) -> None:
        """All that was asked of the former worker has been answered."""
        self._say({"say": "caught_up"})

    # --- life ----------------------------------------------------------------------------------------

    def ready(self) -> None:
        """It serves."""
        self.serving = True
        self._say({"say": "serving"})

    def failed(self, error: DaemonError) -> None:
        """It does not come to serve."""
        self._say({"say": "failed", "exit": error.exit_code, "error": error.message})

    def ended(self) -> None:
        """It ends in good order: the mount is gone, or the next worker goes on."""
        self._say({"say": "handed_over" if self.handing_over else "ended"})

    def stored(self) -> None:
        """A cut was made: who follows has to begin anew."""
        self._say({"say": "stored"})

    def replace(self) -> bool:
        """Have a new process take over as soon as it can. False: there is nobody to see to it."""
        return self._say({"say": "replace"})

    async def beat(self) -> None:
        """Say that the loop turns, as long as it does."""
        while not self._alone:
            self._say({"say": "alive"})
            self._reap_twin()
            await trio.sleep(BEAT_S)

    def _reap_twin(self) -> None:
        """Who follows us is a child of ours, and may have ended: the supervisor has others follow now and then."""
        if self._twin:
            with contextlib.suppress(ChildProcessError):
                if not os.waitpid(self._twin, os.WNOHANG)[0]:
                    return
            self._twin = 0

    async def wait_hand_over(self) -> None:
        """Return when another worker is to go on. Never, if the supervisor is gone."""
        while True:
            await trio.lowlevel.wait_readable(self._line)
            try:
                heard = words.hear(self._line)
            except BlockingIOError:
                continue
            if heard is None:
                self._lost()
                await trio.sleep_forever()
            elif heard[0]["do"] == "hand_over":
                return

    def _say(self, message: Mapping[str, object], *fds: int) -> bool:
        if self._alone:
            return False
        try:
            heard = words.say(self._line, message, fds)
        except BlockingIOError:
            _log.warning("the supervisor does not listen: %s", message["say"])
            return False
        if not heard:
            self._lost()
        return heard

    def _lost(self) -> None:
        if not self._alone:
            self._alone = True
            _log.warning("the supervisor is gone: this process serves on, and its death will end the mount")


def note_of(keeper: Supervised | NobodyKeeps) -> StoreNote | None:
    """What is to be noted for the next process, kept; None: there will be none."""
    if not isinstance(keeper, Supervised):
        return None
    found = keeper.found(words.NOTE)
    if found is not None:
        return StoreNote(found.fd)
    note = StoreNote()
    keeper.keep(words.NOTE, note.fd, {})
    return note


def memory_of(keeper: Keeper, name: str) -> tuple[Memory | None, bool]:
    """What control is to remember by, kept under a name; and whether a former process has begun it."""
    kept = keeper.found(name)
    if kept is not None:
        return Memory(lambda fd: keeper.keep(name, fd, {}), kept.fd), True
    memory = Memory(lambda fd: keeper.keep(name, fd, {})) if isinstance(keeper, Supervised) else None
    return memory, False
