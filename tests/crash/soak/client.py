"""The soak's end of a server: clients' operations under way, the order in which they happened, the model.

Invariants: the model holds the operations whose records are in the log, in its order; each client has one
operation under way at most. Must not know: why a server is killed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any

from tests.crash.soak import server
from tests.crash.soak.dice import SHARED, Dice
from tests.crash.soak.journal import FAILED, NOBODY, Journal
from tests.crash.soak.model import ANY, Made, Model, Node, Operation, Refused
from tests.crash.soak.server import Life

_BUFFER_BYTES = 1 << 20
ANSWER_S = 60.0


class Wrong(Exception):
    """The store, or the server, did what it must not."""


class Served:
    """One life of a server, from the fork to its death.

    Attributes:
        acked: Operations that were answered, refusals included.
        durable: Log position up to which the server has claimed that power loss takes nothing.
        order: (end of the record, client, number, operation) of what is in the log, in its order.
        first: Position of its first record.
        failures_allowed: Errnos that are nobody's fault but the disk's; refused: answers with one of them.
        stop_when_refused: `run` returns at the first of these.
        may_fail: The server may end with an error of its own.
        alive: It has not been seen dead.
    """

    def __init__(
        self, life: Life, journal: Journal, dice: list[Dice], model: Model, said: Path, tail: deque[str]
    ) -> None:
        self._journal = journal
        self._dice = dice
        self.model = model
        self._tail = tail
        self._said = said
        self.acked = 0
        self.first = 0
        self.durable = 0
        self.order: list[tuple[int, int, int, Operation]] = []
        self.doubtful: tuple[int, int, Operation] | None = None
        self.failures_allowed: frozenset[int] = frozenset()
        self.refused = 0
        self.may_fail = False
        self.stop_when_refused = False
        self._noted = 0
        self._under_way: dict[int, tuple[int, Operation]] = {}
        self._made: dict[tuple[int, int], Made] = {}
        self._numbers = [0] * (len(dice) + 1)
        self.alive = True
        journal.clear()
        pairs = [socket.socketpair() for _ in range(len(dice) + 1)]
        for ours, theirs in pairs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._control, control = pairs[0]
        self._channels = {number: pair[0] for number, pair in enumerate(pairs[1:], 1)}
        theirs = [pair[1] for pair in pairs[1:]]
        with said.open("ab") as errors:
            self.pid = server.fork(life, journal, theirs, control, [pair[0] for pair in pairs], errors.fileno())
        for end in (*theirs, control):
            end.close()
        self._poll = select.poll()
        self._by_fd = {channel.fileno(): number for number, channel in self._channels.items()}
        for descriptor in self._by_fd:
            self._poll.register(descriptor, select.POLLIN)

    # --- life and death ------------------------------------------------------------------------------

    def ready(self) -> tuple[int, int] | None:
        """(position after the last record that was found, records replayed); None if it died before."""
        message = self._answer()
        if message is None:
            return None
        _, found, self.first, replayed = message
        return found, replayed

    def shown(self, turn: int) -> tuple[list[str], dict[bytes, Any]] | None:
        """What check() finds and what the store shows; None if it died over it.

        `turn` chooses among the snapshots; -1: all of them, and check().
        """
        return self._answer(turn)

    def _answer(self, *ask: Any) -> Any:
        try:
            for message in ask:
                server.send(self._control, message)
            if not select.select([self._control], [], [], ANSWER_S)[0]:
                raise Wrong(f"the server says nothing for {ANSWER_S:.0f} s")
            return server.receive(self._control)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return None

    def health(self) -> tuple[str, str] | None:
        """("well", "" or "mended") or ("read-only", why); None if it died over it."""
        return self._answer("health")

    def kill(self) -> None:
        """SIGKILL; returns when it is gone, everything that it had noted taken in."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def close(self) -> bool:
        """Have it close the store. False if it died over it."""
        try:
            server.send(self._control, "close")
        except (BrokenPipeError, ConnectionResetError):
            pass
        return self.wait() == 0

    def wait(self) -> int:
        """Its wait status, when it is gone. Raises Wrong: neither killed nor in good order."""
        deadline = time.monotonic() + ANSWER_S
        pidfd = os.pidfd_open(self.pid)
        try:
            if not select.select([pidfd], [], [], deadline - time.monotonic())[0]:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise Wrong(f"the server does not end within {ANSWER_S:.0f} s")
        finally:
            os.close(pidfd)
        _, status = os.waitpid(self.pid, 0)
        self.alive = False
        self._take_answers()
        self._take_notes()
        notes = self._journal.notes(self._noted)
        if notes and notes[0].client != NOBODY and notes[0].client in self._under_way:
            number, operation = self._under_way[notes[0].client]
            self.doubtful = (notes[0].client, number, operation)
        for end in (*self._channels.values(), self._control):
            end.close()
        if status not in (0, signal.SIGKILL) and not self.may_fail:
            raise Wrong(f"the server died by itself (status {status})")
        return status

    # --- operations ----------------------------------------------------------------------------------

    def run(self, operations: int) -> None:
        """Have clients work until so many more were answered, or the server is dead."""
        wanted = self.acked + operations
        refused = self.refused
        while self.acked < wanted and not (self.stop_when_refused and self.refused > refused):
            for client in self._channels:
                if client not in self._under_way and not self._begin(client):
                    return
            ready = self._poll.poll(ANSWER_S * 1000)
            if not ready:
                raise Wrong(self._unanswered())
            for descriptor, _ in ready:
                if not self._take_answer(self._by_fd[descriptor]):
                    return

    def drain(self) -> None:
        """Have what is under way answered, and nothing new begun."""
        while self._under_way:
            ready = self._poll.poll(ANSWER_S * 1000)
            if not ready:
                raise Wrong(self._unanswered())
            for descriptor, _ in ready:
                if not self._take_answer(self._by_fd[descriptor]):
                    return

    def _unanswered(self) -> str:
        return unanswered({client: operation for client, (_, operation) in self._under_way.items()}, ANSWER_S)

    def _begin(self, client: int) -> bool:
        operation = self._dice[client - 1].next()
        self._numbers[client] += 1
        self._under_way[client] = (self._numbers[client], operation)
        self._tail.append(f"client {client} #{self._numbers[client]} {brief(operation)}")
        try:
            server.send(self._channels[client], operation)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _take_answer(self, client: int) -> bool:
        try:
            code, result, durable = server.receive(self._channels[client])
        except EOFError:
            return False
        self._take_notes()
        self.durable = max(self.durable, durable)
        number, operation = self._under_way.pop(client)
        self.acked += 1
        self._tail.append(
            f"client {client} #{number} answered {code} {result!r:.60} at {self.order[-1][0] if self.order else 0}"
        )
        self._judge(client, number, operation, code, result)
        return True

    def _take_answers(self) -> None:
        """What a dead server had said before it died."""
        for client in list(self._under_way):
            while client in self._under_way and self._take_answer(client):
                pass

    def _judge(self, client: int, number: int, operation: Operation, code: int, result: Any) -> None:
        if (client, number) in self._made:
            if code and code not in self.failures_allowed:
                raise Wrong(f"{brief(operation)} is in the log and was answered with {code}")
            made = self._made[client, number]
            if isinstance(made, Node) and result:
                made.ino = result
            elif isinstance(made, list) and result:
                for snapshot, name in zip(reversed(made), reversed(result), strict=False):
                    snapshot.call(name)
            return
        if code in self.failures_allowed and code:
            self.refused += 1
            return
        if operation[1] == b"main" and operation[2:3] and operation[2][:1] == (SHARED,):
            return
        try:
            self.model.plan(operation)
        except Refused as refused:
            if code == refused.errno or (refused.errno == ANY and code):
                return
            raise Wrong(f"{brief(operation)} was answered with {code}, not {refused}") from None
        if code:
            raise Wrong(f"{brief(operation)} was answered with {code}")

    def _take_notes(self) -> None:
        for note in self._journal.notes(self._noted):
            if note.end == 0:
                return
            self._noted += 1
            if note.client == NOBODY or note.end == FAILED:
                continue
            number, operation = self._under_way.get(note.client, (0, ()))
            if number != note.number:
                raise Wrong(
                    f"client {note.client} has a record for its operation {note.number}, {number} is under way"
                )
            self.order.append((note.end, note.client, number, operation))
            self._made[note.client, number] = applied(self.model, operation)

    def happened(self) -> list[tuple[int, Operation, Made]]:
        """What is in the log, in its order: (end, operation, what it made)."""
        return [(end, operation, self._made[client, number]) for end, client, number, operation in self.order]


def applied(model: Model, operation: Operation, like: Made = None) -> Made:
    """Make a change that the log has; `like` is what another model made of it.

    Raises Wrong: it should have been refused.
    """
    try:
        made = model.plan(operation)()
    except Refused as refused:
        raise Wrong(f"{brief(operation)} was carried out; the model says {refused}") from None
    if isinstance(made, Node) and isinstance(like, Node):
        made.ino = like.ino
    elif isinstance(made, list) and isinstance(like, list):
        for mine, other in zip(made, like, strict=True):
            if mine.name is None:
                mine.name = mine.first_name = other.first_name
    return made


def unanswered(under_way: dict[int, Operation], seconds: float) -> str:
    """A hang in words: nothing is known to be lost, but nobody is served."""
    lines = [f"client {client}: {brief(operation)}" for client, operation in under_way.items()]
    return "\n".join([f"a hang: no operation is answered for {seconds:.0f} s; under way:", *lines])


def brief(operation: Operation) -> str:
    """An operation in a line."""
    return " ".join(
        f"{len(part)} bytes" if isinstance(part, bytes) and len(part) > 40 else f"{part!r:.90}"
        for part in operation
    )
