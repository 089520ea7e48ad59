"""The store's socket: shapes, sizes, who asks, and that no line ends the server."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
import trio.testing

from heliosfs.core.errors import FsError
from heliosfs.daemon import rpc
from heliosfs.daemon.address import socket_address
from heliosfs.daemon.rpc import LINE_MAX, Progress, Request, Server, failure, listening, parse_request, success
from heliosfs.filesystem.types import Caller
from heliosfs.transport.keeping import NobodyKeeps

CALLER = Caller(1, 2, 3)


async def echo(request: Request, progress: Progress) -> Mapping[str, object]:
    return success(request.argv[0], words=list(request.argv), branch=request.branch, uid=request.caller.uid)


async def count(request: Request, progress: Progress) -> Mapping[str, object]:
    for number in range(3):
        await progress({"files": number})
    return success("count")


async def refuse(request: Request, progress: Progress) -> Mapping[str, object]:
    raise FsError(errno.EBUSY, "it has children")


async def full(request: Request, progress: Progress) -> Mapping[str, object]:
    raise OSError(errno.ENOSPC, "full")


async def crash(request: Request, progress: Progress) -> Mapping[str, object]:
    raise KeyError("a bug")


@pytest.fixture
def server() -> Server:
    return Server({"count": count, "refuse": refuse, "full": full, "crash": crash}, echo)


async def ask(store: Path, *lines: bytes) -> list[dict[str, object]]:
    """The replies to these lines, until the server hangs up."""
    with socket_address(store) as address, trio.fail_after(20):
        stream = await trio.open_unix_socket(address)
        async with stream:
            await stream.send_all(b"".join(lines))
            await stream.send_eof() if hasattr(stream, "send_eof") else stream.socket.shutdown(socket.SHUT_WR)
            read = b""
            while data := await stream.receive_some(65536):
                read += data
    return [json.loads(line) for line in read.splitlines()]


def line(*argv: str, **more: object) -> bytes:
    return json.dumps({"argv": argv, **more}).encode() + b"\n"


async def test_a_line_is_answered_with_a_line(tmp_path: Path, server: Server) -> None:
    async with listening(tmp_path, server, NobodyKeeps()):
        (reply,) = await ask(tmp_path, line("checkpoint", "v 1", branch="main/exp", cwd_path=None))
    assert reply["ok"] is True
    assert reply["words"] == ["checkpoint", "v 1"]
    assert reply["branch"] == "main/exp"
    assert reply["uid"] == os.getuid()
    assert list(reply)[:8] == ["ok", "verb", "id", "name", "errno", "error", "durable", "time_ns"]


async def test_many_lines_in_one_connection(tmp_path: Path, server: Server) -> None:
    async with listening(tmp_path, server, NobodyKeeps()):
        replies = await ask(tmp_path, line("a"), b"\n", line("b"), line("c")[:-1] + b"\n")
    assert [reply["verb"] for reply in replies] == ["a", "b", "c"]


async def test_the_socket_is_private_and_goes_away(tmp_path: Path, server: Server) -> None:
    (tmp_path / "socket").write_text("left by a dead daemon")
    async with listening(tmp_path, server, NobodyKeeps()):
        status = (tmp_path / "socket").stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
    assert not (tmp_path / "socket").exists()


async def test_a_store_with_a_long_path_has_a_socket(tmp_path: Path, server: Server) -> None:
    store = tmp_path / ("x" * 120)
    store.mkdir()
    async with listening(store, server, NobodyKeeps()):
        (reply,) = await ask(store, line("a"))
    assert reply["ok"] is True


@pytest.mark.parametrize(
    "bad",
    [
        b"no json\n",
        b"[1]\n",
        b'{"argv": []}\n',
        b'{"argv": "checkpoint"}\n',
        b'{"argv": [1]}\n',
        b'{"argv": ["a"], "branch": 7}\n',
        b'{"argv": ["a"], "cwd_path": 7}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
    ],
)
async def test_a_bad_line_is_answered_and_the_next_one_too(tmp_path: Path, server: Server, bad: bytes) -> None:
    async with listening(tmp_path, server, NobodyKeeps()):
        first, second = await ask(tmp_path, bad, line("a"))
    assert (first["ok"], first["errno"]) == (False, "EINVAL")
    assert second["ok"] is True


async def test_a_line_too_long_is_refused(tmp_path: Path, server: Server) -> None:
    async with listening(tmp_path, server, NobodyKeeps()):
        with socket_address(tmp_path) as address:
            stream = await trio.open_unix_socket(address)
        with trio.fail_after(20):
            async with stream:
                try:
                    await stream.send_all(b"x" * (LINE_MAX + 200_000))
                except trio.BrokenResourceError:
                    pass
                reply = json.loads(await stream.receive_some(65536))
        assert reply["errno"] == "E2BIG"
        (reply,) = await ask(tmp_path, line("a"))
    assert reply["ok"] is True


async def test_progress_comes_before_the_reply(tmp_path: Path, server: Server) -> None:
    async with listening(tmp_path, server, NobodyKeeps()):
        replies = await ask(tmp_path, line("count"))
    assert [reply.get("progress") for reply in replies] == [{"files": 0}, {"files": 1}, {"files": 2}, None]


@pytest.mark.parametrize(("verb", "name"), [("refuse", "EBUSY"), ("full", "ENOSPC"), ("crash", "EIO")])
async def test_what_a_verb_raises_becomes_a_reply(
    tmp_path: Path, server: Server, verb: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(tmp_path, server, NobodyKeeps()):
        first, second = await ask(tmp_path, line(verb), line("a"))
    assert (first["ok"], first["verb"], first["errno"]) == (False, verb, name)
    assert second["ok"] is True
    assert ("a bug" in caplog.text) == (verb == "crash")


async def test_a_client_that_hangs_up_harms_nobody(tmp_path: Path, server: Server) -> None:
    async with listening(tmp_path, server, NobodyKeeps()):
        for _ in range(3):
            with socket_address(tmp_path) as address:
                stream = await trio.open_unix_socket(address)
            await stream.send_all(line("count") * 100)
            await stream.aclose()
        (reply,) = await ask(tmp_path, line("a"))
    assert reply["ok"] is True


async def test_verbs_can_be_added(tmp_path: Path, server: Server) -> None:
    server.register("export", refuse)
    async with listening(tmp_path, server, NobodyKeeps()):
        (reply,) = await ask(tmp_path, line("export"))
    assert reply["error"] == "it has children"


def test_a_request_has_its_defaults() -> None:
    assert parse_request(b'{"argv": ["a", "b"]}', CALLER) == Request(("a", "b"), "main", None, CALLER)


def test_replies_have_all_keys() -> None:
    assert list(success("x")) == list(failure("x", errno.EPERM, "no"))
    assert failure("x", 99999, "no")["errno"] == "99999"


async def test_others_than_the_operators_are_told_no(tmp_path: Path) -> None:
    """Whatever the socket's mode has become."""
    server = Server({}, echo, operators=[os.geteuid() + 1])
    async with listening(tmp_path, server, NobodyKeeps()):
        (reply,) = await ask(tmp_path)
    assert (reply["ok"], reply["errno"]) == (False, "EACCES")


