"""The process that does not die: it holds what a mount cannot lose, while workers come and go.

`python -m heliosfs.daemon.supervisor STORE MOUNTPOINT`, started by `spawn` or by the command line with -f. It has
descriptors (of /dev/fuse, of the socket) and parameters that a worker gives it. When the worker dies, or no longer
says that it is alive, all goes to the next one: to who has followed its work (follower.py), or else to one that a
process with all imports done (standby.py) forks. docs/takeover.md is the design.

Invariants: never are two workers told to serve of which the first may still run (its end is waited for by pidfd);
what is kept is given up only when a worker has ended in good order; a kernel that waits always gets an answer in
the end, if only EIO. Imports the standard library alone, and must not know what a filesystem is.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from heliosfs.daemon import words
from heliosfs.daemon.followers import Followers
from heliosfs.daemon.herald import Herald
from heliosfs.daemon.holdings import Holdings
from heliosfs.daemon.priority import calm, hurry
from heliosfs.daemon.refusing import refuse_all
from heliosfs.daemon.sdnotify import ServiceManager
from heliosfs.daemon.silence import dies, waits_for_the_host, work_of
from heliosfs.daemon.staff import Worker, reap, wait_for_all
from heliosfs.daemon.standbys import STANDBY, TRIES, Standbys

PATIENCE_S: Final = 30.0
"""A worker that serves says every second that it is alive; a big restore may hold its loop for some of them."""
OPENING_S: Final = 900.0
"""Opening a store replays its log."""
END_S: Final = 5.0
"""After SIGKILL."""
EXCUSED_S: Final = 600.0
"""A worker that waits for a disk or a processor (silence.py) may be silent, or not die, for so long."""
STABLE_S: Final = 30.0
SUSPICIOUS: Final = 3
"""Deaths in a row after which requests that were in flight are no longer tried again."""
READ_ONLY: Final = 6
HOPELESS: Final = 9
_DELAYS_S: Final = (0.0, 0.0, 0.0, 0.1, 0.5, 2.0, 5.0)
_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(slots=True)
class Supervisor:
    """One store's.

    Attributes:
        herald: To whoever waits for the mount.
        kept: By name.
        follow: Whether somebody is to follow what the worker does, so that he can go on at once.
        restarts: Workers that died.
        failures: Of these, in a row, without having served well in between.
    """

    store: str
    mountpoint: str
    options: str
    herald: Herald = field(default_factory=lambda: Herald(None))
    foreground: bool = False
    patience_s: float = PATIENCE_S
    command: Sequence[str] = STANDBY
    delays_s: Sequence[float] = _DELAYS_S
    follow: bool = field(init=False)
    manager: ServiceManager = field(default_factory=ServiceManager.from_environment)
    kept: Holdings = field(default_factory=Holdings)
    restarts: int = 0
    failures: int = 0
    worker: Worker | None = None
    exit_code: int | None = None
    _due: float | None = 0.0
    _signals: list[int] = field(default_factory=list)
    _asked: int = 0
    _mounted: bool = False
    _refused: int = 1
    _poll: select.poll = field(default_factory=select.poll)
    _standbys: Standbys = field(init=False)
    _followers: Followers = field(init=False)

    def __post_init__(self) -> None:
        self.follow = json.loads(self.options).get("follow") is not False
        order = {"store": self.store, "options": self.options}
        self._standbys = Standbys(self._poll, self.command, self._say, self._new_program_up, self._standby_lost)
        self._followers = Followers(self._poll, order, self.kept, self._say)

    def adopt(self, line: socket.socket) -> None:
        """Go on for a supervisor that is dead: its worker has started us, and says what is to be kept."""
        line.setblocking(False)
        self._poll.register(line, select.POLLIN)
        self.worker = Worker(line, time.monotonic())
        self._due = None
        self._mounted = True

    # --- the loop ------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until the mount has ended. The exit code."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # A death is to be seen at once; all the rest of the time this sleeps.
        hurry(0, alone=True)
        wake, pipe = self._watch_signals()
        self._poll.register(wake, select.POLLIN)
        try:
            while self.exit_code is None:
                self._tend()
                ready = {fd for fd, _ in self._poll.poll(self._patience_ms())}
                if wake in ready:
                    os.read(wake, 4096)
                self._standbys.listen(ready)
                self._followers.listen(ready)
                worker = self.worker
                if worker is not None and worker.line.fileno() in ready:
                    self._listen(worker)
                if self.worker is worker and worker is not None and (worker.pidfd in ready or worker.unborn):
                    self._gone(worker)
                if self.exit_code is None:
                    self._forward_signals()
        finally:
            self._end_all()
            os.close(wake)
            os.close(pipe)
        return self.exit_code

    def _watch_signals(self) -> tuple[int, int]:
        wake, pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if self.foreground else [])):
            signal.signal(number, lambda caught, _frame: self._signals.append(caught))
        if not self.foreground:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return wake, pipe

    def _patience_ms(self) -> float:
        if self.worker is None:
            return 50.0
        return 1000 * min(1.0, self.patience_s / 4, self.manager.every_s or 1.0)

    def _forward_signals(self) -> None:
        """The worker ends the mount; a second one makes it hurry. Who can't do that yet is told when he can."""
        while self._signals:
            worker = self.worker
            if worker is None and not self._mounted:
                self._asked = self._signals.pop(0)
                self._end_unmounted()
                return
            if worker is None or worker.pidfd < 0:
                return
            if self._mounted and not worker.serving and len(self._signals) == 1:
                # In a takeover it would just die of it, and the mount go on.
                return
            self._asked = self._signals.pop(0)
            worker.signal(self._asked)

    def _end_unmounted(self) -> None:
        """Nothing was mounted, and nothing will be: we were told to end."""
        name = signal.Signals(self._asked).name
        self._refuse({"exit": 1, "error": f"ended by {name} before the mount was live"})
        self.exit_code = 0

    def _tend(self) -> None:
        """What is due by the clock."""
        now = time.monotonic()
        # Of a worker that hangs, or takes its time to open the store, we take care ourselves.
        if self._mounted:
            self.manager.alive(now)
        self._standbys.tend()
        worker = self.worker
        if worker is None:
            if self._due is not None and (now >= self._due or self._signals):
                self._promote()
        elif worker.serving:
            if now - worker.heard > self.patience_s * (1 + worker.excused):
                self._judge(worker)
            elif worker.caught_up and now - worker.began > STABLE_S:
                self.failures = 0
        elif now - worker.heard > min(self.patience_s * (1 + worker.excused), OPENING_S):
            self._judge_opening(worker, now - worker.heard)
        if self.worker is not None and self.worker.pid:
            # The next one is at it, or serves: nobody waits for us.
            reap(self._pids())
        if worker is not None and worker.serving:
            self._followers.tend(self._standbys.current)

    # --- processes that fork workers -----------------------------------------------------------------

    def _new_program_up(self) -> None:
        if self.worker is not None:
            words.say(self.worker.line, {"do": "hand_over"})

    def _standby_lost(self, status: int | None, said: Mapping[str, Any] | None) -> None:
        if said is not None and said["say"] == "failed" and not self._mounted:
            self._refuse(said)
        if not self._mounted or (self.worker is None and self._standbys.deaths >= TRIES):
            self._announce_death(status)
            if self._mounted:
                self._give_up()
            self.exit_code = self._refused

    # --- workers -------------------------------------------------------------------------------------

    def _promote(self) -> None:
        """Have a new worker serve: who has followed, or a new process; none is there yet: wait."""
        worker = self._followers.take() or self._standbys.make()
        if worker is None:
            return
        self._due = None
        order = {
            "do": "serve",
            "store": self.store,
            "mountpoint": self.mountpoint,
            "options": self.options,
            "foreground": self.foreground,
            "again": self._mounted,
            "restarts": self.restarts,
            "refuse_resent": self.failures >= SUSPICIOUS,
            "read_only": self.failures >= READ_ONLY,
        }
        worker.heard = time.monotonic()
        self.worker = worker
        if not self.kept.entrust(worker.line, order, END_S):
            self._say("the next worker does not take what is kept")
            self._kill(worker)
            if worker.pidfd < 0:
                self._poll.unregister(worker.line)
                worker.line.close()
        elif self._mounted:
            followed = "level" if worker.level else "not level"
            self._say(f"process {worker.pid or 'not yet born'} goes on: {followed}")

    def _pids(self) -> set[int]:
        """Of the children that somebody here waits for."""
        serving = {self.worker.pid} if self.worker is not None else set()
        return serving | self._standbys.pids | self._followers.pids

    def _listen(self, worker: Worker) -> None:
        while True:
            try:
                heard = words.hear(worker.line)
            except BlockingIOError:
                return
            if heard is None:
                # Its pidfd tells when it is gone.
                self._poll.unregister(worker.line)
                worker.line.close()
                return
            worker.heard, worker.excused = time.monotonic(), 0
            self._heard(worker, *heard)

    def _heard(self, worker: Worker, message: dict[str, Any], fds: list[int]) -> None:
        said = message["say"]
        if said == "born":
            worker.pid, worker.pidfd = message["pid"], fds.pop()
            self._poll.register(worker.pidfd, select.POLLIN)
        elif said == "keep":
            self.kept.hold(message["name"], fds.pop(), message["more"])
        elif said == "drop":
            self.kept.drop(message["name"])
        elif said == "serving":
            worker.serving = True
            worker.began = time.monotonic()
            self._ready(worker)
            self._standbys.go_on()
            if self.follow and self._followers.level is None and self._followers.coming is None:
                self._followers.want()
        elif said == "stored":
            if self.follow:
                self._followers.want()
        elif said == "caught_up":
            worker.caught_up = True
        elif said == "failed" and not self._mounted:
            self._refuse(message)
        elif said == "replace":
            self._standbys.replace()
        elif said in ("ended", "handed_over"):
            worker.ended = said
        for fd in fds:
            os.close(fd)

    def _gone(self, worker: Worker) -> None:
        """A worker has ended; nothing of it runs any more."""
        if worker.line.fileno() >= 0:
            self._listen(worker)
        status = worker.forget(self._poll)
        self.worker = None
        if not self._mounted and self._asked:
            self._end_unmounted()
        elif not self._mounted:
            self._announce_death(status)
            self.exit_code = self._refused
        elif worker.ended == "ended":
            self.exit_code = 0
        elif worker.ended == "handed_over":
            self._say(f"worker {worker.pid} has handed over")
            self._due = 0.0
            # They are of the program that goes.
            self._followers.end()
            self._standbys.succeed()
        else:
            self._died(worker, status)

    def _died(self, worker: Worker, status: int | None) -> None:
        self.restarts += 1
        if not (worker.caught_up and status == -signal.SIGKILL):
            self.failures += 1
        if status != -signal.SIGKILL or worker.hung:
            # It may be the state of the store that does this; who followed has the same in memory.
            self._followers.end()
        self._say(f"worker {worker.pid} died (status {status}, {self.failures} in a row)")
        if self._asked:
            # It was to end the mount, and has not: the next one is.
            self._signals.insert(0, self._asked)
            self._asked = 0
        if self.failures >= HOPELESS:
            self._give_up()
            self.exit_code = 1
        else:
            self._due = time.monotonic() + self.delays_s[min(self.failures, len(self.delays_s) - 1)]

    def _give_up(self) -> None:
        """No worker can serve this store: everybody gets errors, nobody hangs, and nothing looks empty."""
        self._say(f"giving up after {self.failures} failures: {self.mountpoint} answers EIO; unmount it, then fsck")
        self.manager.status("failed: answering EIO")
        # The store is free, for fsck or another mount; nobody is to look at it meanwhile, nor to wait for a worker.
        self._followers.end()
        self._standbys.end()
        refuse_all(self.kept.connections(), self._signals, lambda: reap(set()))

    def _judge(self, worker: Worker) -> None:
        """It has been silent for too long: kill it, unless the host keeps it waiting."""
        silent_s = self.patience_s * (1 + worker.excused)
        if silent_s < EXCUSED_S and waits_for_the_host(worker.pid):
            worker.excused += 1
            self._say(f"worker {worker.pid}, not heard of for {silent_s:.0f} s, waits for a disk or a processor")
            return
        heard = worker.heard
        if worker.line.fileno() >= 0:
            self._listen(worker)
        if worker.heard != heard:
            return  # It has come round while we looked at it.
        self._say(f"worker {worker.pid} has not been heard of for {silent_s:.0f} s: killed")
        self._kill(worker)

    def _judge_opening(self, worker: Worker, silent_s: float) -> None:
        """It does not serve yet: kill it, unless it does something, or waits for the host.

        One that has followed may have been stopped, or hang, before it got its order.
        """
        ran_ns = work_of(worker.pid) if worker.pid else 0
        done_nothing = self._mounted and ran_ns is not None and ran_ns == worker.ran_ns
        if silent_s <= OPENING_S and not done_nothing:
            worker.excused += 1
            worker.ran_ns = ran_ns
            return
        self._say(f"worker {worker.pid or 'not yet born'} does not come to serving: killed")
        if worker.pid:
            self._kill(worker)
        else:
            worker.excused += 1
            self._standbys.drop()

    def _kill(self, worker: Worker) -> None:
        """SIGKILL, and wait until it is gone; the loop then sees its end."""
        if worker.pidfd < 0:
            return
        worker.hung = True
        worker.signal(signal.SIGKILL)

        def waiting() -> None:
            self.manager.alive(time.monotonic())

        if not dies(worker.pid, worker.pidfd, END_S, EXCUSED_S, waiting):
            # A thread of it waits in the kernel for a lock that only an answer frees: the connection must end.
            self._say(f"worker {worker.pid} does not die: aborting its connections")
            self.kept.abort(self._say)
            dies(worker.pid, worker.pidfd, END_S, 0.0, waiting)

    def _end_all(self) -> None:
        calm()
        self._followers.end()
        self._standbys.end()
        if self.worker is not None:
            self._kill(self.worker)
            self.worker.forget(self._poll)
        self.kept.drop_all()
        # Who reads the database for a follower ends by itself, and may be just opening it.
        wait_for_all(END_S)

    # --- telling others ------------------------------------------------------------------------------

    def _ready(self, worker: Worker) -> None:
        # Said first: the command that waits for us may be the manager's main process, and ends with our word.
        self.manager.ready(f"{self.mountpoint}, worker {worker.pid}")
        if not self._mounted:
            self._mounted = True
            # From now on it may outlive us.
            words.say(worker.line, {"do": "known"})
            self.herald.ready()
            self._log_to_store()

    def _refuse(self, message: Mapping[str, Any]) -> None:
        self._refused = int(message["exit"])
        self.herald.refuse(self._refused, message["error"])

    def _announce_death(self, status: int | None) -> None:
        if self.herald.leave():
            self._say(f"the daemon died (status {status})")

    def _log_to_store(self) -> None:
        """Whoever started us has what he needed of our standard error."""
        if not self.foreground:
            log = os.open(os.path.join(self.store, "daemon.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)

    def _say(self, line: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            os.write(2, f"{stamp},{int(time.time() * 1000) % 1000:03d} INFO heliosfs.supervisor: {line}\n".encode())
        except OSError:
            pass


def main(arguments: list[str]) -> int:
    """Supervise until unmounted; returns the exit code."""
    parser = argparse.ArgumentParser(prog="heliosfs.daemon.supervisor")
    parser.add_argument("--ready-fd", type=int, default=None)
    parser.add_argument("--options", default="{}")
    parser.add_argument("--foreground", action="store_true")
    parser.add_argument("--worker-fd", type=int, default=None)
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("store")
    parser.add_argument("mountpoint")
    given = parser.parse_args(arguments)
    herald = Herald(given.ready_fd)
    if not given.foreground:
        os.chdir("/")
    os.umask(0o077)
    patience_s = float(os.environ.get("HELIOSFS_PATIENCE_S", PATIENCE_S))
    supervisor = Supervisor(given.store, given.mountpoint, given.options, herald, given.foreground, patience_s)
    supervisor.restarts = given.restarts
    if given.worker_fd is not None:
        # The one before us has died, and its lines have ended; what it has started ends by itself.
        os.set_inheritable(given.worker_fd, False)
        supervisor.adopt(socket.socket(fileno=given.worker_fd))
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
