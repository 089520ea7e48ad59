"""The processes of a supervisor, as it holds them: who forks, who serves, who follows.

Imports the standard library alone, and who hurries.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from typing import Final

from heliosfs.daemon.priority import unhurried

_PIDFD_INFO: Final = struct.Struct("=Q52xi")
_PIDFD_GET_INFO: Final = 0xC040FF0B
_PIDFD_INFO_EXIT: Final = 8


@dataclass(slots=True, eq=False)
class Standby:
    """A process that has everything imported and forks workers.

    Attributes:
        ready: It has said so.
    """

    process: subprocess.Popen[bytes]
    line: socket.socket
    ready: bool = False


@dataclass(slots=True, eq=False)
class Worker:
    """A process that serves.

    Attributes:
        pidfd: Readable when it is gone, all of its threads and descriptors included; -1 before it is born.
        serving: It has come to serve; since `began`.
        heard: When it last said something, by the monotonic clock.
        excused: How often it was silent for too long, in a row, and let be.
        ran_ns: What it had done then (silence.work_of), before it serves.
        caught_up: It has answered everything that was asked of its predecessor.
        ended: It said that it ends in good order: "ended" (unmounted) or "handed_over".
        hung: We had to kill it.
        level: One that follows: it has replayed what there is.
    """

    line: socket.socket
    heard: float
    pid: int = 0
    pidfd: int = -1
    serving: bool = False
    began: float = 0.0
    excused: int = 0
    ran_ns: int | None = None
    caught_up: bool = False
    ended: str = ""
    hung: bool = False
    level: bool = False

    @property
    def unborn(self) -> bool:
        """Whether it has gone before it said who it is."""
        return self.pidfd < 0 and self.line.fileno() < 0

    def signal(self, number: int) -> None:
        """Send it a signal, if it was born and is there."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def forget(self, poll: select.poll) -> int | None:
        """Let go of a process that has ended; `reap` comes later.

        Its status, as subprocess has it; None: unknown.
        """
        if self.pidfd < 0:
            self.leave(poll)
            return None
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return status_of_stranger(self.pid, self.pidfd)
        finally:
            self.leave(poll)
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def leave(self, poll: select.poll) -> None:
        """Let go of a process, dead or not; never waits, `reap` comes later."""
        if self.line.fileno() >= 0:
            poll.unregister(self.line)
            self.line.close()
        if self.pidfd >= 0:
            with contextlib.suppress(KeyError):
                poll.unregister(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1


def status_of_stranger(pid: int, pidfd: int) -> int | None:
    """The status of a process that has ended and is not our child, as subprocess has it; None: unknown.

    From /proc until its parent has reaped it, from the kernel (6.15 or newer) afterwards. Source: proc_pid_stat(5),
    include/uapi/linux/pidfd.h.
    """
    fields: list[bytes] = []
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    asked = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, 0))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, asked)
    except OSError:
        return None
    mask, status = _PIDFD_INFO.unpack(asked)
    if mask & _PIDFD_INFO_EXIT:
        return os.waitstatus_to_exitcode(status)
    # It was there just now, so nobody else had its number before.
    return os.waitstatus_to_exitcode(int(fields[-1])) if fields[:1] == [b"Z"] else None


def wait_for_all(patience_s: float) -> None:
    """Return when no child is left, those of dead children included: then nobody touches the store any more."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        try:
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is None:
                time.sleep(0.002)
        except ChildProcessError:
            return


def reap(but: set[int]) -> None:
    """Reap who is dead: workers, and their children, which have become ours.

    Those in `but` have who waits for them.
    """
    if _dead(but):
        with unhurried():
            while pid := _dead(but):
                os.waitpid(pid, os.WNOHANG)


def _dead(but: set[int]) -> int:
    """The next one that is dead; 0: there is none, or another one's is the next."""
    try:
        # Seen, and left: of others' children not even the status may be taken.
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 0 if found is None or found.si_pid in but else found.si_pid
