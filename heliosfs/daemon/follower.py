"""A process that follows the store which a worker serves, until it is to go on with it itself.

It has the state of the store in memory, some records behind: when the worker dies, the rest is replayed in no time
(docs/takeover.md). Right before, it forks: its twin follows on from here, so that however long the log is, nobody
replays it from the beginning. Idle, it sleeps until the log's directory changes. Must not know: what is served, or
to whom.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from heliosfs.core.errors import Damaged
from heliosfs.daemon import words
from heliosfs.daemon.options import MountOptions
from heliosfs.daemon.priority import give_way, hurry
from heliosfs.filesystem import StoreOptions
from heliosfs.filesystem.following import Following
from heliosfs.storage.layout import StoreLayout
from heliosfs.storage.log import FollowLost
from heliosfs.storage.note import StoreNote

TICK_S: Final = 0.02
"""Between two looks while records come. Without a new one between them, what there is is replayed."""
BEHIND_S: Final = 0.25
"""So far behind the worker we may be while records come without a pause: 2,500 at most, 50 ms to replay."""
_QUIET: Final = 25
"""Looks without a record after which we sleep."""
_SLICE: Final = 200
"""Records between two looks at the line: 6 ms."""
_IN_MODIFY: Final = 0x2
_IN_MOVED_TO: Final = 0x80
_IN_CREATE: Final = 0x100
_IN_ONESHOT: Final = 0x8000_0000


class LogWatch:
    """Readable when something in a directory has changed since `arm`; costs the writer one event, and then nothing.

    Where the system has none left it is never readable.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = os.fsencode(directory)
        self._libc = ctypes.CDLL(None)
        self.fd: int = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self.armed = False

    def arm(self) -> None:
        """From now on one change makes it readable."""
        mask = _IN_MODIFY | _IN_CREATE | _IN_MOVED_TO | _IN_ONESHOT
        self.armed = self.fd >= 0 and self._libc.inotify_add_watch(self.fd, self._directory, mask) >= 0

    def read(self) -> None:
        """Take what it says."""
        self.armed = False
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        """Watch no more."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Follower:
    """The process's life until it serves.

    Attributes:
        line: To the supervisor.
        following: The store; None: it could not be followed.
        twin: Process id of who follows on, once it was forked; a child of ours that we have to reap.
    """

    def __init__(self, line: socket.socket, order: Mapping[str, Any], fds: list[int]) -> None:
        """Begin to follow, as ordered; `fds` has that of the store's note, if there is one."""
        give_way()
        _be_modest()
        options = MountOptions.from_json(order["options"])
        memory = StoreOptions().memory if options.memory_bytes is None else options.memory_bytes
        self.line = line
        self.twin = 0
        self._written_ns = 0
        self._due = 0.0
        self.following: Following | None = None
        note = StoreNote(fds[0]) if fds else None
        try:
            self.following = Following(
                Path(order["store"]), memory, note, (line.fileno(),), (line.fileno(), _hurry_both)
            )
        except (Damaged, OSError) as error:
            self._lost(error)
        self._directory = StoreLayout(Path(order["store"])).log_dir
        self._watch = LogWatch(self._directory)

    def run(self) -> tuple[dict[str, Any], list[int]] | None:
        """Follow until told to serve: the first words of that, and their descriptors. None: it will not come."""
        quiet = 0
        level = False
        done = 0
        while True:
            done = self._advance() if done == _SLICE or self._due_now(level) else 1
            if done == _SLICE:
                wait_s: float | None = 0.0
            elif self.following is None:
                wait_s = None
            else:
                if not level:
                    level = True
                    words.say(self.line, {"say": "level"})
                quiet = 0 if done else quiet + 1
                wait_s = self._patience_s(quiet)
            heard, changed = self._wait(wait_s)
            if changed:
                quiet = 0
            if heard is None:
                continue
            if not heard:
                return None
            message, fds = heard[0]
            hurry(0)
            if message["do"] == "twin":
                if self._fork(fds[0]):
                    level, quiet = False, 0
                    continue
                # The order to serve is next, and everybody waits for it: recovery replays what came last.
                called = words.hear(self.line)
                if called is None:
                    return None
                message, fds = called
            self._watch.close()
            return message, fds

    def _due_now(self, level: bool) -> bool:
        """Whether to replay. It takes a third of what the work itself did, of the same cores: while records come it
        is put off, so that a burst costs nothing before its end.
        """
        if self.following is None:
            return False
        now = time.monotonic()
        written, self._written_ns = self._written_ns, self.following.written_ns()
        if level and written != self._written_ns and now < self._due:
            return False
        self._due = now + BEHIND_S
        return True

    def _advance(self) -> int:
        if self.following is None:
            return 0
        try:
            return self.following.advance(_SLICE)
        except (FollowLost, Damaged, OSError) as error:
            self._lost(error)
            return 0

    def _lost(self, error: Exception) -> None:
        """What we have is of no use. The order to serve may be on its way: then the store is opened as ever."""
        self.following = None
        words.say(self.line, {"say": "lost", "why": str(error)})

    def _patience_s(self, quiet: int) -> float | None:
        if quiet < _QUIET:
            return TICK_S
        if self._watch.armed:
            return None
        self._watch.arm()
        # Once more, for what came before the watch; where there is none, now and then.
        return 0.0 if self._watch.armed else 1.0

    def _wait(self, wait_s: float | None) -> tuple[list[tuple[dict[str, Any], list[int]]] | None, bool]:
        """(what was said: None for nothing yet, empty: nobody is there any more; whether the log has changed)."""
        poll = select.poll()
        poll.register(self.line, select.POLLIN)
        if self._watch.fd >= 0:
            poll.register(self._watch.fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(None if wait_s is None else wait_s * 1000)}
        changed = self._watch.fd in ready
        if changed:
            self._watch.read()
        if self.line.fileno() not in ready:
            return None, changed
        heard = words.hear(self.line)
        return ([] if heard is None else [heard]), changed

    def _fork(self, line: int) -> bool:
        """Have a twin that follows on over its own line. Whether this is it."""
        if self.following is None:
            os.close(line)
            return False
        asking = self.following.line_for_twin()
        self.twin = os.fork()
        if self.twin:
            os.close(line)
            asking.close()
            return False
        self.line.close()
        self.line = socket.socket(fileno=line)
        _be_modest()
        self.following.forked(asking, (line, _hurry_both), _be_modest)
        self._watch.close()
        self._watch = LogWatch(self._directory)
        born(self.line)
        return True


def _be_modest(pid: int = 0) -> None:
    """Whoever serves, and its clients, go first."""
    with contextlib.suppress(ProcessLookupError):
        os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))


def _hurry_both(librarian: int) -> None:
    """We are told to serve while we wait for the database: at load 10 that took a second."""
    hurry(0)
    hurry(librarian, alone=True)


def born(line: socket.socket) -> None:
    """Tell the supervisor who we are."""
    pidfd = os.pidfd_open(os.getpid())
    words.say(line, {"say": "born", "pid": os.getpid()}, [pidfd])
    os.close(pidfd)
