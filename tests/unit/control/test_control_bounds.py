"""What one user can make control do and hold is bounded, and what belongs to somebody else is refused."""

from __future__ import annotations

import errno
import tracemalloc

import pytest

from heliosfs.control import tickets
from heliosfs.control.commands import Discard
from heliosfs.control.runner import Commands
from heliosfs.control.table import parse_line
from heliosfs.control.tree import ControlTree
from heliosfs.control.words import LINE_MAX
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ROOT_INO, NodeId, ViewNo, node_id
from tests.support.fake_filesystem import ALICE, BOB, ROOT_USER, FakeFilesystem

MAIN = ViewNo(1)
MAIN_ROOT = node_id(MAIN, ROOT_INO)


def surface() -> tuple[FakeFilesystem, ControlTree]:
    fs = FakeFilesystem()
    return fs, ControlTree(fs, visible=False, after_reply=lambda work: None, clock=lambda: fs.now)


async def looked_up(tree: ControlTree, name: bytes, root: NodeId = MAIN_ROOT) -> NodeId:
    helios = (await tree.lookup(root, b".helios", ALICE)).node
    return (await tree.lookup(helios, name, ALICE)).node


async def test_tickets_of_a_branch_are_bounded_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "TICKETS_MAX", 3)
    fs, tree = surface()
    held = [await looked_up(tree, b"ctl") for _ in range(3)]
    with pytest.raises(FsError) as refused:
        await looked_up(tree, b"checkpoint")
    assert refused.value.errno == errno.ENFILE
    # Another branch has its own.
    await fs.fork(MAIN, b"b", ALICE)
    child = fs.find_branch(b"main/b").view
    await looked_up(tree, b"ctl", node_id(child, ROOT_INO))
    tree.forget(held[0])
    await looked_up(tree, b"checkpoint")


async def test_what_tickets_hold_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "CONTENT_MAX", 1000)
    fs, tree = surface()
    node = await looked_up(tree, b"ctl")
    fs.status_keys["long"] = "x" * 2000
    await tree.write(node, 0, b"status", ALICE)
    with pytest.raises(FsError) as refused:
        await tree.write(node, 0, b"status", ALICE)
    assert refused.value.errno == errno.ENFILE
    with pytest.raises(FsError):
        await looked_up(tree, b"log")
    tree.forget(node)
    assert len(tree._tickets) == 0
    node = await looked_up(tree, b"checkpoint")
    await tree.write(node, 0, b"after", ALICE)


async def test_accounts_end_with_their_tickets() -> None:
    _fs, tree = surface()
    nodes = [await looked_up(tree, name) for name in (b"ctl", b"status", b"log", b"stats")]
    await tree.write(nodes[0], 0, b"ls", ALICE)
    assert tree._tickets._accounts[MAIN].content_bytes > 0
    for node in nodes:
        tree.forget(node)
    assert tree._tickets._accounts == {}


def test_a_line_has_an_end() -> None:
    parse_line(b"restore v " + b"p" * 4095)
    with pytest.raises(FsError) as refused:
        parse_line(b"restore v " + b"'p'" * (LINE_MAX // 3))
    assert refused.value.errno == errno.E2BIG


async def test_somebody_elses_branch_is_not_discarded_by_the_parents_owner() -> None:
    """Alice owns main; root forked below it."""
    fs, _ = surface()
    commands = Commands(fs, clock=lambda: fs.now)
    await fs.fork(MAIN, b"roots", ROOT_USER)
    refused = await commands.run(Discard(b"roots"), MAIN, ALICE)
    assert refused.errno == errno.EACCES
    assert fs.find_branch(b"main/roots").name == b"roots"
    assert (await commands.run(Discard(b"roots"), MAIN, ROOT_USER)).ok


@pytest.mark.parametrize(
    "line",
    [
        *(b"checkpoint x", b"branch x", b"branch rm b", b"restore s", b"restore s path", b"snapshot rm s"),
        *(b"snapshot mv s t", b"ls", b"status", b"stats", b"log", b"nonsense", b""),
    ],
)
async def test_nobody_else_is_told_or_does_anything(line: bytes) -> None:
    fs, _ = surface()
    commands = Commands(fs, clock=lambda: fs.now)
    await fs.fork(MAIN, b"b", ALICE)
    await fs.checkpoint(MAIN, b"s", ALICE)
    before = list(fs.calls)
    reply = await commands.run_words(MAIN, line.split(), BOB)
    assert not reply.ok and not reply.extra
    assert reply.errno == (errno.EACCES if line not in (b"nonsense", b"") else errno.EINVAL)
    assert fs.calls == before


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"branch ../x",
            b"branch a/b",
            b"branch ..",
            b"branch x --from ../main",
            b"branch rm ../b",
            b"branch rm a/b",
        ),
        *(b"restore ../other", b"restore main@s", b"snapshot rm ../s", b"snapshot mv s ../t", b"branch .helios"),
    ],
)
async def test_no_word_leads_out_of_the_branch(line: bytes) -> None:
    fs, _ = surface()
    commands = Commands(fs, clock=lambda: fs.now)
    await fs.fork(MAIN, b"b", ALICE)
    await fs.fork(MAIN, b"other", ALICE)
    view = fs.find_branch(b"main/b").view
    branches, before = set(fs.branches), list(fs.main.snapshots)
    reply = await commands.run_words(view, line.split(), ALICE)
    assert not reply.ok and reply.errno in (errno.EINVAL, errno.ENOENT)
    assert set(fs.branches) == branches and list(fs.main.snapshots) == before


async def test_a_command_far_out_costs_no_memory() -> None:
    """Where the reply stands behind what was written, a hole of any size may be before it."""
    fs = FakeFilesystem()
    tree = ControlTree(fs, visible=False, after_reply=lambda work: None, by_page=True)
    node = await looked_up(tree, b"ctl")
    for offset in (5_000, 1 << 36, (1 << 40) + 1, (1 << 63) - 4, (1 << 64) - 1):
        await tree.write(node, offset, b"ls", ALICE)
        size = (await tree.getattr(node, ALICE)).size
        assert 0 < size < 1 << 41
        tracemalloc.start()
        start = await tree.read(node, 0, 1000)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 100_000
        assert len(start) == min(size, 1000)
        assert start.isspace() == (1000 <= offset < 1 << 40)
        assert (await tree.read(node, max(size - 9_999, 0), 9_999)).lstrip().startswith(b'{"ok":true')
