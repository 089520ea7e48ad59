"""Who leads, who waits, and what a request is called again with. Handlers of our own; nothing is mounted."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from heliosfs.core.errors import NeedPages
from heliosfs.core.ids import PageId
from heliosfs.transport.kernel import wire as w
from heliosfs.transport.kernel.handlers import Answer, Handler, Header
from heliosfs.transport.kernel.interrupts import Interrupts
from heliosfs.transport.kernel.pump import Pump
from heliosfs.transport.requests import AfterReply

MANY = 40
"""Requests that wait at the same time."""


class Bench:
    """A pump, and the end where requests come from.

    Attributes:
        slow: Set to let those go on that wait.
    """

    def __init__(self) -> None:
        kernel, self._ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self.kernel = trio.socket.from_stdlib_socket(kernel)
        self.slow = trio.Event()
        self.waiting = 0
        self.missing = {7}
        fd = self._ours.fileno()
        handlers: list[Handler | None] = [None] * w.OPCODES
        handlers[w.LOOKUP.opcode] = self._wait
        handlers[w.READLINK.opcode] = lambda head, view, end: bytes(view[w.BODY : end])
        self.pump = Pump(
            *(fd, handlers, self._settle, AfterReply(), lambda: None),
            *(SimpleNamespace(connection=0, request=0), 1, {}, SimpleNamespace(owed=None, keep=None)),
            Interrupts(fd, lambda node: None),
        )

    def _wait(self, head: Header, view: memoryview, end: int) -> Coroutine[Any, Any, Answer]:
        """Answers with its body when `slow` is set; before that, if its number is missing, asks for pages."""
        body = bytes(view[w.BODY : end])

        async def wait() -> Answer:
            self.waiting += 1
            await self.slow.wait()
            if head[2] in self.missing:
                raise NeedPages((PageId(bytes(32)),))
            return body

        return wait()

    async def _settle(self, act: Callable[..., Any], *args: Any) -> Any:
        self.missing.clear()
        return act(*args)

    async def ask(self, operation: w.Operation, number: int) -> None:
        body = b"name of %d\0" % number
        await self.kernel.send(
            w.IN_HEADER.pack(w.BODY + len(body), operation.opcode, number, 1, 0, 0, 1, 0, 0) + body
        )

    async def reply(self) -> tuple[int, bytes]:
        with trio.fail_after(10):
            data = await self.kernel.recv(1000)
        _, error, number = w.OUT_HEADER.unpack_from(data)
        assert error == 0
        return number, data[w.OUT_HEADER.size :]

    def close(self) -> None:
        self.kernel.close()
        self._ours.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.pump.run)
        yield made
        made.pump.stop()
        nursery.cancel_scope.cancel()
    made.close()


async def test_who_waits_keeps_nobody_waiting_and_nothing_of_the_buffer(bench: Bench) -> None:
    """Also one that has to be called again after it has waited: with its own request, not the last one."""
    for number in range(1, MANY):
        await bench.ask(w.LOOKUP, number)
    with trio.fail_after(10):
        while bench.waiting < MANY - 1:
            await trio.sleep(0.001)
    await bench.ask(w.READLINK, MANY)
    assert await bench.reply() == (MANY, b"name of %d\0" % MANY)
    bench.slow.set()
    replies = dict([await bench.reply() for _ in range(1, MANY)])
    assert replies == {number: b"name of %d\0" % number for number in range(1, MANY)}
    assert not bench.missing
