"""Who forks workers for a supervisor: one process at a time, and while an upgrade is under way the next one.

Invariants: there is always one, or one on its way; whoever is not needed any more is killed and reaped. Imports the
standard library alone, and must not know what a worker does.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from heliosfs.daemon import words
from heliosfs.daemon.priority import unhurried
from heliosfs.daemon.staff import Standby, Worker

STANDBY: Final = (sys.executable, "-P", "-m", "heliosfs.daemon.standby")
TRIES: Final = 5
"""Deaths in a row after which no more is to be expected, where nobody serves."""
HAND_OVERS: Final = 3
"""Workers that are asked to hand over to one successor."""


@dataclass(slots=True)
class Standbys:
    """Of one supervisor.

    Attributes:
        poll: Of the supervisor's loop.
        command: What to start.
        say: Logs a line.
        up: Told when the successor can fork.
        lost: Told when the current one is gone: its status, and its last message, if it had one.
        current: Who forks.
        successor: Who will, of the program as it is now.
        deaths: Of current ones, in a row, before they could fork.
    """

    poll: select.poll
    command: Sequence[str]
    say: Callable[[str], None]
    up: Callable[[], None]
    lost: Callable[[int | None, Mapping[str, Any] | None], None]
    current: Standby | None = None
    successor: Standby | None = None
    deaths: int = 0
    _asked: int = 0

    def tend(self) -> None:
        """Begin what is due."""
        if self.current is None:
            self.current = self._start()

    def replace(self) -> None:
        """Have a successor, of the program as it is now. Idempotent until it has succeeded, or failed."""
        if self.successor is None:
            self.successor = self._start()

    def go_on(self) -> None:
        """Another one serves than who was asked to make room for the successor, and has died instead."""
        if self.successor is None or not self.successor.ready:
            return
        self._asked += 1
        if self._asked <= HAND_OVERS:
            self.up()
        else:
            self.say("nobody hands over to the new program: the worker that serves goes on")
            self._dismiss(self.successor)
            self.successor = None

    def succeed(self) -> None:
        """The successor, if there is one, takes the place of the current one."""
        if self.successor is not None:
            if self.current is not None:
                self._dismiss(self.current)
            self.current, self.successor = self.successor, None

    def make(self) -> Worker | None:
        """A new process to serve. None: nobody can fork it yet."""
        if self.current is None or not self.current.ready:
            return None
        ours, theirs = words.pair()
        ours.setblocking(False)
        with theirs:
            words.say(self.current.line, {"do": "fork"}, [theirs.fileno()])
        self.poll.register(ours, select.POLLIN)
        return Worker(ours, time.monotonic())

    def drop(self) -> None:
        """The current one does not do what it is told to: another one takes its place."""
        if self.current is not None:
            self._dismiss(self.current)
            self.current = None

    def listen(self, ready: set[int]) -> None:
        """Hear what those say whose lines are among these descriptors."""
        for standby in (self.current, self.successor):
            if standby is not None and standby.line.fileno() in ready:
                self._listen(standby)

    def end(self) -> None:
        """Let nobody fork any more."""
        for standby in (self.current, self.successor):
            if standby is not None:
                self._dismiss(standby)
        self.current = self.successor = None

    @property
    def pids(self) -> set[int]:
        """Of those that are waited for here."""
        return {standby.process.pid for standby in (self.current, self.successor) if standby is not None}

    def _start(self) -> Standby:
        ours, theirs = words.pair()
        with theirs:
            process = subprocess.Popen(
                [*self.command, f"--line={theirs.fileno()}"],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        ours.setblocking(False)
        self.poll.register(ours, select.POLLIN)
        return Standby(process, ours)

    def _listen(self, standby: Standby) -> None:
        try:
            heard = words.hear(standby.line)
        except BlockingIOError:
            return
        if heard is not None and heard[0]["say"] == "standing_by":
            standby.ready = True
            self.deaths = 0
            if standby is self.successor:
                self._asked = 1
                self.up()
            return
        self._dismiss(standby)
        if standby is self.successor:
            self.say("the new program did not come up: the worker that serves goes on")
            self.successor = None
            return
        self.current = None
        self.deaths += 1
        self.lost(standby.process.returncode, None if heard is None else heard[0])

    def _dismiss(self, standby: Standby) -> None:
        self.poll.unregister(standby.line)
        standby.line.close()
        standby.process.kill()
        with unhurried():
            standby.process.wait()