async def test_clients_are_counted(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-open connections take no more than their number; who leaves makes room."""
    monkeypatch.setattr(rpc, "CONNECTIONS_MAX", 2)
    async with listening(tmp_path, server, NobodyKeeps()):
        with socket_address(tmp_path) as address, trio.fail_after(20):
            first = await trio.open_unix_socket(address)
            await first.send_all(line("a"))
            assert json.loads(await first.receive_some(65536))["ok"]
            second = await trio.open_unix_socket(address)
            await second.send_all(line("a")[:5])
            (refused,) = await ask(tmp_path)
            assert (refused["ok"], refused["errno"]) == (False, "EAGAIN")
            await second.send_all(line("a")[5:])
            assert json.loads(await second.receive_some(65536))["ok"]
            await first.aclose()
            await second.aclose()
            await trio.testing.wait_all_tasks_blocked(0.01)
            (answered,) = await ask(tmp_path, line("a"))
            assert answered["ok"]


async def test_a_silent_client_is_hung_up_on(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "IDLE_S", 0.01)
    async with listening(tmp_path, server, NobodyKeeps()):
        with socket_address(tmp_path) as address, trio.fail_after(20):
            stream = await trio.open_unix_socket(address)
            await stream.send_all(b'{"argv": ["a"]')
            assert await stream.receive_some(100) == b""
            await stream.aclose()


async def test_a_client_who_takes_no_reply_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def large(request: Request, progress: Progress) -> Mapping[str, object]:
        return success("large", words="x" * (4 << 20))

    monkeypatch.setattr(rpc, "IDLE_S", 0.05)
    server = Server({}, large)
    async with listening(tmp_path, server, NobodyKeeps()):
        with socket_address(tmp_path) as address, trio.fail_after(20):
            stream = await trio.open_unix_socket(address)
            await stream.send_all(line("a"))
            while server._connections == 0:
                await trio.lowlevel.checkpoint()
            while server._connections:
                await trio.lowlevel.checkpoint()
            await stream.aclose()
