"""The socket's client against a plain server in a thread."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heliosfs.cli.client import Client, connect
from heliosfs.cli.exits import CliError


class OneAnswer:
    """Takes one connection, one line, and sends what it was told to."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.request: dict[str, object] = {}
        self._answer = answer
        # A relative name: the socket's own limit of 108 bytes is not what is tested here.
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(path.parent, os.O_PATH)
        try:
            self._listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        self._listener.listen(1)
        self._listener.settimeout(10)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as connection, connection.makefile("rb") as lines:
            self.request = json.loads(lines.readline())
            connection.sendall(self._answer)

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


Server = Callable[[bytes], OneAnswer]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Server]:
    servers: list[OneAnswer] = []

    def start(answer: bytes) -> OneAnswer:
        servers.append(OneAnswer(tmp_path / "socket", answer))
        return servers[-1]

    yield start
    for server in servers:
        server.join()


def reached(store: Path) -> Client:
    client = connect(os.fsencode(store))
    assert client is not None
    return client


def test_a_command_and_its_reply(serve: Server, tmp_path: Path) -> None:
    server = serve(b'{"ok": true, "name": "v1"}\n')
    with reached(tmp_path) as client:
        assert client.ask(["checkpoint", "v1", "\udcff"], "main/exp") == {"ok": True, "name": "v1"}
    server.join()
    assert server.request == {"argv": ["checkpoint", "v1", "\udcff"], "branch": "main/exp", "cwd_path": None}


def test_progress_comes_before_the_reply(serve: Server, tmp_path: Path) -> None:
    serve(b'{"progress": {"files": 1, "bytes": 10}}\n{"progress": {"files": 2, "bytes": 30}}\n{"ok": true}\n')
    seen: list[tuple[int, int]] = []
    with reached(tmp_path) as client:
        assert client.ask(["import", "/d"], "main", lambda files, size: seen.append((files, size))) == {"ok": True}
    assert seen == [(1, 10), (2, 30)]


@pytest.mark.parametrize("answer", [b"", b'{"ok": tr', b"rubbish\n", b"[1]\n", b'{"progress": {"files": 1}}\n'])
def test_an_answer_cut_short_is_an_error(serve: Server, tmp_path: Path, answer: bytes) -> None:
    serve(answer)
    with reached(tmp_path) as client, pytest.raises(CliError, match="daemon"):
        client.ask(["ls"])


def test_nobody_there(tmp_path: Path) -> None:
    assert connect(os.fsencode(tmp_path)) is None
    assert connect(os.fsencode(tmp_path / "absent")) is None
    left_over = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left_over.bind(str(tmp_path / "socket"))
    left_over.close()
    assert connect(os.fsencode(tmp_path)) is None


def test_a_store_with_a_long_path(tmp_path: Path) -> None:
    store = tmp_path / ("x" * 120)
    store.mkdir()
    server = OneAnswer(store / "socket", b'{"ok": true}\n')
    with reached(store) as client:
        assert client.ask(["ping"]) == {"ok": True}
    server.join()
