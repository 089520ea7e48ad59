"""The attributes `user.helios.*`: commands by setxattr, facts by getxattr, errno by errno."""

from __future__ import annotations

import errno
import json
from collections.abc import Awaitable, Callable

import pytest

from heliosfs.control.tree import ControlTree
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ROOT_INO, Ino, NodeId, ViewNo, node_id, view_of
from heliosfs.filesystem.types import Caller, Change
from tests.support.fake_filesystem import ALICE, BOB, FILE, GONE, ROOT_USER, SUB, FakeFilesystem

MAIN = ViewNo(1)
ROOT = node_id(MAIN, ROOT_INO)


class Surface:
    """A tree over a fake filesystem, and what waits for the reply."""

    def __init__(self) -> None:
        self.fs = FakeFilesystem()
        self.waiting: list[Callable[[], Awaitable[None]]] = []
        self.tree = ControlTree(self.fs, visible=False, after_reply=self.waiting.append, clock=lambda: self.fs.now)

    async def set(self, node: NodeId, what: str, value: bytes, caller: Caller = ALICE) -> None:
        await self.tree.setxattr(node, b"user.helios." + what.encode(), value, 0, caller)

    async def get(self, node: NodeId, what: str, caller: Caller = ALICE) -> bytes:
        return await self.tree.getxattr(node, b"user.helios." + what.encode(), caller)

    async def snapshot(self, name: bytes) -> NodeId:
        """Root of a new snapshot of main, looked up."""
        await self.fs.checkpoint(MAIN, name, ALICE)
        return await self.look_up(name)

    async def look_up(self, name: bytes) -> NodeId:
        helios = (await self.tree.lookup(ROOT, b".helios", ALICE)).node
        snapshots = (await self.tree.lookup(helios, b"snapshots", ALICE)).node
        return (await self.tree.lookup(snapshots, name, ALICE)).node


@pytest.fixture
def surface() -> Surface:
    return Surface()


async def refused(code: int, call: Awaitable[object]) -> None:
    with pytest.raises(FsError) as caught:
        await call
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code]


# --- commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ino", [ROOT_INO, SUB, FILE, GONE])
async def test_a_checkpoint_from_anywhere_in_the_branch(surface: Surface, ino: Ino) -> None:
    await surface.set(node_id(MAIN, ino), "checkpoint", b"v1")
    await surface.set(node_id(MAIN, ino), "checkpoint", b"")
    assert surface.fs.calls == [("checkpoint", MAIN, b"v1", "user"), ("checkpoint", MAIN, None, "auto")]


async def test_the_last_result_is_what_getting_gives(surface: Surface) -> None:
    await refused(errno.ENODATA, surface.get(ROOT, "checkpoint"))
    await surface.set(ROOT, "checkpoint", b"v1")
    line = await surface.get(node_id(MAIN, FILE), "checkpoint")
    assert json.loads(line)["name"] == "v1"
    await refused(errno.EEXIST, surface.set(ROOT, "checkpoint", b"v1"))
    assert json.loads(await surface.get(ROOT, "checkpoint"))["errno"] == "EEXIST"
    await refused(errno.ENODATA, surface.get(ROOT, "branch"))


@pytest.mark.parametrize(
    ("what", "value", "code"),
    [
        ("checkpoint", b"a/b", errno.EINVAL),
        ("checkpoint", b"v1\n", errno.EINVAL),
        ("checkpoint", b"\xff", errno.EINVAL),
        ("checkpoint", b"latest", errno.EINVAL),
        ("checkpoint", b"n" * 256, errno.ENAMETOOLONG),
        ("branch", b"", errno.EINVAL),
        ("branch", b"base", errno.EINVAL),
        ("branch", b"n" * 256, errno.ENAMETOOLONG),
        ("restore", b"", errno.EINVAL),
        ("restore", b"a..b", errno.EINVAL),
        ("restore", b"none", errno.ENOENT),
        ("restore", b"latest", errno.ENOENT),
    ],
)
async def test_a_bad_value_is_refused_and_remembered(surface: Surface, what: str, value: bytes, code: int) -> None:
    await refused(code, surface.set(ROOT, what, value))
    reply = json.loads(await surface.get(ROOT, what))
    assert (reply["verb"], reply["errno"]) == (what, errno.errorcode[code])


