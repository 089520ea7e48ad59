"""Control files: touch, write, read back; whose reply is whose."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Awaitable, Callable

import pytest
import trio

from heliosfs.control.runner import Commands
from heliosfs.control.tree import ControlTree
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ROOT_INO, NodeId, ViewNo, node_id
from heliosfs.filesystem.types import Caller, Change, SetAttr
from tests.support.fake_filesystem import ALICE, BOB, FILE, ROOT_USER, FakeFilesystem

MAIN = ViewNo(1)
TOUCH = SetAttr(atime_ns=5, mtime_ns=5)
TRUNCATE = SetAttr(size=0)


class Surface:
    """A tree over a fake filesystem, used as a kernel would."""

    def __init__(self) -> None:
        self.fs = FakeFilesystem()
        self.waiting: list[object] = []
        self.tree = ControlTree(self.fs, visible=False, after_reply=self.waiting.append, clock=lambda: self.fs.now)

    async def open(self, name: bytes, view: ViewNo = MAIN, caller: Caller = ALICE) -> NodeId:
        """A LOOKUP: a new ticket."""
        helios = (await self.tree.lookup(node_id(view, ROOT_INO), b".helios", caller)).node
        return (await self.tree.lookup(helios, name, caller)).node

    async def touch(self, node: NodeId, caller: Caller = ALICE) -> None:
        await self.tree.setattr(node, TOUCH, True, caller)

    async def read(self, node: NodeId) -> bytes:
        """As cat does: fstat, then reads up to its size and one more."""
        size = (await self.tree.getattr(node, ALICE)).size
        data = b""
        while part := await self.tree.read(node, len(data), 7):
            data += part
        assert len(data) == size
        return data

    async def reply(self, node: NodeId) -> dict[str, object]:
        keys: dict[str, object] = json.loads(await self.read(node))
        return keys

    async def cat(self, name: bytes, view: ViewNo = MAIN) -> dict[str, object] | None:
        data = await self.read(await self.open(name, view))
        return json.loads(data) if data else None


@pytest.fixture
def surface() -> Surface:
    return Surface()


async def refused(surface: Surface, code: int, node: NodeId, data: bytes, caller: Caller = ALICE) -> None:
    with pytest.raises(FsError) as caught:
        await surface.tree.write(node, 0, data, caller)
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code]


async def test_a_file_is_empty_before_the_first_command(surface: Surface) -> None:
    for name in (b"checkpoint", b"restore", b"ctl"):
        node = await surface.open(name)
        assert await surface.read(node) == b""
        attr = await surface.tree.getattr(node, ALICE)
        assert (attr.size, attr.blocks) == (0, 0)
        assert attr.mtime_ns == attr.ctime_ns == attr.atime_ns > 0


async def test_a_touch_makes_exactly_one_unnamed_checkpoint(surface: Surface) -> None:
    node = await surface.open(b"checkpoint")
    await surface.touch(node)
    assert surface.fs.calls == [("checkpoint", MAIN, None, "auto")]
    reply = await surface.reply(node)
    assert reply["ok"] is True and reply["verb"] == "checkpoint"
    assert str(reply["name"]).startswith("auto-")
    assert reply == await surface.cat(b"checkpoint")
    attr = await surface.tree.getattr(node, ALICE)
    assert attr.mtime_ns == reply["time_ns"] and attr.blocks == 1


async def test_echo_makes_exactly_one_named_checkpoint(surface: Surface) -> None:
    node = await surface.open(b"checkpoint")
    await surface.tree.open(node, os.O_WRONLY | os.O_TRUNC, ALICE)
    await surface.tree.setattr(node, TRUNCATE, False, ALICE)
    assert await surface.tree.write(node, 0, b"v1\n", ALICE) == 3
    assert surface.fs.calls == [("checkpoint", MAIN, b"v1", "user")]
    assert (await surface.reply(node))["name"] == "v1"


async def test_each_write_is_a_command_whatever_its_offset(surface: Surface) -> None:
    node = await surface.open(b"checkpoint")
    assert await surface.tree.write(node, 0, b"v1", ALICE) == 2
    assert await surface.tree.write(node, 2, b"v2\n", ALICE) == 3
    assert [call[2] for call in surface.fs.calls] == [b"v1", b"v2"]
    assert (await surface.reply(node))["name"] == "v2"


async def test_truncating_and_reading_are_no_commands(surface: Surface) -> None:
    for name in (b"checkpoint", b"restore", b"ctl"):
        node = await surface.open(name)
        await surface.tree.setattr(node, TRUNCATE, False, ALICE)
        await surface.tree.setattr(node, SetAttr(size=100), False, ALICE)
        await surface.tree.setattr(node, SetAttr(size=0, mtime_ns=3), False, ALICE)
        await surface.tree.setattr(node, SetAttr(atime_ns=3), False, ALICE)
        await surface.tree.getattr(node, ALICE)
        assert await surface.read(node) == b""
    assert not surface.fs.calls


async def test_mode_and_owner_stay(surface: Surface) -> None:
    node = await surface.open(b"checkpoint")
    for change in (SetAttr(mode=0o666), SetAttr(uid=0), SetAttr(gid=0), SetAttr(mode=0o600, mtime_ns=1)):
        with pytest.raises(FsError) as caught:
            await surface.tree.setattr(node, change, change.mtime_ns is not None, ALICE)
        assert caught.value.errno == errno.EPERM
    assert not surface.fs.calls


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\n", errno.EINVAL),
        (b"", errno.EINVAL),
        (b".\n", errno.EINVAL),
        (b"..\n", errno.EINVAL),
        (b"a/b\n", errno.EINVAL),
        (b"a\nb\n", errno.EINVAL),
        (b"v1\n\n", errno.EINVAL),
        (b"v1\0", errno.EINVAL),
        (b"\xff\n", errno.EINVAL),
        (b"latest\n", errno.EINVAL),
        (b"n" * 256, errno.ENAMETOOLONG),
    ],
)
async def test_a_malformed_name_fails_the_write_and_the_reason_can_be_read(
    surface: Surface, data: bytes, code: int
) -> None:
    node = await surface.open(b"checkpoint")
    await refused(surface, code, node, data)
    reply = await surface.reply(node)
    assert reply["ok"] is False and reply["verb"] == "checkpoint"
    assert reply["errno"] == errno.errorcode[code] and reply["error"]
    assert reply == await surface.cat(b"checkpoint")
    assert not surface.fs.calls


async def test_a_refusal_of_the_filesystem_is_the_same(surface: Surface) -> None:
    node = await surface.open(b"checkpoint")
    await surface.tree.write(node, 0, b"v1\n", ALICE)
    await refused(surface, errno.EEXIST, node, b"v1\n")
    reply = await surface.reply(node)
    assert (reply["errno"], reply["error"]) == ("EEXIST", "there is a snapshot v1 already")
    surface.fs.failure = OSError(errno.ENOSPC, "No space left on device")
    await refused(surface, errno.ENOSPC, node, b"v2\n")
    assert (await surface.reply(node))["errno"] == "ENOSPC"
    surface.fs.failure = OSError("a library's own")
    await refused(surface, errno.EIO, node, b"v2\n")


async def test_our_own_bugs_are_not_dressed_up(surface: Surface) -> None:
    node = await surface.open(b"checkpoint")
    surface.fs.failure = KeyError("bug")
    with pytest.raises(KeyError):
        await surface.tree.write(node, 0, b"v1\n", ALICE)
    await surface.tree.write(node, 0, b"v1\n", ALICE)


async def test_restore_is_coherent_before_the_write_returns(surface: Surface) -> None:
    await surface.tree.write(await surface.open(b"checkpoint"), 0, b"v1\n", ALICE)
    node = await surface.open(b"restore")
    await surface.tree.write(node, 0, b"latest\n", ALICE)
    assert surface.fs.calls[-1] == ("restore", MAIN, b"latest")
    assert surface.fs.published == [Change(MAIN, FILE, True, ())] and not surface.waiting
    reply = await surface.reply(node)
    assert reply["name"] == "v1" and reply["changed"] == 1 and str(reply["safety"]).startswith("safety-")


async def test_restore_refuses_what_is_not_there(surface: Surface) -> None:
    node = await surface.open(b"restore")
    await refused(surface, errno.ENOENT, node, b"latest\n")
    await refused(surface, errno.ENOENT, node, b"v9\n")
    await refused(surface, errno.EINVAL, node, b"\n")
    with pytest.raises(FsError) as caught:
        await surface.touch(node)
    assert caught.value.errno == errno.EINVAL
    assert (await surface.reply(node))["verb"] == "restore"
    assert surface.fs.published == []


async def test_ctl_takes_every_verb(surface: Surface) -> None:
    async def ctl(line: str) -> dict[str, object]:
        node = await surface.open(b"ctl")
        await surface.tree.write(node, 0, line.encode() + b"\n", ALICE)
        return await surface.reply(node)

    assert (await ctl("checkpoint v1"))["name"] == "v1"
    reply = await ctl("branch exp from v1")
    assert (reply["verb"], reply["name"]) == ("branch", "exp")
    assert (await ctl("snapshot mv v1 v2"))["verb"] == "snapshot mv"
    assert (await ctl("restore v2"))["name"] == "v2"
    assert (await ctl("restore v2 sub/file"))["path"] == "sub/file"
    assert (await ctl("restore v2 /"))["name"] == "v2"
    listing = await ctl("ls")
    assert [row["name"] for row in listing["branches"]] == ["exp"]  # type: ignore[attr-defined]
    assert listing["branch"] == "main" and listing["latest"] == "v2"
    first = listing["snapshots"][0]  # type: ignore[index]
    assert first["name"] == "v2" and first["kind"] == "user"
    assert {"name", "id", "time_ns", "durable", "root", "size"} <= set(first)
    assert (await ctl("branch rm exp"))["verb"] == "branch rm"
    assert (await ctl("snapshot rm v2"))["name"] == "v2"
    surface.fs.events = [{"lsn": n} for n in range(9)]
    assert (await ctl("log -n 2"))["entries"] == [{"lsn": 7}, {"lsn": 8}]
    assert (await ctl("status"))["pending"] == 0
    assert (await ctl("stats"))["cache"] == {"hits": 7}
    assert [call[:4] for call in surface.fs.calls if call[0] not in ("snapshots", "oplog")] == [
        ("checkpoint", MAIN, b"v1", "user"),
        ("fork", MAIN, b"exp", b"v1"),
        ("rename_snapshot", MAIN, b"v1", b"v2"),
        ("restore", MAIN, b"v2"),
        ("restore_path", MAIN, b"v2", b"sub/file"),
        ("restore", MAIN, b"v2"),
        ("discard", ViewNo(2)),
        ("forget_snapshot", MAIN, b"v2"),
    ]


@pytest.mark.parametrize(
    "line", [b"\n", b"frobnicate\n", b"undo\n", b"checkpoint a\ncheckpoint b\n", b"branch 'x\n"]
)
async def test_ctl_refuses_what_it_does_not_know(surface: Surface, line: bytes) -> None:
    node = await surface.open(b"ctl")
    await refused(surface, errno.EINVAL, node, line)
    assert (await surface.reply(node))["errno"] == "EINVAL"
    assert not surface.fs.calls
    with pytest.raises(FsError) as caught:
        await surface.touch(node)
    assert caught.value.errno == errno.EINVAL


async def test_a_nested_branchs_files_act_on_it_and_show_its_results(surface: Surface) -> None:
    await surface.fs.fork(MAIN, b"exp", ALICE)
    exp = ViewNo(2)
    await surface.tree.write(await surface.open(b"checkpoint", exp), 0, b"inner\n", ALICE)
    assert surface.fs.calls[-1] == ("checkpoint", exp, b"inner", "user")
    assert (await surface.cat(b"checkpoint", exp) or {})["name"] == "inner"
    assert await surface.cat(b"checkpoint") is None


async def test_results_are_per_file_and_die_with_the_branch(surface: Surface) -> None:
    await surface.fs.fork(MAIN, b"exp", ALICE)
    exp = ViewNo(2)
    await surface.tree.write(await surface.open(b"ctl", exp), 0, b"checkpoint v1\n", ALICE)
    assert await surface.cat(b"checkpoint", exp) is None
    assert (await surface.cat(b"ctl", exp) or {})["name"] == "v1"
    commands = surface.tree.commands
    assert commands.last(exp, b"ctl") is not None
    await commands.run_words(MAIN, ["branch", "rm", "exp"], ALICE)
    assert commands.last(exp, b"ctl") is None


async def test_a_ticket_without_a_command_follows_the_last_result(surface: Surface) -> None:
    early = await surface.open(b"checkpoint")
    mine = await surface.open(b"checkpoint")
    await surface.tree.write(mine, 0, b"v1\n", ALICE)
    other = await surface.open(b"checkpoint")
    await surface.tree.write(other, 0, b"v2\n", ALICE)
    assert (await surface.reply(early))["name"] == "v2"
    assert (await surface.reply(mine))["name"] == "v1"
    assert (await surface.cat(b"checkpoint") or {})["name"] == "v2"


async def test_what_is_read_in_parts_is_of_one_piece(surface: Surface) -> None:
    await surface.tree.write(await surface.open(b"checkpoint"), 0, b"first\n", ALICE)
    reader = await surface.open(b"checkpoint")
    start = await surface.tree.read(reader, 0, 20)
    await surface.tree.write(await surface.open(b"checkpoint"), 0, b"a-much-longer-name\n", ALICE)
    rest = await surface.tree.read(reader, 20, 4096)
    assert json.loads(start + rest)["name"] == "first"
    assert json.loads(await surface.tree.read(reader, 0, 4096))["name"] == "a-much-longer-name"


async def test_reading_on_after_a_write_gives_the_whole_reply(surface: Surface) -> None:
    node, tree = await surface.open(b"ctl"), surface.tree
    at = 0

    async def rest() -> bytes:
        nonlocal at
        data = b""
        while part := await tree.read(node, at, 30):
            data += part
            at += len(part)
        return data

    for name in ("v1", "another"):
        at += await tree.write(node, at, f"checkpoint {name}\n".encode(), ALICE)
        assert json.loads(await rest())["name"] == name
    await refused(surface, errno.EEXIST, node, b"checkpoint v1\n")
    at = 0
    assert json.loads(await rest())["errno"] == "EEXIST"
    with pytest.raises(FsError):
        await tree.write(node, at, b"frobnicate\n", ALICE)
    assert json.loads(await rest())["errno"] == "EINVAL"
    await tree.write(node, at, b"ls\n", ALICE)
    assert json.loads(await tree.read(node, 0, 9999))["verb"] == "ls"
    await tree.write(node, 100, b"ls\n", ALICE)
    assert await tree.read(node, 103, 9999) == await tree.read(node, 0, 9999)
    await tree.write(node, 100, b"ls\n", ALICE)
    assert await tree.read(node, 50, 9999) == (await tree.read(node, 0, 9999))[50:]


async def test_a_hundred_callers_at_once_each_get_their_own(surface: Surface) -> None:
    surface.fs.gate = trio.Event()
    got: dict[int, dict[str, object]] = {}

    async def caller(number: int) -> None:
        node = await surface.open(b"checkpoint")
        if number % 3:
            await surface.tree.write(node, 0, b"n%d\n" % number, ALICE)
        else:
            await surface.touch(node)
        got[number] = await surface.reply(node)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(caller, number)
        await trio.testing.wait_all_tasks_blocked()
        surface.fs.gate.set()
    assert len({reply["id"] for reply in got.values()}) == 100
    assert all(got[n]["name"] == f"n{n}" for n in range(100) if n % 3)
    assert len(surface.fs.main.snapshots) == 100


async def test_one_tickets_commands_take_turns(surface: Surface) -> None:
    surface.fs.gate = trio.Event()
    node = await surface.open(b"checkpoint")
    async with trio.open_nursery() as nursery:
        for name in (b"a", b"b", b"c"):
            nursery.start_soon(surface.tree.write, node, 0, name, ALICE)
        await trio.testing.wait_all_tasks_blocked()
        assert len(surface.fs.calls) == 1
        surface.fs.gate.set()
    assert sorted(call[2] for call in surface.fs.calls) == [b"a", b"b", b"c"]  # type: ignore[type-var]
    assert (await surface.reply(node))["name"] == surface.fs.calls[-1][2].decode()  # type: ignore[attr-defined]


async def test_forget_frees_the_ticket(surface: Surface) -> None:
    kept = len(surface.tree._tickets)
    node = await surface.open(b"checkpoint")
    assert len(surface.tree._tickets) == kept + 1
    surface.tree.forget(node)
    surface.tree.forget(node)
    assert len(surface.tree._tickets) == kept


async def test_others_may_not(surface: Surface) -> None:
    await surface.touch(await surface.open(b"checkpoint"))
    before = await surface.cat(b"checkpoint")
    node = await surface.open(b"checkpoint")
    calls = len(surface.fs.calls)
    await refused(surface, errno.EACCES, node, b"v1\n", BOB)
    await refused(surface, errno.EACCES, node, b"bad/name\n", BOB)
    for call in (
        surface.tree.setattr(node, TOUCH, True, BOB),
        surface.tree.setattr(node, TRUNCATE, False, BOB),
        surface.tree.open(node, 0, BOB),
    ):
        with pytest.raises(FsError) as caught:
            await call
        assert caught.value.errno == errno.EACCES
    assert len(surface.fs.calls) == calls
    assert await surface.cat(b"checkpoint") == before
    await surface.tree.write(node, 0, b"by-root\n", ROOT_USER)


# --- status, stats, log ----------------------------------------------------------------------------------


async def test_reports_are_made_at_lookup_with_their_true_size(surface: Surface) -> None:
    assert await surface.cat(b"status") == {"pending": 0}
    assert await surface.cat(b"stats") == {"cache": {"hits": 7}}
    node = await surface.open(b"status")
    surface.fs.status_keys["pending"] = 10**9
    assert await surface.reply(node) == {"pending": 0}
    assert await surface.cat(b"status") == {"pending": 10**9}


async def test_the_log_is_lines_newest_last_and_bounded(surface: Surface) -> None:
    assert await surface.read(await surface.open(b"log")) == b""
    surface.fs.events = [{"lsn": n, "name": "\udcff"} for n in range(3)]
    lines = (await surface.read(await surface.open(b"log"))).splitlines()
    assert [json.loads(line)["lsn"] for line in lines] == [0, 1, 2]
    assert json.loads(lines[0])["name"] == r'"\377"'
    assert surface.fs.calls[-1] == ("oplog", MAIN, 10_000)


@pytest.mark.parametrize("name", [b"status", b"stats", b"log"])
async def test_reports_take_nothing(surface: Surface, name: bytes) -> None:
    node = await surface.open(name)
    await refused(surface, errno.EPERM, node, b"x\n", ROOT_USER)
    for call in (
        surface.tree.setattr(node, TOUCH, True, ROOT_USER),
        surface.tree.setattr(node, TRUNCATE, False, ROOT_USER),
        surface.tree.open(node, os.O_WRONLY, ROOT_USER),
        surface.tree.open(node, os.O_RDWR, ROOT_USER),
    ):
        with pytest.raises(FsError) as caught:
            await call
        assert caught.value.errno == errno.EPERM
    await surface.tree.open(node, os.O_RDONLY, ALICE)


# --- words, as the socket gives them ---------------------------------------------------------------------


async def test_words_give_a_reply_and_never_raise() -> None:
    fs = FakeFilesystem()
    commands = Commands(fs, clock=lambda: 42)
    done = await commands.run_words(MAIN, ["checkpoint", "v1"], ALICE)
    assert done.ok and done.name == "v1"
    again = await commands.run_words(MAIN, [b"checkpoint", b"v1"], ALICE)
    assert (again.ok, again.errno) == (False, errno.EEXIST)
    wrong = await commands.run_words(MAIN, ["branch", "rm"], ALICE)
    assert (wrong.verb, wrong.errno, wrong.time_ns) == ("branch rm", errno.EINVAL, 42)
    denied = await commands.run_words(MAIN, ["status"], BOB)
    assert (denied.errno, denied.verb) == (errno.EACCES, "status")
    dead = await commands.run_words(ViewNo(77), ["checkpoint"], ROOT_USER)
    assert dead.errno == errno.ESTALE
    unknown = await commands.run_words(MAIN, ["\udcff"], ALICE)
    assert unknown.as_dict()["errno"] == "EINVAL"
    assert (await commands.run_words(MAIN, [], ALICE)).errno == errno.EINVAL


async def test_words_are_coherent_when_they_return() -> None:
    fs = FakeFilesystem()
    commands = Commands(fs)
    await commands.run_words(MAIN, ["checkpoint", "v1"], ALICE)
    assert (await commands.run_words(MAIN, ["restore", "v1"], ALICE)).ok
    assert fs.published == [Change(MAIN, FILE, True, ())]


async def test_front_ends_share_what_they_know() -> None:
    fs = FakeFilesystem()
    commands = Commands(fs)
    later: list[Callable[[], Awaitable[None]]] = []
    trees = [ControlTree(fs, visible=False, after_reply=later.append, commands=commands) for _ in range(2)]
    helios = (await trees[0].lookup(node_id(MAIN, ROOT_INO), b".helios", ALICE)).node
    node = (await trees[0].lookup(helios, b"checkpoint", ALICE)).node
    await trees[0].write(node, 0, b"v1\n", ALICE)
    other = (await trees[1].lookup(helios, b"checkpoint", ALICE)).node
    assert json.loads(await trees[1].read(other, 0, 4096))["name"] == "v1"
