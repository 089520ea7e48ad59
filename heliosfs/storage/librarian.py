"""A process that looks things up in the database that another process writes, for one that may not have it open.

Who follows a log needs refs and pages, but must be forked later, and RocksDB's threads do not outlive a fork. So it
has this child, which has the database open for reading, as it was when it was opened, and answers questions over a
socket, each message behind its length (u32):

    b"g" key            -> b"v" value, or b"-" for none
    b"s" key            -> records from that key on: as many as fit, each (length of key, of value) u32, key, value
    b"n" + descriptor   (no answer) another asks from now on, over this socket
    anything that fails -> b"!" and why

Must not know: what keys and values mean.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from cas import database

_RECORD: Final = struct.Struct("<II")
_LENGTH: Final = struct.Struct("<I")
_ANSWER_BYTES: Final = 1 << 18


class Librarian:
    """The asking end; has what refs and pages need of a database.

    Attributes:
        call: While an answer is waited for: a descriptor, and what to do with the process id of who is asked, once
            something is to be read there; then somebody waits for us.
    """

    def __init__(self, line: socket.socket, pid: int, pidfd: int) -> None:
        self._line = line
        self._pid = pid
        self._pidfd = pidfd
        self.call: tuple[int, Callable[[int], None]] | None = None

    @classmethod
    def start(cls, path: Path, inherited: Sequence[int] = ()) -> Librarian:
        """Fork a process that reads the database at `path`; it ends when nobody can ask it any more.

        Only from a process with one thread. 5 ms.

        Args:
            inherited: Descriptors of the caller's that the new process must not keep open.
        """
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if not pid:
            ours.close()
            for fd in inherited:
                os.close(fd)
            _serve(path, theirs)
        theirs.close()
        return cls(ours, pid, os.pidfd_open(pid))

    def close(self) -> None:
        """Ask nothing more. Idempotent."""
        self._line.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def line_for_another(self) -> socket.socket:
        """For a fork of ours, to `use` there; two must never ask over one line. Raises OSError: no descriptors."""
        ours, theirs = socket.socketpair()
        with theirs, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._line, [_LENGTH.pack(1) + b"n"], [theirs.fileno()])
        return ours

    def use(self, line: socket.socket) -> None:
        """Ask over this line from now on."""
        self._line.close()
        self._line = line

    def while_there(self, act: Callable[[int], None]) -> None:
        """Do something with the process id of who is asked, unless it may be another's by now."""
        if not select.select([self._pidfd], [], [], 0)[0]:
            act(self._pid)

    def get(self, key: bytes) -> bytes | None:
        """The value, or None. 30 us. Raises OSError (EIO): it can't be read, or nobody answers."""
        answer = self._ask(b"g" + key)
        return answer[1:] if answer[:1] == b"v" else None

    def iter(self) -> _Iterator:
        """An iterator as RocksDB's, forwards only."""
        return _Iterator(self)

    def records(self, key: bytes) -> list[tuple[bytes, bytes]]:
        """Some records from a key on; none: there is none. Raises OSError (EIO)."""
        answer = self._ask(b"s" + key)
        found: list[tuple[bytes, bytes]] = []
        at = 1
        while at < len(answer):
            name, value = _RECORD.unpack_from(answer, at)
            at += _RECORD.size
            found.append((answer[at : at + name], answer[at + name : at + name + value]))
            at += name + value
        return found

    def _ask(self, question: bytes) -> bytes:
        try:
            _send(self._line, question)
            self._wait()
            answer = _received(self._line)
        except (EOFError, OSError) as error:
            raise OSError(errno.EIO, f"who reads the database has gone: {error!r}") from error
        if answer[:1] == b"!":
            raise OSError(errno.EIO, answer[1:].decode())
        return answer

    def _wait(self) -> None:
        """Until there is an answer, or we are called: once."""
        if self.call is None:
            return
        called, act = self.call
        poll = select.poll()
        poll.register(self._line, select.POLLIN)
        poll.register(called, select.POLLIN)
        if called in {fd for fd, _ in poll.poll()}:
            self.call = None
            self.while_there(act)


class _Iterator:
    def __init__(self, librarian: Librarian) -> None:
        self._librarian = librarian
        self._found: list[tuple[bytes, bytes]] = []
        self._at = 0

    def seek(self, key: bytes) -> None:
        self._found, self._at = self._librarian.records(key), 0

    def valid(self) -> bool:
        return self._at < len(self._found)

    def key(self) -> bytes:
        return self._found[self._at][0]

    def value(self) -> bytes:
        return self._found[self._at][1]

    def next(self) -> None:
        self._at += 1
        if self._at == len(self._found):
            self.seek(self._found[-1][0] + b"\0")

    def status(self) -> None:
        """What went wrong was raised already."""


def _send(line: socket.socket, message: bytes) -> None:
    line.sendall(_LENGTH.pack(len(message)) + message)


def _received(line: socket.socket) -> bytes:
    """The next message. Raises EOFError: nobody is there any more; OSError."""
    return _body(line, line.recv(_LENGTH.size, socket.MSG_WAITALL))


def _body(line: socket.socket, head: bytes) -> bytes:
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    message = line.recv(length, socket.MSG_WAITALL)
    if len(message) < length:
        raise EOFError
    return message


def _serve(path: Path, line: socket.socket) -> NoReturn:
    """Answer until nobody asks."""
    try:
        db = database.open_beside(path)
        lines = [line]
        while lines:
            for asking in select.select(lines, [], [])[0]:
                try:
                    found = _heard(db, asking)
                except (EOFError, OSError):
                    lines.remove(asking)
                    asking.close()
                else:
                    if found is not None:
                        lines.append(found)
    except OSError:
        os._exit(0)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _heard(db: Any, line: socket.socket) -> socket.socket | None:
    """Answer the next message, or the line that it brings. Raises EOFError, OSError: nobody is there any more."""
    head, fds, _, _ = socket.recv_fds(line, _LENGTH.size, 1, socket.MSG_WAITALL)
    if fds:
        another = socket.socket(fileno=fds[0])
        _body(line, head)
        return another
    question = _body(line, head)
    try:
        answer = _answer(db, question)
    except Exception as error:
        # RocksDB's have no class.
        answer = b"!" + str(error).encode()
    _send(line, answer)
    return None


def _answer(db: Any, question: bytes) -> bytes:
    key = question[1:]
    if question[:1] == b"g":
        value = db.get(key)
        return b"-" if value is None else b"v" + value
    parts, length = [b"s"], 0
    iterator = db.iter()
    iterator.seek(key)
    while iterator.valid() and length < _ANSWER_BYTES:
        name, value = iterator.key(), iterator.value()
        parts += (_RECORD.pack(len(name), len(value)), name, value)
        length += len(name) + len(value)
        iterator.next()
    if not iterator.valid():
        database.check(iterator)
    return b"".join(parts)
