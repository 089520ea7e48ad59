"""One worker process as the pool holds it: the process, its socket, and what it has stored but not synced.

Must not know: jobs, the index, other workers.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from heliosfs.storage.workers import protocol
from heliosfs.storage.workers.jobs import WorkerLost
from heliosfs.storage.workers.ledger import Account

WORKER_MODULE: Final = "heliosfs.storage.workers"
NICE: Final = 19
"""Of workers for whom nobody waits."""
_RECEIVE_BYTES: Final = 1 << 18
_IMPORT_ROOT: Final = str(Path(__file__).parents[3])


class Worker:
    """A running worker process. One task at a time talks to it.

    Attributes:
        number: Of the worker in this pool's life; told in the headers of its packs.
        account: What it is storing and has stored.
        sync_wanted: Somebody waits for a sync of this worker while it has a job.
        sync_sent: That sync was asked for and not answered yet.
        reserved: The job is over and the worker is the waiter's.
        spoiled: A sync of it has failed: it is to be replaced.
    """

    __slots__ = (
        "_buffer",
        "_process",
        "_socket",
        "account",
        "number",
        "reserved",
        "spoiled",
        "sync_sent",
        "sync_wanted",
    )

    def __init__(self, packs: Path, number: int, pack_bytes: int, module: str = WORKER_MODULE) -> None:
        """Start a process that appends to packs in the directory `packs`. Takes 1-2 ms; it is ready later.

        `pack_bytes` is the length from which a pack is left for the next; `module` what is run: a test has its
        own, in which one call fails.

        Must be called in the thread that the pool lives in: the kernel ends a worker with the thread that
        started it.

        Raises:
            OSError: It can't be started.
        """
        self.number = number
        self.account = Account()
        self.sync_wanted: trio.Event | None = None
        self.sync_sent = False
        self.reserved = False
        self.spoiled = False
        self._buffer = bytearray()
        ours, theirs = socket.socketpair()
        try:
            # Never forked: a fork would inherit /dev/fuse and the lock of the store. A process group of its
            # own, so that Control-C in a terminal ends the command and not the worker under it.
            with _as_usual():
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        module,
                        str(theirs.fileno()),
                        os.fspath(packs.absolute()),
                        str(number),
                        str(os.getpid()),
                        str(pack_bytes),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    close_fds=True,
                    pass_fds=(theirs.fileno(),),
                    process_group=0,
                    env={**os.environ, "PYTHONPATH": _IMPORT_ROOT},
                )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(ours)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def be_nice(self, niceness: int) -> None:
        """Who goes first within a session and a control group, from 19 (everybody else) to 0 (nobody does).

        Where the system does not let us go back (EACCES: not root), it stays as it is.
        """
        with suppress(ProcessLookupError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, niceness)

    async def send(self, kind: int, body: bytes) -> None:
        """Send a message. Raises WorkerLost."""
        message = memoryview(protocol.frame(kind, body))
        try:
            while message:
                message = message[await self._socket.send(message) :]
        except (OSError, trio.ClosedResourceError) as error:
            raise WorkerLost(f"worker {self.number}: {error}") from error

    async def receive(self, deadline_seconds: float) -> tuple[int, bytes]:
        """The next message: kind and body.

        Raises:
            WorkerLost: The process has ended, or has said nothing for so long.
        """
        buffer = self._buffer
        header = protocol.HEADER.size
        needed = header
        while True:
            if len(buffer) >= needed:
                length, kind = protocol.HEADER.unpack_from(buffer)
                needed = header + length
                if len(buffer) >= needed:
                    body = bytes(memoryview(buffer)[header:needed])
                    del buffer[:needed]
                    return kind, body
            data = b""
            with trio.move_on_after(deadline_seconds) as scope:
                try:
                    data = await self._socket.recv(_RECEIVE_BYTES)
                except (OSError, trio.ClosedResourceError) as error:
                    raise WorkerLost(f"worker {self.number}: {error}") from error
            if scope.cancelled_caught:
                raise WorkerLost(f"worker {self.number} said nothing for {deadline_seconds:g} s")
            if not data:
                raise WorkerLost(f"worker {self.number} has ended")
            buffer += data

    def let_go(self) -> None:
        """Close the socket: an idle worker ends by itself."""
        self._socket.close()

    def kill(self) -> None:
        """End it now, whatever it does; `ended` or `wait` must follow."""
        self._socket.close()
        self._process.kill()

    def ended(self) -> bool:
        """Whether the process is no more; reaps it."""
        return self._process.poll() is not None

    async def wait(self) -> None:
        """Return when the process is no more."""
        await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)


@contextmanager
def _as_usual() -> Iterator[None]:
    """Whatever is started in here does not inherit a real-time priority. Source: sched(7), SCHED_RESET_ON_FORK."""
    policy = os.sched_getscheduler(0)
    if policy != os.SCHED_RR:
        yield
        return
    param = os.sched_getparam(0)
    os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, param)
    try:
        yield
    finally:
        # Who has no CAP_SYS_NICE can't take it back: then new threads are as usual, too.
        with suppress(PermissionError):
            os.sched_setscheduler(0, policy, param)
