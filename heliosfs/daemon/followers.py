"""Who follows the store for a supervisor, so that somebody can go on at once when the worker dies.

At most one process is level, and at most one is on its way to be: it begins when the worker serves, and when it has
made a cut, which makes the state of the former useless, and replaces that when it has replayed what there is.
Invariants: a process that follows never holds what is kept; whoever is not needed any more is killed and reaped.
Imports the standard library alone.
"""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from heliosfs.daemon import words
from heliosfs.daemon.holdings import Kept
from heliosfs.daemon.priority import hurry
from heliosfs.daemon.staff import Standby, Worker

_RETRY_S: Final = 2.0
_TRIES: Final = 5
"""In a row, of processes that end before they are level; then nobody follows until the next cut."""


@dataclass(slots=True)
class Followers:
    """Of one store.

    Attributes:
        poll: Of the supervisor's loop.
        order: What to follow.
        kept: What is kept for workers.
        say: Logs a line.
        level: Who can go on.
        coming: Who will be able to.
    """

    poll: select.poll
    order: Mapping[str, Any]
    kept: Mapping[str, Kept]
    say: Callable[[str], None]
    level: Worker | None = None
    coming: Worker | None = None
    _wanted: bool = False
    _due: float = 0.0
    _failures: int = 0

    def want(self) -> None:
        """Have somebody follow from the last cut on."""
        self._wanted = True
        self._due = 0.0
        self._failures = 0

    def tend(self, standby: Standby | None) -> None:
        """Begin what is due."""
        if not self._wanted or self.coming is not None or standby is None or not standby.ready:
            return
        if time.monotonic() < self._due:
            return
        self._wanted = False
        ours, theirs = words.pair()
        with theirs:
            note = self.kept.get(words.NOTE)
            words.say(ours, {"do": "follow", **self.order}, [] if note is None else [note.fd])
            words.say(standby.line, {"do": "fork"}, [theirs.fileno()])
        self.coming = self._held(ours)

    def _held(self, line: socket.socket) -> Worker:
        line.setblocking(False)
        self.poll.register(line, select.POLLIN)
        return Worker(line, time.monotonic())

    def listen(self, ready: set[int]) -> None:
        """Hear what those say whose lines are among these descriptors."""
        for one in (self.level, self.coming):
            if one is not None and one.line.fileno() in ready:
                self._listen(one)

    def _listen(self, one: Worker) -> None:
        while True:
            try:
                heard = words.hear(one.line)
            except BlockingIOError:
                return
            if heard is None:
                self._gone(one)
                return
            message, fds = heard
            if message["say"] == "born":
                one.pid, one.pidfd = message["pid"], fds.pop()
            elif message["say"] == "lost":
                self.say(f"process {one.pid} can't follow: {message['why']}")
                self._gone(one)
                return
            elif message["say"] == "level" and one is self.coming:
                self._failures = 0
                if self.level is not None:
                    self._dismiss(self.level)
                one.level = True
                self.level, self.coming = one, None

    def _gone(self, one: Worker) -> None:
        """It can't follow any more, or is dead."""
        self._dismiss(one)
        if one is self.level:
            self.level = None
            # What made it useless will make us want another; if it did not, we do now.
            self._wanted = self._wanted or self.coming is None
            return
        self.coming = None
        self._failures += 1
        self._due = time.monotonic() + _RETRY_S
        self._wanted = self._failures < _TRIES
        if not self._wanted:
            self.say("nobody can follow the store: a death would be noticed for as long as its log takes")

    def _dismiss(self, one: Worker) -> None:
        one.signal(signal.SIGKILL)
        # A worker may die just now, and its callers wait: nobody waits for this one's end.
        one.leave(self.poll)

    def take(self) -> Worker | None:
        """Who goes on: it has been told to leave a twin that follows. None: nobody can."""
        one = self.coming or self.level
        if one is None or one.line.fileno() < 0:
            return None
        # One that is coming has the last cut, which the other has not.
        former = self.level if self.coming is not None else None
        self.level = self.coming = None
        self._wanted = False
        if one.pid:
            # Everybody waits for it now. It does so itself, too, but has to wake up for that.
            hurry(one.pid)
        ours, theirs = words.pair()
        with theirs:
            words.say(one.line, {"do": "twin"}, [theirs.fileno()])
        if former is not None:
            self._dismiss(former)
        self.coming = self._held(ours)
        if one.pidfd >= 0:
            self.poll.register(one.pidfd, select.POLLIN)
        return one

    def end(self) -> None:
        """Let nobody follow any more. What they have seen is not to be trusted, or not needed."""
        for one in (self.level, self.coming):
            if one is not None:
                self._dismiss(one)
        self.level = self.coming = None
        self._wanted = False

    @property
    def pids(self) -> set[int]:
        """Of those that were born."""
        return {one.pid for one in (self.level, self.coming) if one is not None}
