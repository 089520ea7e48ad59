"""Who gets a processor first while all are busy.

A request waits twice for one: the process that serves has to wake up, and then the caller. Where a hundred agents
compute, each wait is some milliseconds, unless whoever serves goes before the rest: the system is asked for a
real-time priority (SCHED_RR, the lowest) while it has to wait; at other times, or where that is not allowed, for a
short slice, with which a sleeper gets its share sooner and no more than that (docs/concurrency.md).

Invariants: the programs that it starts do not (storage/workers/handle.py sees to it, or they themselves); a process
whose loop turns no more does not for longer than RUN_S. Imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

RUN_S: Final = 1.0
"""So long a real-time process may run without having slept; then it has to show that it is well."""
_SLICE_NS: Final = 100_000
"""The shortest that Linux grants (6.12; older ones take no notice)."""
_ATTR: Final = struct.Struct("=IIQiIQQQ")
"""struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period. Source: sched_setattr(2)."""
_RESET_ON_FORK: Final = 1
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
_BREAK_S: Final = 50e-6
HOLD_S: Final = 10.0
"""For so long it stays first, and then sees whether it still would have to wait."""
_LITTLE_NS: Final = 10_000_000


def hurry(pid: int, *, alone: bool = False) -> None:
    """Have a process (0: this one) go before all others, until it says otherwise itself.

    Where the system does not let us, it is one among others. Niceness would not do: it counts within a session
    alone.

    Args:
        alone: What it starts does not hurry; else its threads do, for one that has the interpreter's lock and no
            processor would keep it waiting.
    """
    policy = os.SCHED_RR | (os.SCHED_RESET_ON_FORK if alone else 0)
    with contextlib.suppress(ProcessLookupError):
        try:
            os.sched_setscheduler(pid, policy, os.sched_param(1))
        except PermissionError:
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


def calm() -> None:
    """Let this process be one among others again, with all of its threads."""
    for thread in _threads():
        _set(thread, os.SCHED_OTHER)


def give_way() -> None:
    """Whoever is made to hurry from now on is one among others again, with all of its threads, once it has run for
    RUN_S without having slept: it may loop, and nobody is sure of it yet. Until `Foremost` sees to it.

    To be called by the main thread. Source: RLIMIT_RTTIME in getrlimit(2).
    """
    signal.signal(signal.SIGXCPU, lambda number, frame: calm())
    _limit()


def _limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_RTTIME)
    # The kernel raises it each time that it has sent the signal.
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_RTTIME, (int(RUN_S * 1_000_000), most))


class Foremost:
    """The process that serves goes first while it would have to wait, as long as it is well.

    Not always: while there is a processor for everybody, one that is always at hand for it is missed by clients and
    by who follows it. So each second it looks how long it has waited for one (/proc/self/schedstat).

    Its threads go first as well: one may have the interpreter's lock, and a process that is killed is dead when all
    of them are. The database's own threads, whose work nobody waits for, do not.

    It may run on and on: for a second under load without ever having slept. Then the kernel says so (RLIMIT_RTTIME,
    SIGXCPU), it is one among others at once, and first again at the loop's next turn; one that never comes is taken
    for hung by the supervisor, and has not had a processor for itself meanwhile.
    """

    def __init__(self, soon: Callable[[Callable[[], object]], object]) -> None:
        """
        Args:
            soon: Has the loop call something at its next turn; is called in a signal's handler.
        """
        self._soon = soon
        self._before = (0, 0)
        self._until = 0.0
        self.first = False

    def begin(self, *, first: bool) -> None:
        """From now on, with all threads that are started later. To be called by the main thread.

        Args:
            first: For HOLD_S at least: somebody has waited for long already.
        """
        signal.signal(signal.SIGXCPU, self._ran_on)
        if first:
            self._go_first()
        else:
            self._be_one_of_many()

    def end(self) -> None:
        """One among others, as are all threads of this process."""
        self.first = False
        calm()

    def tend(self) -> None:
        """Call it each second: see whether it has to wait, and who has been started since. 50 us."""
        if not self.first:
            before, self._before = self._before, ran_and_waited()
            if would_wait(before, self._before):
                self._go_first()
        elif time.monotonic() > self._until:
            self._be_one_of_many()
        else:
            self._leave_the_database()

    def _be_one_of_many(self) -> None:
        self.first = False
        calm()
        be_short()
        self._before = ran_and_waited()

    def _go_first(self) -> None:
        _limit()
        try:
            for thread in _threads():
                _set(thread, os.SCHED_RR)
        except PermissionError:
            be_short()
            return
        self.first = True
        self._until = time.monotonic() + HOLD_S
        self._leave_the_database()

    def _leave_the_database(self) -> None:
        for thread in _threads_of_the_database():
            _set(thread, os.SCHED_OTHER)

    def _ran_on(self, number: int, frame: object) -> None:
        calm()
        self._soon(self._again)

    def _again(self) -> None:
        if self.first:
            self._go_first()
            time.sleep(_BREAK_S)  # Only a real-time process's sleep sets the kernel's count back.


def ran_and_waited() -> tuple[int, int]:
    """Nanoseconds for which the main thread has run, and waited to; (0, 0) where the kernel does not tell."""
    try:
        with open("/proc/self/schedstat", "rb", buffering=0) as file:
            ran, waited, _ = file.read(64).split()
    except (OSError, ValueError):
        return 0, 0
    return int(ran), int(waited)


def would_wait(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether it had to wait for a processor for more than a quarter of the time in which it wanted one.

    On two cores with nothing beside: 0 to 8 %; beside one endless loop a third, beside four three quarters.
    """
    ran, waited = after[0] - before[0], after[1] - before[1]
    return ran + waited > _LITTLE_NS and 4 * waited > ran + waited


def _threads() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/task")]


def _threads_of_the_database() -> list[int]:
    found = []
    for thread in _threads():
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/comm", "rb", buffering=0) as file:
            if file.read(16).startswith(b"rocksdb"):
                found.append(thread)
    return found


def _set(thread: int, policy: int) -> None:
    """Raises PermissionError: it may not go first."""
    try:
        os.sched_setscheduler(thread, policy, os.sched_param(int(policy == os.SCHED_RR)))
    except ProcessLookupError:
        pass
    except PermissionError:
        # Without CAP_SYS_NICE nothing was taken that could be given back, and the mark that short slices come with
        # (SCHED_RESET_ON_FORK) can't be taken off.
        if policy == os.SCHED_RR:
            raise


def be_short() -> None:
    """Ask for short slices, for this thread alone. Whatever the system says to that."""
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is None:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    asked = _ATTR.pack(_ATTR.size, os.SCHED_OTHER, _RESET_ON_FORK, nice, 0, _SLICE_NS, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, asked, 0)


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """Reap in here: the kernel spins until nobody looks at the dead process in /proc any more, and beside one that
    hurries whoever looks gets no processor for a second (seen)."""
    hurried = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
    if hurried:
        calm()
    try:
        yield
    finally:
        if hurried:
            hurry(0, alone=True)
