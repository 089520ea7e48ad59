"""Worker processes for a server that is killed many times a second: forked instead of started anew.

A *nursery* is forked from the server before that has threads, descriptors or a lock; it forks workers when
asked, and dies with the server, as its workers die with it. The product starts a program for each worker
(60 ms); what runs in it is the same. Must not know: what workers do.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from heliosfs.storage.workers import handle
from heliosfs.storage.workers import process as worker_process

_PR_SET_PDEATHSIG = 1


def fork_nursery(prepare: Callable[[], None], *, closing: list[int]) -> None:
    """From now on `Worker`s of this process are forked.

    Args:
        prepare: Called in each worker before it begins.
        closing: Descriptors that are not the nursery's.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    if os.fork() == 0:
        try:
            ours.close()
            for descriptor in closing:
                os.close(descriptor)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == parent:
                _serve(theirs, prepare)
        finally:
            os._exit(0)
    theirs.close()

    def start(command: list[str], *, pass_fds: tuple[int], **_: Any) -> _Process:
        _, packs, number, _, pack_bytes = command[-5:]
        socket.send_fds(ours, [f"{number} {pack_bytes} {packs}".encode()], list(pass_fds))
        return _Process(int(ours.recv(64)))

    handle.subprocess = SimpleNamespace(Popen=start, DEVNULL=-3, TimeoutExpired=TimeoutError)  # type: ignore[assignment]


def _serve(asking: socket.socket, prepare: Callable[[], None]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        words, descriptors, _, _ = socket.recv_fds(asking, 4096, 1)
        if not words:
            return
        number, pack_bytes, packs = words.decode().split(" ", 2)
        nursery = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asking.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                prepare()
                code = worker_process.main([str(descriptors[0]), packs, number, str(nursery), pack_bytes])
            finally:
                os._exit(code)
        os.close(descriptors[0])
        asking.send(str(pid).encode())


class _Process:
    """What `Worker` needs of a Popen, for a process that is somebody else's child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = -1

    def poll(self) -> int | None:
        return 0 if self._fd < 0 or select.select([self._fd], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        if self._fd >= 0:
            select.select([self._fd], [], [], timeout)
        return 0

    def kill(self) -> None:
        if self._fd >= 0:
            try:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
