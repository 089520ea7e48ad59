"""A session is asked whatever can be put on the wire: one answer to each request, never EIO, and it goes on.

A long run, with another seed: `python -m tests.fuzz.test_fuzz_requests SEED SECONDS`.
"""

from __future__ import annotations

import errno
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliosfs.transport.kernel import wire as w
from tests.support.fusewire import CONNECTION, Server, Wire, named
from tests.support.requests import Message, RandomRequests

SILENT = {w.FORGET.opcode, w.BATCH_FORGET.opcode, w.INTERRUPT.opcode}
HANDS_OUT = {w.LOOKUP.opcode, w.MKNOD.opcode, w.MKDIR.opcode, w.SYMLINK.opcode, w.CREATE.opcode, w.TMPFILE.opcode}
KEPT_NODES = 40


class Asked:
    """One connection that is asked at random.

    Attributes:
        seen: How often each operation was answered with success, and refused.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self._dice = random.Random(seed)
        self._wire = server.wire
        self._requests = RandomRequests(self._dice, connection=CONNECTION.flags)
        self._unique = 1 << 40 | (seed & 0xFFFF) << 24
        self._first = self._prepared(self._wire)
        self._requests.nodes[:] = self._first
        self.seen: Counter[tuple[str, bool]] = Counter()

    def _prepared(self, wire: Wire) -> list[int]:
        """Something of each kind, control files and a snapshot among it."""
        helios = wire.entry(wire.ask(w.LOOKUP, 1, b".helios\0"))[0]
        nodes = [1, helios]
        for name in (b"a", b"b"):
            body = named(w.Layouts.CREATE, os.O_RDWR, 0o100644, 0, 0, names=name + b"\0")
            made = wire.ask(w.CREATE, 1, body)
            if not made.error:
                nodes.append(wire.entry(made)[0])
        for operation, body in (
            (w.MKDIR, named(w.Layouts.MKDIR, 0o755, 0, names=b"d\0")),
            (w.SYMLINK, b"link\0a\0"),
            (w.MKNOD, named(w.Layouts.MKNOD, 0o010644, 0, 0, 0, names=b"e\0")),
        ):
            made = wire.ask(operation, 1, body)
            if not made.error:
                nodes.append(wire.entry(made)[0])
        wire.ask(w.MKDIR, helios, named(w.Layouts.MKDIR, 0o755, 0, names=b"x\0"))
        for name in (b"ctl", b"status", b"checkpoint", b"restore", b"snapshots", b"branches"):
            nodes.append(wire.entry(wire.ask(w.LOOKUP, helios, name + b"\0"))[0])
        return nodes

    def step(self) -> None:
        """One request. AssertionError: it was not answered once, or as it must be."""
        message = self._requests.next()
        if message.opcode == w.INIT.opcode:
            return
        self._unique += 2
        unique = self._unique | (w.RESENT if self._dice.random() < 0.05 else 0)
        head = w.IN_HEADER.pack(
            message.told, message.opcode, unique, message.node, message.uid, message.uid, 1, 0, 0
        )
        self._wire.end.send(head + message.body)
        last = self._wire.send(w.STATFS, 1)
        answered = served = False
        silent = message.opcode in SILENT
        # What waits for something, as FSYNC does, is answered after later ones.
        while not (served and (answered or silent)):
            reply = self._wire.receive()
            if reply.unique == last:
                assert reply.error == 0
                served = True
            elif reply.unique:
                assert reply.unique == unique and not answered, (reply, message)
                answered = True
                assert not silent or not message.whole, message
                self._look_at(message, reply.error, reply.body)

    def _look_at(self, message: Message, error: int, body: bytes) -> None:
        assert -4096 < error <= 0, message
        assert error != -errno.EIO, message
        operation = w.BY_OPCODE.get(message.opcode)
        self.seen[operation.name if operation else "unknown", error == 0] += 1
        if operation is None:
            assert error == -errno.ENOSYS or not message.whole, message
        if not error and message.opcode in HANDS_OUT:
            node = w.ENTRY_OUT.unpack_from(body)[0]
            nodes = self._requests.nodes
            if node:
                nodes.append(node)
            if len(nodes) > KEPT_NODES:
                del nodes[self._dice.randrange(len(self._first), len(nodes))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("requests") / "store")
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(2))
def test_whatever_comes_is_answered_once(server: Server, seed: int) -> None:
    asked = Asked(server, seed)
    for _ in range(2500):
        asked.step()
    answered = {name for name, _ in asked.seen}
    expected = {operation.name for operation in w.OPERATIONS} - {"INIT", "FORGET", "BATCH_FORGET", "INTERRUPT"}
    assert expected <= answered, expected - answered


def main(seed: int, seconds: float) -> None:
    """Fuzz for so long, and say what was reached."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        server = Server(Path(directory) / "store")
        asked = Asked(server, seed)
        until = time.monotonic() + seconds
        count = 0
        while time.monotonic() < until:
            asked.step()
            count += 1
        print(count, "requests")
        for (name, well), number in sorted(asked.seen.items()):
            print(f"{number:8} {name} {'done' if well else 'refused'}")
        server.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