async def test_a_fork_of_the_branch_one_is_in(surface: Surface) -> None:
    await surface.set(node_id(MAIN, SUB), "branch", b"exp")
    assert surface.fs.calls == [("fork", MAIN, b"exp", None)]
    await surface.set(node_id(ViewNo(2), ROOT_INO), "branch", b"inner")
    assert surface.fs.branches[ViewNo(3)].path == b"main/exp/inner"
    await refused(errno.EEXIST, surface.set(ROOT, "branch", b"exp"))


async def test_a_fork_of_a_snapshot(surface: Surface) -> None:
    root = await surface.snapshot(b"v1")
    await surface.set(root, "branch", b"exp")
    assert surface.fs.calls[-1] == ("fork_snapshot", view_of(root), b"exp")
    assert surface.fs.main.children[b"exp"]
    assert json.loads(await surface.get(root, "branch"))["name"] == "exp"
    assert await surface.get(root, "branch") == await surface.get(ROOT, "branch")
    await refused(errno.EEXIST, surface.set(root, "branch", b"exp"))
    await refused(errno.EINVAL, surface.set(root, "branch", b"now"))
    await refused(errno.EACCES, surface.set(root, "branch", b"other", BOB))
    await refused(errno.EACCES, surface.get(root, "branch", BOB))


async def test_a_snapshot_takes_no_other_command(surface: Surface) -> None:
    root = await surface.snapshot(b"v1")
    inside = node_id(view_of(root), SUB)
    for node, what in ((root, "checkpoint"), (root, "restore"), (inside, "branch"), (inside, "restore")):
        await refused(errno.EROFS, surface.set(node, what, b"x", ROOT_USER))
        await refused(errno.ENODATA, surface.get(node, what, ROOT_USER))


async def test_restore_of_the_root_is_the_branchs_and_elsewhere_the_paths(surface: Surface) -> None:
    await surface.fs.checkpoint(MAIN, b"v1", ALICE)
    await surface.set(ROOT, "restore", b"v1")
    call: tuple[object, ...] = surface.fs.calls[-1]
    assert call == ("restore", MAIN, b"v1")
    await surface.set(node_id(MAIN, SUB), "restore", b"v1")
    assert surface.fs.calls[-1] == ("restore_path", MAIN, b"v1", b"sub")
    await surface.set(node_id(MAIN, FILE), "restore", b"latest")
    assert surface.fs.calls[-1] == ("restore_path", MAIN, b"latest", b"sub/file")
    await refused(errno.ESTALE, surface.set(node_id(MAIN, GONE), "restore", b"v1"))


@pytest.mark.parametrize("ino", [ROOT_INO, SUB, FILE])
async def test_kernels_are_told_after_the_reply_never_under_the_callers_lock(surface: Surface, ino: Ino) -> None:
    await surface.fs.checkpoint(MAIN, b"v1", ALICE)
    await surface.set(node_id(MAIN, ino), "restore", b"v1")
    assert surface.fs.published == [] and len(surface.waiting) == 1
    await surface.waiting[0]()
    assert surface.fs.published == [Change(MAIN, FILE, True, ())]


async def test_nothing_waits_for_a_checkpoint(surface: Surface) -> None:
    await surface.set(ROOT, "checkpoint", b"")
    assert not surface.waiting and not surface.fs.published


