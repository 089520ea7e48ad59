"""A worker's line to its supervisor: what it entrusts to it, what it is told, and that it is alive.

Invariants: a message never makes the loop wait; a worker whose supervisor is gone serves on, and starts another
(adopting.py), which gets all that the former one had kept; a mount that nobody was told to be live does not outlive
who started it. Must not know: what is kept.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from heliosfs.control.remembering import Memory
from heliosfs.daemon import words
from heliosfs.daemon.adopting import start_supervisor
from heliosfs.daemon.errors import FAILED, DaemonError
from heliosfs.daemon.follower import Follower, born
from heliosfs.daemon.options import MountOptions
from heliosfs.daemon.priority import calm, unhurried
from heliosfs.filesystem.following import Following
from heliosfs.storage.note import StoreNote
from heliosfs.transport.keeping import MOUNT, Found, Keeper, NobodyKeeps

_log = logging.getLogger("heliosfs.daemon")

BEAT_S: Final = 1.0
SUPERVISORS_MAX: Final = 5
"""In a row: where they die again and again, it is not they who are to blame."""
_AT_ONCE: Final = 2
"""Of these; the others are started with the next beats."""
_STABLE_S: Final = 30.0
"""What a supervisor has to live so that the next one is the first again."""
FAILED_STATUS: Final = 70
"""A worker's, that has failed while others can go on."""
_END_S: Final = 5.0
"""For last words, and for our children's end, where no supervisor waits for it."""


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
    """The worker's end of the line; a Keeper (transport.keeping).

    Attributes:
        leaving: It is to end, and the mounts with it, without waiting for requests in progress.
    """

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._out: words.Outbox | None = None
        self._order: Order | None = None
        self._kept: dict[str, Found] = {}
        self._entrusted: dict[str, Found] = {}
        self.restarts = 0
        self.serving = False
        self.supervisor_pid = 0
        self.again = False
        self.refuse_resent = False
        self.read_only = False
        self.handing_over = False
        self.leaving = False
        self.followed: Following | None = None
        self._twin = 0
        # Whoever waits for the mount has been told that it is live.
        self._known = False
        self._caught_up = False
        self._ending = False
        self._asked_to_hand_over = False
        self._waited: socket.socket | None = None
        self._tries = 0
        self._tried = 0.0
        self._children: list[subprocess.Popen[bytes]] = []

    def begin(self) -> Order | None:
        """Say who we are, and take the order to serve; until it comes, follow. None: it will never come."""
        # Not getppid: until the process between us has ended, that is its number.
        self.supervisor_pid = words.maker_of(self._line)
        born(self._line)
        kept: dict[str, Found] = {}
        while True:
            heard = words.hear(self._line)
            if heard is not None and heard[0]["do"] == "follow":
                heard = self._follow(*heard)
            if heard is None:
                return None
            message, fds = heard
            kept |= {name: Found(fd, more) for (name, more), fd in zip(message.pop("kept"), fds, strict=True)}
            if message.pop("do") == "serve":
                break
        order = self._order = Order(**message, kept=kept)
        self._kept = dict(kept)
        self._entrusted = {name: Found(os.dup(found.fd), found.more) for name, found in kept.items()}
        self.again, self.restarts, self.read_only = order.again, order.restarts, order.read_only
        self.refuse_resent = order.refuse_resent
        self._known = order.again
        self._line.setblocking(False)
        self._out = words.Outbox(self._line)
        return order

    def _follow(self, order: Mapping[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]] | None:
        gc.disable()
        follower = Follower(self._line, order, fds)
        heard = follower.run()
        # Its own, where this is a twin.
        self._line = follower.line
        self.followed, self._twin = follower.following, follower.twin
        if self.followed is None:
            # The store is opened as ever, and what is started for it must not hurry.
            calm()
        # What was replayed is all alive: no collection is to look at it.
        gc.freeze()
        gc.enable()
        return heard

    @property
    def pid(self) -> int:
        """Of the process to send signals to: the supervisor's, while it lives."""
        return os.getpid() if self._out is None else self.supervisor_pid

    @property
    def alone(self) -> bool:
        """Whether nobody supervises this process any more, nor will."""
        return self._out is None and (self._ending or not self._known or self._tries >= SUPERVISORS_MAX)

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
        self._forget(name)
        self._entrusted[name] = Found(os.dup(fd), dict(more))
        # Where there is no supervisor just now, the next one gets it.
        return self._say({"say": "keep", "name": name, "more": dict(more)}, fd) or not self.alone

    def drop(self, name: str) -> None:
        """It is not needed any more; not if this is but the end of this process."""
        if not self.handing_over:
            self._forget(name)
            self._say({"say": "drop", "name": name})

    def _forget(self, name: str) -> None:
        found = self._entrusted.pop(name, None)
        if found is not None:
            os.close(found.fd)

    def caught_up(self) -> None:
        """All that was asked of the former worker has been answered."""
        self._caught_up = True
        self._say({"say": "caught_up"})

    def taken_down(self) -> None:
        """End at once: taking down in order would unmount, and keep the kernel's callers waiting. The log has all.

        Not where the mount is to end (`leaving`), or never was live.
        """
        if (self.again or self.serving) and not self.leaving:
            _log.error("this worker is taken down: the next one goes on")
            os._exit(FAILED_STATUS)

    # --- life ----------------------------------------------------------------------------------------

    def ready(self) -> None:
        """It serves.

        Raises:
            DaemonError: The supervisor has died, and so whoever waits for the mount was told that it failed.
        """
        if self._out is not None and self._say({"say": "serving"}):
            self.serving = True
            return
        if not self._known:
            raise DaemonError(FAILED, "the supervisor died before the mount was live")
        self.serving = True
        self._succeed()

    def failed(self, error: DaemonError) -> None:
        """It does not come to serve."""
        self._say({"say": "failed", "exit": error.exit_code, "error": error.message})

    def ended(self) -> None:
        """It ends in good order: the mount is gone, or the next worker goes on."""
        self._say({"say": "handed_over" if self.handing_over else "ended"})
        self._ending = True
        if self._out is not None:
            self._line.settimeout(_END_S)
            self._out.flush()
        if self._children or self._out is None:
            # The supervisor is not our parent: it can't wait for the children that we leave.
            self._wait_for_twin()

    def stored(self) -> None:
        """A cut was made: who follows has to begin anew."""
        self._say({"say": "stored"})

    def replace(self) -> bool:
        """Have a new process take over as soon as it can. False: there is nobody to see to it."""
        return self._say({"say": "replace"})

    async def beat(self) -> None:
        """Say that the loop turns, as long as it does."""
        while not self.alone:
            if self._out is None:
                self._succeed()
            else:
                self._out.flush()
                if not self._out.waiting:
                    self._say({"say": "alive"})
            self._reap()
            await trio.sleep(BEAT_S)

    def _reap(self) -> None:
        """Supervisors of ours that died, and who follows us: the supervisor has others follow now and then."""
        if not self._children and not self._twin:
            return
        with unhurried():
            self._children = [child for child in self._children if child.poll() is None]
            if self._twin:
                with contextlib.suppress(ChildProcessError):
                    if not os.waitpid(self._twin, os.WNOHANG)[0]:
                        return
                self._twin = 0

    def _wait_for_twin(self) -> None:
        until = time.monotonic() + _END_S
        self._reap()
        while self._twin and time.monotonic() < until:
            time.sleep(0.002)
            self._reap()

    async def wait_hand_over(self) -> bool:
        """Return when this process is to end; never, if there is no supervisor any more.

        True: another worker is to go on. False: whoever waits for the mount was told that it has failed.
        """
        while not self._asked_to_hand_over:
            if self._out is None:
                if not self._known:
                    return False
                # The next beat may find another one.
                await trio.sleep(BEAT_S)
                continue
            line = self._waited = self._line
            await trio.lowlevel.wait_readable(line)
            self._waited = None
            if line is not self._line:
                line.close()
            elif not self._listen():
                self._lost()
        return True

    def _listen(self) -> bool:
        """Hear all that was said. False: nobody is there any more."""
        while True:
            try:
                heard = words.hear(self._line)
            except BlockingIOError:
                return True
            if heard is None:
                return False
            if heard[0]["do"] == "known":
                self._known = True
            elif heard[0]["do"] == "hand_over":
                self._asked_to_hand_over = True

    def _say(self, message: Mapping[str, object], *fds: int) -> bool:
        """False: nobody is there to hear it."""
        if self._out is None or self._ending:
            return False
        if self._out.say(message, fds):
            return True
        self._listen()
        self._lost()
        return self._out is not None and self._out.say(message, fds)

    # --- a supervisor that dies ----------------------------------------------------------------------

    def _lost(self) -> None:
        """The supervisor is dead: have another one, now or later, or serve on alone."""
        if self._out is None:
            return
        self._out.close()
        self._out = None
        if self.serving and self._known:
            if time.monotonic() - self._tried > _STABLE_S:
                self._tries = 0
            if self._tries < _AT_ONCE:
                self._succeed()

    def _succeed(self) -> None:
        """Start a supervisor that takes us for its worker, if there is something to keep. Takes 3 ms."""
        order = self._order
        assert order is not None
        if not any(name.startswith(MOUNT) for name in self._entrusted):
            self._tries = SUPERVISORS_MAX
            return
        self._tries += 1
        self._tried = time.monotonic()
        ours, theirs = words.pair()
        ours.setblocking(False)
        out = words.Outbox(ours)
        # All of it is said before there is somebody to hear it: who comes up has it whatever becomes of us.
        born(ours)
        for name, found in self._entrusted.items():
            out.say({"say": "keep", "name": name, "more": dict(found.more)}, (found.fd,))
        out.say({"say": "serving"})
        if self._caught_up:
            out.say({"say": "caught_up"})
        with theirs:
            try:
                started = start_supervisor(
                    order.store, order.mountpoint, order.options, self.restarts, order.foreground, theirs.fileno()
                )
            except OSError as error:
                out.close()
                ours.close()
                _log.error("the supervisor is gone, and no other one can be started: %s", error)
                return
        if self._waited is not self._line:
            self._line.close()
        self._line, self._out, self.supervisor_pid = ours, out, started.pid
        # It outlives us, or we see by its line that it is gone.
        self._children.append(started)
        _log.warning("the supervisor was gone: process %d is the new one", started.pid)
        if self._tries >= SUPERVISORS_MAX:
            _log.warning("if it dies as well, this process serves on alone, and its death will end the mount")


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
