"""Daemons that are killed: a real mount, programs on it with system calls of their own, mounted again.

Programs keep to themselves (a directory in `main`, a branch and what is below it), so that each one's
operation under way is the only thing that nobody can tell; it must be there as a whole or not at all.
Must not know: what the operations do.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import signal
import socket
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliosfs.daemon import mountpoint as mountpoints
from heliosfs.daemon.options import MountOptions
from heliosfs.daemon.readiness import Announcer, wait_ready
from heliosfs.daemon.run import run as run_daemon
from heliosfs.storage.layout import StoreLayout
from tests.crash.soak import program
from tests.crash.soak.client import Served, Wrong, brief, unanswered
from tests.crash.soak.compare import differences
from tests.crash.soak.dice import Dice
from tests.crash.soak.journal import Journal
from tests.crash.soak.model import Model, Operation, Refused
from tests.crash.soak.server import Life, receive, send

_ANSWER_S = 60.0
_RENEW = 50
_WRITE_MAX = 100_000
_PAGE = 4096


@dataclass
class MountTotals:
    """What was done. `found`: operations under way that were there, `in_part`
    writes of several pages among them; `checked`: check() of the store."""

    kills: int = 0
    mounting: int = 0
    unmounting: int = 0
    acked: int = 0
    under_way: int = 0
    found: int = 0
    in_part: int = 0
    checked: int = 0
    stores: int = 0

    def line(self) -> str:
        return (
            f"{self.kills} kills of a mounted daemon ({self.mounting} while it mounted, "
            f"{self.unmounting} while it unmounted), {self.acked} operations "
            f"answered, {self.found} of {self.under_way} under way found ({self.in_part} long writes in part), "
            f"{self.checked} times check(), {self.stores} stores"
        )


class MountedKills:
    """Kills the daemons of one mount after another.

    Args:
        seed: Decides everything but the instants.
        directory: For stores and the mountpoint.
        transport: Of the mounts.
    """

    def __init__(self, seed: int, directory: Path, programs: int = 3, transport: str = "kernel") -> None:
        self.totals = MountTotals()
        self.tail: deque[str] = deque(maxlen=80)
        self._seed = seed
        self._dice = random.Random(f"mounted {seed}")
        self._directory = directory
        self._point = directory / "mnt"
        self._count = programs
        self._transport = transport
        self._pid = 0
        self._model = Model()
        self._under_way: dict[int, Operation] = {}
        self._channels: dict[int, socket.socket] = {}

    def said(self) -> str:
        """The last daemon's log."""
        path = self._store / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def run(self, kills: int, report: float = 30.0) -> None:
        """Until so many daemons were killed. Raises Wrong."""
        self._point.mkdir()
        next_report = time.monotonic() + report
        try:
            while self.totals.kills < kills:
                self._one_store(min(_RENEW, kills - self.totals.kills))
                if time.monotonic() > next_report:
                    next_report = time.monotonic() + report
                    print(self.totals.line(), flush=True)
        finally:
            self._kill()
            self._unmount()
            for channel in self._channels.values():
                channel.close()
        self._point.rmdir()

    def _one_store(self, kills: int) -> None:
        self.totals.stores += 1
        self._store = self._directory / f"m{self.totals.stores}"
        StoreLayout.create(self._store).close()
        self._model = Model()
        self._under_way = {}
        # libfuse 3.14 passes none of them on to pyfuse3.
        without = ("copy", "allocate") if self._transport == "pyfuse3" else ()
        clients = [
            Dice(f"{self._seed} {self.totals.stores} {n}", n, self._model, _WRITE_MAX, None, without)
            for n in range(1, self._count + 1)
        ]
        pids = self._start_programs()
        wanted = self.totals.kills + kills
        try:
            while self.totals.kills < wanted:
                self._life(clients)
        finally:
            for channel in self._channels.values():
                channel.close()
            self._channels = {}
            self._kill()
            self._unmount()
            for pid in pids:
                os.waitpid(pid, 0)
        subprocess.run(["rm", "-rf", self._store], check=True, timeout=_ANSWER_S)

    def _start_programs(self) -> list[int]:
        pairs = [socket.socketpair() for _ in range(self._count)]
        pids = []
        for _, theirs in pairs:
            others = [end for pair in pairs for end in pair if end is not theirs]
            pids.append(program.fork(os.fsencode(self._point), theirs, others))
        for number, (ours, theirs) in enumerate(pairs, 1):
            theirs.close()
            self._channels[number] = ours
        return pids

    # --- one life ------------------------------------------------------------------------------------

    def _life(self, clients: list[Dice]) -> None:
        dice, totals = self._dice, self.totals
        ready = self._mount()
        if dice.random() < 0.1:
            time.sleep(dice.random() * 0.1)
            self._kill()
            os.close(ready)
            totals.kills += 1
            totals.mounting += 1
            self._unmount()
            return
        try:
            if not wait_ready(ready, _ANSWER_S):
                raise Wrong("the daemon died before it was ready")
        finally:
            os.close(ready)
        self._compare()
        for number in range(1, self._count + 1):
            # While nobody works: a fork of `main` holds what others do there at that moment, and who was first
            # nobody can tell.
            self._do_alone(number, ("fork", b"main", b"c%d" % number, None))
        for number, one in enumerate(clients, 1):
            one.use(self._model)
            self._ask(number, ("cling", b"x" * 100))
        self._work(clients, dice.randrange(1, 60))
        if dice.random() < 0.15:
            # In the middle of unmounting, of the last cut, of giving the lock back; or just after.
            os.kill(self._pid, signal.SIGTERM)
            time.sleep(dice.random() * 0.2)
            totals.unmounting += 1
            self._kill(ended=True)
        else:
            time.sleep(dice.random() * 0.002)
            self._kill()
        totals.kills += 1
        self._take_answers()
        self._unmount()
        if dice.random() < 0.1:
            self._check()

    def _mount(self) -> int:
        """Start a daemon; the descriptor on which it says that it is ready."""
        ours, theirs = os.pipe()
        options = MountOptions(log_bytes=64 << 20, commit_s=0.05, transport=self._transport)
        pid = os.fork()
        if pid:
            os.close(theirs)
            self._pid = pid
            return ours
        code = 1
        try:
            os.setsid()
            os.close(ours)
            for channel in self._channels.values():
                channel.close()
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            announcer = Announcer(theirs)
            run_daemon(self._store, mountpoints.prepare(self._point), options, announcer=announcer)
            code = 0
        except BaseException as error:
            with (self._store / "daemon.log").open("a") as log:
                log.write(repr(error))
        finally:
            os._exit(code)

    def _kill(self, *, ended: bool = False) -> None:
        """SIGKILL, and wait; `ended`: it may have come to its end in good order before."""
        if not self._pid:
            return
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        if status != signal.SIGKILL and not (ended and status == 0):
            raise Wrong(f"the daemon died by itself (status {status})")

    def _unmount(self) -> None:
        """Take away what a dead daemon left, as `mount` would."""
        if any(
            Path(line.split(" ")[4]) == self._point
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
        ):
            subprocess.run(["umount", "-l", self._point], check=True, timeout=_ANSWER_S)

    # --- operations ----------------------------------------------------------------------------------

    def _work(self, clients: list[Dice], operations: int) -> None:
        done = 0
        by_fd = {channel.fileno(): number for number, channel in self._channels.items()}
        while done < operations:
            for number, one in enumerate(clients, 1):
                if number not in self._under_way:
                    self._under_way[number] = operation = one.next()
                    self.tail.append(f"program {number} {brief(operation)}")
                    send(self._channels[number], operation)
            ready = select.select(list(by_fd), [], [], _ANSWER_S)[0]
            if not ready:
                raise Wrong(unanswered(self._under_way, _ANSWER_S))
            for descriptor in ready:
                self._take_answer(by_fd[descriptor])
                done += 1

    def _take_answer(self, number: int, *, dead: bool = False) -> None:
        code, _ = receive(self._channels[number])
        self.tail.append(f"program {number} answered {code}")
        operation = self._under_way[number]
        if code and dead:
            return
        del self._under_way[number]
        self.totals.acked += 1
        try:
            change = self._model.plan(operation)
        except Refused:
            if not code:
                raise Wrong(f"{brief(operation)} must be refused") from None
            return
        if code:
            raise Wrong(f"{brief(operation)} was answered with {code}")
        change()

    def _take_answers(self) -> None:
        """After the daemon's death: an error may mean that the operation was carried out, or not."""
        for number in list(self._under_way):
            if not select.select([self._channels[number]], [], [], _ANSWER_S)[0]:
                raise Wrong(f"{brief(self._under_way[number])} does not return though the daemon is dead")
            self._take_answer(number, dead=True)

    def _do_alone(self, number: int, operation: Operation) -> None:
        """An operation with nothing else under way, unless the model has it already."""
        try:
            change = self._model.plan(operation)
        except Refused:
            return
        self._ask(number, operation)
        change()

    def _ask(self, number: int, operation: Any) -> Any:
        send(self._channels[number], operation)
        if not select.select([self._channels[number]], [], [], _ANSWER_S)[0]:
            raise Wrong(f"{operation[0]} is not answered")
        code, answer = receive(self._channels[number])
        if code:
            raise Wrong(f"{operation[0]} was answered with {code}")
        return answer

    def _outcomes(self, operation: Operation) -> list[tuple[int, Operation]]:
        """What an operation under way may have become, numbered: nothing, all of it; more for a write.

        The kernel cuts a write(2) into requests as it likes, at ends of pages. Each is whole or absent, and
        none is sent before the one before it was answered.
        """
        found: list[tuple[int, Operation]] = [(0, ()), (1, operation)]
        if operation[0] in ("write", "append"):
            verb, branch, path, *offset, data = operation
            try:
                start = offset[0] if offset else len(self._model.find(self._model.branches[branch], path).data)
            except Refused:
                return found
            ends = range(_PAGE - start % _PAGE, len(data), _PAGE)
            found += [(n, (verb, branch, path, *offset, data[:end])) for n, end in enumerate(ends, 2)]
        return found

    # --- comparing -----------------------------------------------------------------------------------

    def _compare(self) -> None:
        turn = -1 if self._dice.random() < 0.2 else self.totals.kills
        self._settle(self._ask(1, ("dump", turn)))

    def _settle(self, shown: Any) -> None:
        """Find out which of the operations under way happened; each as a whole or not at all,
        but for a long write, whose requests are."""
        doubtful = list(self._under_way.values())
        self._under_way = {}
        self.totals.under_way += len(doubtful)
        wrong: list[str] = []
        # What is likely first: nothing happened, all of one, and only then writes in part.
        outcomes = sorted(
            itertools.product(*map(self._outcomes, doubtful)), key=lambda chosen: sum(n > 1 for n, _ in chosen)
        )
        for chosen in outcomes:
            happened = [operation for _, operation in chosen if operation]
            model = self._model.copy()
            try:
                for operation in happened:
                    model.plan(operation)()
            except Refused:
                continue
            found = differences(model, shown)
            if not found:
                self.totals.found += len(happened)
                self.totals.in_part += sum(n > 1 for n, _ in chosen)
                self._model = model
                return
            wrong = wrong or found
        raise Wrong("\n".join([*wrong[:20], *(f"under way: {brief(operation)}" for operation in doubtful)]))

    def _check(self) -> None:
        """Open the store without a mount: check(), and everything once more."""
        served = Served(
            Life(self._store, 1 << 20, workers=1), Journal(), [], self._model, self._directory / "said", self.tail
        )
        try:
            if served.ready() is None:
                served.wait()
                raise Wrong("the store cannot be opened")
            answer = served.shown(-1)
            if answer is None or answer[0]:
                raise Wrong(f"check(): {answer}")
            self._settle(answer[1])
        finally:
            if served.alive:
                served.kill()
        self.totals.checked += 1