async def test_only_the_owner_and_root_may(surface: Surface) -> None:
    await surface.set(ROOT, "checkpoint", b"v1")
    before = await surface.get(ROOT, "checkpoint")
    calls = list(surface.fs.calls)
    for what, value in (("checkpoint", b"x"), ("branch", b"x"), ("restore", b"v1"), ("checkpoint", b"a/b")):
        await refused(errno.EACCES, surface.set(ROOT, what, value, BOB))
        await refused(errno.EACCES, surface.get(ROOT, what, BOB))
    assert surface.fs.calls == calls
    assert await surface.get(ROOT, "checkpoint", ROOT_USER) == before


# --- facts -----------------------------------------------------------------------------------------------


async def test_the_root_of_branches_and_snapshots(surface: Surface) -> None:
    snapshot = await surface.snapshot(b"v1")
    assert await surface.get(ROOT, "root", BOB) == b"blake3:root-of-1"
    assert await surface.get(snapshot, "root") == b"blake3:root-of-%d" % view_of(snapshot)
    for node in (node_id(MAIN, SUB), node_id(MAIN, FILE), node_id(view_of(snapshot), SUB)):
        await refused(errno.ENODATA, surface.get(node, "root"))


async def test_the_hash_of_regular_files(surface: Surface) -> None:
    snapshot = await surface.snapshot(b"v1")
    for view in (MAIN, view_of(snapshot)):
        assert await surface.get(node_id(view, FILE), "hash") == b"blake3:hash-of-%d-3" % view
        await refused(errno.ENODATA, surface.get(node_id(view, SUB), "hash"))


async def test_durable_is_one_or_zero_on_roots(surface: Surface) -> None:
    assert await surface.get(ROOT, "durable") == b"0"
    surface.fs.durable = True
    assert await surface.get(ROOT, "durable") == b"1"
    await refused(errno.ENODATA, surface.get(node_id(MAIN, FILE), "durable"))


async def test_the_id_tells_branch_version_and_inode(surface: Surface) -> None:
    assert await surface.get(ROOT, "id") == b"main@now:1"
    await surface.set(ROOT, "branch", "prüfung".encode())
    assert await surface.get(node_id(ViewNo(2), FILE), "id") == "main/prüfung@now:3".encode()
    root = await surface.snapshot(b"v1")
    assert await surface.get(node_id(view_of(root), FILE), "id") == b"main@v1:3"
    await surface.tree.commands.run_words(MAIN, ["snapshot", "mv", "v1", "v2"], ALICE)
    assert await surface.get(root, "id") == b"main@v2:1"


@pytest.mark.parametrize("what", ["root", "hash", "durable", "id"])
async def test_facts_cannot_be_set(surface: Surface, what: str) -> None:
    await refused(errno.EPERM, surface.set(ROOT, what, b"x"))


@pytest.mark.parametrize("what", ["commit", "abort", "undo", "snapshot", "ls", "", "checkpoint2"])
async def test_there_are_no_others(surface: Surface, what: str) -> None:
    await refused(errno.ENODATA, surface.get(ROOT, what))
    await refused(errno.EINVAL, surface.set(ROOT, what, b"x"))


async def test_dead_views_are_stale(surface: Surface) -> None:
    await surface.set(ROOT, "branch", b"exp")
    root = await surface.snapshot(b"v1")
    exp = node_id(ViewNo(2), ROOT_INO)
    for words in (["branch", "rm", "exp"], ["snapshot", "rm", "v1"]):
        assert (await surface.tree.commands.run_words(MAIN, words, ALICE)).ok
    for node in (exp, root):
        for what in ("checkpoint", "branch", "restore"):
            await refused(errno.ESTALE, surface.set(node, what, b"x"))
            await refused(errno.ESTALE, surface.get(node, what))
        await refused(errno.ESTALE, surface.get(node, "id"))


async def test_a_snapshot_nobody_looked_up_has_no_owner_here(surface: Surface) -> None:
    await surface.fs.checkpoint(MAIN, b"v1", ALICE)
    root = (await surface.fs.snapshot_root(MAIN, b"v1")).node
    await refused(errno.ESTALE, surface.set(root, "branch", b"exp"))
    await refused(errno.ESTALE, surface.get(root, "id"))
