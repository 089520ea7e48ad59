"""Control's memory: what a process that takes over finds of tickets, links, replies; and how it stays short."""

from __future__ import annotations

import json
import os

import pytest

from heliosfs.control import ioctl
from heliosfs.control.remembering import GROWN_BYTES, Memory, reply_from_json, reply_to_json
from heliosfs.control.reply import Reply
from heliosfs.control.runner import Commands
from heliosfs.control.tree import ControlTree
from heliosfs.core.errors import StaleHandle
from heliosfs.core.ids import ROOT_INO, ViewNo, node_id
from tests.support.fake_filesystem import ALICE, FakeFilesystem

MAIN_ROOT = node_id(ViewNo(1), ROOT_INO)


def test_lines_come_back_in_order() -> None:
    kept: list[int] = []
    memory = Memory(kept.append)
    assert kept == [memory.fd]
    for number in range(3):
        memory.add({"ticket": number})
    other = Memory(kept.append, os.dup(memory.fd))
    assert [line["ticket"] for line in other.lines()] == [0, 1, 2]
    other.add({"ticket": 3})
    again = Memory(kept.append, os.dup(memory.fd))
    assert [line["ticket"] for line in again.lines()] == [0, 1, 2, 3]
    for one in (memory, other, again):
        one.close()


def test_a_line_cut_short_has_not_happened() -> None:
    memory = Memory(lambda _fd: None)
    memory.add({"ticket": 1})
    os.pwrite(memory.fd, b'{"ticket": 2', os.fstat(memory.fd).st_size)
    other = Memory(lambda _fd: None, os.dup(memory.fd))
    assert [line["ticket"] for line in other.lines()] == [1]
    other.add({"ticket": 3})
    assert [line["ticket"] for line in other.lines()] == [1, 3]
    memory.close()
    other.close()


def test_it_is_written_anew_when_it_has_grown() -> None:
    kept: list[int] = []
    memory = Memory(kept.append)
    memory.renewed_by(lambda: [{"all": "there is"}])
    first = memory.fd
    line = {"text": "x" * 1000}
    for _ in range(GROWN_BYTES // 1000 + 1):
        memory.add(line)
    assert kept == [first, memory.fd]
    lines = list(memory.lines())
    assert lines[0] == {"all": "there is"}
    assert len(lines) < 100
    memory.close()


def test_a_reply_says_the_same_again() -> None:
    reply = Reply("branch", "7", "exp", True, 123, {"branch": "main/exp"}, 17, "why")
    assert reply_from_json(reply_to_json(reply)).line == reply.line


class Trees:
    """A control tree with a memory, and one made of that memory after it has grown."""

    def __init__(self) -> None:
        self.fs = FakeFilesystem()
        self.memory = Memory(lambda _fd: None)
        self.tree = self.made(self.memory)

    def made(self, memory: Memory) -> ControlTree:
        return ControlTree(self.fs, visible=False, after_reply=lambda work: None, memory=memory, by_page=True)

    def again(self) -> ControlTree:
        tree = self.made(Memory(lambda _fd: None, os.dup(self.memory.fd)))
        tree.recall()
        return tree


@pytest.mark.parametrize("grown", [False, True])
async def test_a_tree_goes_on_where_another_ended(grown: bool) -> None:
    trees = Trees()
    tree = trees.tree
    control = (await tree.lookup(MAIN_ROOT, b".helios", ALICE)).node
    kept = (await tree.lookup(control, b"ctl", ALICE)).node
    gone = (await tree.lookup(control, b"ctl", ALICE)).node
    await tree.write(kept, 0, b"checkpoint one", ALICE)
    tree.forget(gone)
    if grown:
        for _ in range(GROWN_BYTES // 30):
            tree.forget((await tree.lookup(control, b"ctl", ALICE)).node)
    other = trees.again()
    assert other.known_tickets() == [kept]
    assert await other.read(kept, 0, 9999) == await tree.read(kept, 0, 9999)
    with pytest.raises(StaleHandle):
        await other.read(gone, 0, 10)
    fresh = (await other.lookup(control, b"ctl", ALICE)).node
    assert fresh > gone
    assert json.loads(await other.read(fresh, 0, 9999))["name"] == "one"


async def test_results_are_remembered_however_they_came() -> None:
    """By an attribute, and by an ioctl of `.helios`: what shows them shows them still."""
    trees = Trees()
    control = (await trees.tree.lookup(MAIN_ROOT, b".helios", ALICE)).node
    await trees.tree.setxattr(MAIN_ROOT, b"user.helios.checkpoint", b"one", 0, ALICE)
    command = bytes(ioctl.request(b"ls"))
    _, answered = await trees.tree.ioctl(control, ioctl.NUMBER, command, ALICE)
    other = trees.again()
    shown = await other.getxattr(MAIN_ROOT, b"user.helios.checkpoint", ALICE)
    assert shown == await trees.tree.getxattr(MAIN_ROOT, b"user.helios.checkpoint", ALICE)
    ctl = (await other.lookup(control, b"ctl", ALICE)).node
    assert await other.read(ctl, 0, 9999) == ioctl.reply_in(answered)[0]


async def test_of_two_memories_the_later_result_counts() -> None:
    """Those of two mountpoints, which share the results."""
    trees = Trees()
    commands = trees.tree.commands
    memory = Memory(lambda _fd: None)
    second = ControlTree(
        trees.fs, visible=False, after_reply=lambda work: None, commands=commands, memory=memory, by_page=True
    )
    for tree, name in ((trees.tree, b"one"), (second, b"two"), (trees.tree, b"three")):
        await tree.setxattr(MAIN_ROOT, b"user.helios.checkpoint", name, 0, ALICE)
    after = Commands(trees.fs)
    for fd in (trees.memory.fd, memory.fd):
        again = Memory(lambda _fd: None, os.dup(fd))
        tree = ControlTree(
            trees.fs, visible=False, after_reply=lambda work: None, commands=after, memory=again, by_page=True
        )
        tree.recall()
    assert json.loads(await tree.getxattr(MAIN_ROOT, b"user.helios.checkpoint", ALICE))["name"] == "three"


async def test_tickets_that_are_gone_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trees = Trees()
    control = (await trees.tree.lookup(MAIN_ROOT, b".helios", ALICE)).node
    kept = (await trees.tree.lookup(control, b"status", ALICE)).node
    for _ in range(5):
        trees.tree.forget((await trees.tree.lookup(control, b"status", ALICE)).node)
    asked: list[object] = []
    monkeypatch.setattr(trees.fs, "status", lambda view: asked.append(view) or {})
    assert trees.again().known_tickets() == [kept]
    assert len(asked) == 1
