"""Who is let go, who is not, and that each request is answered once."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from heliosfs.transport.kernel import interrupts as module
from heliosfs.transport.kernel import wire as w
from heliosfs.transport.kernel.handlers import Header
from heliosfs.transport.kernel.interrupts import Interrupts, is_dying

DYING, LIVING = 7, 8


class Lab:
    """Interrupts whose replies can be read, and callers of whom one is dying."""

    def __init__(self) -> None:
        self._kernel, self._ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._kernel.setblocking(False)
        self.taken_back: list[int] = []
        self.interrupts = Interrupts(self._ours.fileno(), self.taken_back.append)

    def request(self, operation: w.Operation, number: int, thread: int, node: int = 99 << 40) -> Header:
        head = (w.BODY, operation.opcode, number, node, 0, 0, thread, 0, 0)
        self.interrupts.begin(head)
        return head

    def signal(self, number: int) -> None:
        body = w.IN_HEADER.pack(48, w.INTERRUPT.opcode, number | 1, 0, 0, 0, 0, 0, 0) + number.to_bytes(8, "little")
        assert self.interrupts.interrupt(w.IN_HEADER.unpack_from(body), memoryview(body), len(body)) is None

    def replies(self) -> list[tuple[int, ...]]:
        found = []
        while True:
            try:
                found.append(w.OUT_HEADER.unpack(self._kernel.recv(100)))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._kernel.close()
        self._ours.close()


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(module, "is_dying", lambda thread: thread == DYING)
    made = Lab()
    yield made
    made.close()


@pytest.mark.parametrize("operation", [w.READ, w.GETXATTR, w.FSYNC, w.LOOKUP, w.IOCTL])
def test_who_dies_is_answered_once(lab: Lab, operation: w.Operation) -> None:
    head = lab.request(operation, 10 | w.RESENT, DYING)
    lab.signal(10 | w.RESENT)
    assert lab.replies() == [(16, -errno.EINTR, 10 | w.RESENT)]
    lab.signal(10)
    assert lab.replies() == []
    assert lab.interrupts.end(head, -errno.EIO) is None
    assert not lab.interrupts.waiting


def test_what_a_late_reply_hands_out_is_taken_back(lab: Lab) -> None:
    for node in (5, 0):
        head = lab.request(w.LOOKUP, 10, DYING)
        lab.signal(10)
        assert lab.interrupts.end(head, w.ENTRY_OUT.pack(node, *(0,) * 21)) is None
    assert lab.taken_back == [5]
    head = lab.request(w.LOOKUP, 12, LIVING)
    answer = w.ENTRY_OUT.pack(6, *(0,) * 21)
    assert lab.interrupts.end(head, answer) == answer
    head = lab.request(w.LOOKUP, 14, DYING)
    lab.signal(14)
    assert lab.interrupts.end(head, -errno.ENOENT) is None
    assert lab.taken_back == [5]


def test_who_lives_waits_on(lab: Lab) -> None:
    head = lab.request(w.READ, 10, LIVING)
    lab.signal(10)
    assert lab.replies() == []
    assert lab.interrupts.end(head, b"data") == b"data"


@pytest.mark.parametrize("operation", [w.WRITE, w.UNLINK, w.CREATE, w.SETATTR, w.SETXATTR, w.READDIRPLUS, w.OPEN])
def test_a_change_is_not_left_for_later(lab: Lab, operation: w.Operation) -> None:
    head = lab.request(operation, 10, DYING)
    lab.signal(10)
    assert lab.replies() == []
    assert lab.interrupts.end(head, 0) == 0


def test_a_command_may_be(lab: Lab) -> None:
    lab.request(w.WRITE, 10, DYING, node=3)
    lab.signal(10)
    assert lab.replies() == [(16, -errno.EINTR, 10)]


def test_a_request_that_does_not_wait(lab: Lab) -> None:
    lab.signal(10)
    assert lab.replies() == []
    assert lab.interrupts.end((w.BODY, w.READ.opcode, 10, 1, 0, 0, DYING, 0, 0), b"x") == b"x"


async def test_who_is_killed_after_another_signal(lab: Lab, autojump_clock: trio.testing.MockClock) -> None:
    killed: set[int] = set()
    module.is_dying = lambda thread: thread in killed  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.interrupts.watch)
        first = lab.request(w.READ, 10, 1)
        second = lab.request(w.READ, 12, 2)
        for number in (10, 12):
            lab.signal(number)
        await trio.sleep(1)
        assert lab.replies() == []
        assert lab.interrupts.end(first, b"x") == b"x"
        killed |= {1, 2}
        await trio.sleep(1)
        assert lab.replies() == [(16, -errno.EINTR, 12)]
        assert lab.interrupts.end(second, b"x") is None
        nursery.cancel_scope.cancel()


def test_is_dying() -> None:
    assert not is_dying(0)
    assert not is_dying(os.getpid())
    with subprocess.Popen(["sleep", "60"]) as process:
        assert not is_dying(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_dying(process.pid), "nobody has asked for its end yet"
        assert process.wait() == -signal.SIGKILL
        assert not is_dying(process.pid)
