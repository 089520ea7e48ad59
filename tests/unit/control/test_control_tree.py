"""The control tree's directories: what is found, listed, made, removed and renamed, errno by errno."""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable, Callable

import pytest

from heliosfs.control import directories
from heliosfs.control.tree import ControlTree
from heliosfs.core.errors import FsError
from heliosfs.core.ids import (
    CONTROL_VIEW,
    FIRST_CONTROL_INO,
    INO_MASK,
    ROOT_INO,
    Ino,
    NodeId,
    ViewNo,
    node_id,
    view_of,
)
from heliosfs.filesystem.types import Caller, Change, Entry, SetAttr
from tests.support.fake_filesystem import ALICE, BOB, ROOT_USER, SUB, FakeFilesystem

DIRECTORY = stat.S_IFDIR | 0o777
MAIN_ROOT = node_id(ViewNo(1), ROOT_INO)


class Surface:
    """A tree over a fake filesystem; what waits for the reply is kept until `reply`."""

    def __init__(self, *, visible: bool = False) -> None:
        self.fs = FakeFilesystem()
        self.waiting: list[Callable[[], Awaitable[None]]] = []
        self.tree = ControlTree(
            self.fs, visible=visible, after_reply=self.waiting.append, clock=lambda: self.fs.now
        )

    async def node(self, *names: bytes, root: NodeId = MAIN_ROOT) -> NodeId:
        at = root
        for name in names:
            at = (await self.tree.lookup(at, name, ALICE)).node
        return at

    async def make(self, *names: bytes, caller: Caller = ALICE) -> Entry:
        parent = await self.node(b".helios", *names[:-1])
        return await self.tree.make(parent, names[-1], DIRECTORY, caller)

    async def names(self, node: NodeId, limit: int = 1000) -> list[bytes]:
        found: list[bytes] = []
        cookie = 0
        while batch := await self.tree.readdir(node, cookie, limit, ALICE):
            found += [name for name, _, _ in batch]
            cookie = batch[-1][2]
        return found

    async def reply(self) -> None:
        for work in self.waiting:
            await work()
        self.waiting.clear()


@pytest.fixture
def surface() -> Surface:
    return Surface()


async def refused(code: int, call: Awaitable[object]) -> None:
    with pytest.raises(FsError) as caught:
        await call
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code]


# --- what is ours ----------------------------------------------------------------------------------------


def test_owns_tickets_and_control_directories_only(surface: Surface) -> None:
    tree = surface.tree
    assert tree.owns(node_id(CONTROL_VIEW, Ino(2)))
    assert tree.owns(node_id(ViewNo(5), FIRST_CONTROL_INO))
    assert not tree.owns(MAIN_ROOT)
    assert not tree.owns(node_id(ViewNo(5), Ino(FIRST_CONTROL_INO - 1)))


async def test_helios_is_at_the_roots_of_live_branches_only(surface: Surface) -> None:
    tree = surface.tree
    await surface.make(b"snapshots", b"v1")
    snapshot = await surface.node(b".helios", b"snapshots", b"v1")
    assert tree.names_root(MAIN_ROOT, b".helios")
    assert not tree.names_root(MAIN_ROOT, b".heliosx")
    assert not tree.names_root(node_id(ViewNo(1), SUB), b".helios")
    assert not tree.names_root(snapshot, b".helios")
    assert not tree.names_root(node_id(ViewNo(77), ROOT_INO), b".helios")
    await refused(errno.ENOENT, tree.lookup(snapshot, b".helios", ALICE))
    await refused(errno.ENOENT, tree.lookup(node_id(ViewNo(1), SUB), b".helios", ALICE))


def test_ours_are_the_prefixed_attributes(surface: Surface) -> None:
    assert surface.tree.is_ours(b"user.helios.checkpoint") and surface.tree.is_ours(b"user.helios.")
    assert not surface.tree.is_ours(b"user.helios") and not surface.tree.is_ours(b"user.other")


def test_hidden_unless_visible(surface: Surface) -> None:
    assert surface.tree.listed_in(MAIN_ROOT) is None
    visible = Surface(visible=True).tree
    listed = visible.listed_in(MAIN_ROOT)
    assert listed is not None and listed[0] == b".helios" and visible.owns(listed[1].node)
    assert visible.listed_in(node_id(ViewNo(1), SUB)) is None


# --- lookup ----------------------------------------------------------------------------------------------


async def test_helios_is_the_owners_alone(surface: Surface) -> None:
    entry = await surface.tree.lookup(MAIN_ROOT, b".helios", BOB)
    attr = entry.attr
    assert not entry.cacheable
    assert stat.S_ISDIR(attr.mode) and attr.mode & 0o7777 == 0o700
    assert (attr.uid, attr.gid) == (ALICE.uid, ALICE.gid)
    for caller in (ALICE, ROOT_USER):
        await surface.tree.lookup(entry.node, b"ctl", caller)
        assert await surface.tree.readdir(entry.node, 0, 10, caller)
        await surface.tree.open(entry.node, 0, caller)
    await refused(errno.EACCES, surface.tree.lookup(entry.node, b"ctl", BOB))
    await refused(errno.EACCES, surface.tree.readdir(entry.node, 0, 10, BOB))
    await refused(errno.EACCES, surface.tree.open(entry.node, 0, BOB))
    await refused(errno.EACCES, surface.tree.make(entry.node, b"x", DIRECTORY, BOB))
    await refused(errno.EACCES, surface.tree.unlink(entry.node, b"ctl", BOB))
    await refused(errno.EACCES, surface.tree.rmdir(entry.node, b"ctl", BOB))
    await refused(errno.EACCES, surface.tree.rename(entry.node, b"a", entry.node, b"b", 0, BOB))


@pytest.mark.parametrize("name", [b"checkpoint", b"restore", b"ctl", b"status", b"stats", b"log"])
async def test_each_lookup_of_a_file_is_another_node_with_one_inode_number(surface: Surface, name: bytes) -> None:
    helios = await surface.node(b".helios")
    first = await surface.tree.lookup(helios, name, ALICE)
    second = await surface.tree.lookup(helios, name, ALICE)
    assert first.node != second.node and view_of(first.node) == CONTROL_VIEW
    assert not first.cacheable
    attrs = [await surface.tree.getattr(entry.node, ALICE) for entry in (first, second)]
    assert attrs[0].st_ino_constant == attrs[1].st_ino_constant
    wanted = 0o600 if name in (b"checkpoint", b"restore", b"ctl") else 0o400
    assert attrs[0].mode == stat.S_IFREG | wanted
    assert (attrs[0].uid, attrs[0].nlink, attrs[0].rdev) == (ALICE.uid, 1, 0)


async def test_inode_numbers_differ_between_files_and_branches(surface: Surface) -> None:
    await surface.make(b"branches", b"exp")
    exp = await surface.node(b".helios", b"branches", b"exp")
    seen = set()
    for root in (MAIN_ROOT, exp):
        helios = await surface.node(b".helios", root=root)
        seen.add((await surface.tree.getattr(helios, ALICE)).st_ino_constant)
        for name, _, _ in await surface.tree.readdir(helios, 0, 100, ALICE):
            node = await surface.node(name, root=helios)
            seen.add((await surface.tree.getattr(node, ALICE)).st_ino_constant)
    assert len(seen) == 2 * 9


@pytest.mark.parametrize("name", [b"commit", b"abort", b"undo", b"diff", b"history", b"metrics", b"x", b".helios"])
async def test_what_is_not_there_is_enoent(surface: Surface, name: bytes) -> None:
    await refused(errno.ENOENT, surface.tree.lookup(await surface.node(b".helios"), name, ALICE))


async def test_snapshots_and_branches_lead_to_real_roots(surface: Surface) -> None:
    made = await surface.make(b"snapshots", b"v1")
    assert not made.cacheable and view_of(made.node) in surface.fs.snapshot_views
    assert await surface.node(b".helios", b"snapshots", b"v1") == made.node
    forked = await surface.make(b"branches", b"exp")
    assert view_of(forked.node) in surface.fs.branches and forked.node & INO_MASK == ROOT_INO
    found = await surface.tree.lookup(await surface.node(b".helios", b"branches"), b"exp", ALICE)
    assert found.node == forked.node and not found.cacheable
    for directory in (b"snapshots", b"branches"):
        node = await surface.node(b".helios", directory)
        for name in (b"none", b"..", b"main", b"bad\xff"):
            await refused(errno.ENOENT, surface.tree.lookup(node, name, ALICE))


async def test_a_nested_branch_has_a_helios_of_its_own_and_nothing_above(surface: Surface) -> None:
    await surface.make(b"snapshots", b"of-main")
    exp = (await surface.make(b"branches", b"exp")).node
    nested = await surface.node(b".helios", b"branches", root=exp)
    inner = await surface.tree.make(nested, b"a", DIRECTORY, ALICE)
    assert surface.fs.branches[view_of(inner.node)].path == b"main/exp/a"
    assert await surface.names(nested) == [b"a"]
    snapshots = await surface.node(b".helios", b"snapshots", root=exp)
    assert set(await surface.names(snapshots)) == {b"base", b"latest"}
    await refused(errno.ENOENT, surface.tree.lookup(snapshots, b"of-main", ALICE))


async def test_a_ticket_is_no_directory(surface: Surface) -> None:
    ticket = await surface.node(b".helios", b"ctl")
    await refused(errno.ENOTDIR, surface.tree.lookup(ticket, b"x", ALICE))
    await refused(errno.ENOTDIR, surface.tree.readdir(ticket, 0, 10, ALICE))
    await refused(errno.EINVAL, surface.tree.readlink(ticket))


async def test_what_was_never_handed_out_is_stale(surface: Surface) -> None:
    tree = surface.tree
    ticket = node_id(CONTROL_VIEW, Ino(999))
    other = node_id(ViewNo(1), Ino(FIRST_CONTROL_INO + 40))
    for node in (ticket, other):
        await refused(errno.ESTALE, tree.getattr(node, ALICE))
        await refused(errno.ESTALE, tree.readdir(node, 0, 10, ALICE))
        await refused(errno.ESTALE, tree.lookup(node, b"x", ALICE))
        await refused(errno.ESTALE, tree.open(node, 0, ALICE))
    await refused(errno.ESTALE, tree.read(ticket, 0, 10))
    await refused(errno.ESTALE, tree.write(ticket, 0, b"v", ALICE))
    await refused(errno.ESTALE, tree.readlink(ticket))
    tree.forget(ticket)


async def test_a_dead_branchs_control_is_stale(surface: Surface) -> None:
    exp = (await surface.make(b"branches", b"exp")).node
    helios = await surface.node(b".helios", root=exp)
    ticket = await surface.node(b"checkpoint", root=helios)
    await surface.tree.rmdir(await surface.node(b".helios", b"branches"), b"exp", ALICE)
    await refused(errno.ESTALE, surface.tree.lookup(helios, b"ctl", ALICE))
    await refused(errno.ESTALE, surface.tree.getattr(helios, ALICE))
    await refused(errno.ESTALE, surface.tree.getattr(ticket, ALICE))
    await refused(errno.ESTALE, surface.tree.write(ticket, 0, b"v1", ALICE))
    await refused(errno.ESTALE, surface.tree.write(ticket, 0, b"v1", ROOT_USER))
    assert not surface.tree.names_root(exp, b".helios")


# --- latest ----------------------------------------------------------------------------------------------


async def test_latest_is_a_link_whose_node_follows_its_target(surface: Surface) -> None:
    snapshots = await surface.node(b".helios", b"snapshots")
    await refused(errno.ENOENT, surface.tree.lookup(snapshots, b"latest", ALICE))
    await surface.make(b"snapshots", b"v1")
    first = await surface.tree.lookup(snapshots, b"latest", ALICE)
    assert first.attr.mode == stat.S_IFLNK | 0o777 and first.attr.size == 2 and not first.cacheable
    assert await surface.tree.readlink(first.node) == b"v1"
    assert (await surface.tree.lookup(snapshots, b"latest", ALICE)).node == first.node
    await surface.make(b"snapshots", b"v2")
    second = await surface.tree.lookup(snapshots, b"latest", ALICE)
    assert second.node != first.node
    assert await surface.tree.readlink(second.node) == b"v2"
    assert await surface.tree.readlink(first.node) == b"v1"
    attrs = [await surface.tree.getattr(entry.node, ALICE) for entry in (first, second)]
    assert attrs[0].st_ino_constant == attrs[1].st_ino_constant
    surface.tree.forget(first.node)
    await refused(errno.ESTALE, surface.tree.readlink(first.node))
    assert (await surface.tree.lookup(snapshots, b"latest", ALICE)).node == second.node
    surface.tree.forget(second.node)
    third = await surface.tree.lookup(snapshots, b"latest", ALICE)
    assert third.node != second.node and await surface.tree.readlink(third.node) == b"v2"


async def test_latest_is_nothing_to_remove_rename_or_write(surface: Surface) -> None:
    await surface.make(b"snapshots", b"v1")
    tree, snapshots = surface.tree, await surface.node(b".helios", b"snapshots")
    link = await surface.node(b"latest", root=snapshots)
    await refused(errno.EPERM, tree.unlink(snapshots, b"latest", ALICE))
    await refused(errno.ENOTDIR, tree.rmdir(snapshots, b"latest", ALICE))
    await refused(errno.EPERM, tree.rename(snapshots, b"latest", snapshots, b"x", 0, ALICE))
    await refused(errno.EINVAL, tree.rename(snapshots, b"v1", snapshots, b"latest", 0, ALICE))
    await refused(errno.ESTALE, tree.write(link, 0, b"v1", ALICE))
    assert surface.fs.main.latest == b"v1"


# --- listings --------------------------------------------------------------------------------------------


async def test_helios_lists_its_files_and_directories(surface: Surface) -> None:
    names = await surface.names(await surface.node(b".helios"))
    assert sorted(names) == sorted(
        [b"snapshots", b"branches", b"checkpoint", b"restore", b"ctl", b"status", b"stats", b"log"]
    )
    assert await surface.names(await surface.node(b".helios"), limit=3) == names


async def test_listings_assign_no_view_numbers_and_keep_no_tickets(surface: Surface) -> None:
    for number in range(20):
        await surface.fs.checkpoint(ViewNo(1), b"s%d" % number, ALICE)
    snapshots = await surface.node(b".helios", b"snapshots")
    kept = len(surface.tree._tickets)
    for _ in range(2):
        listed = await surface.tree.readdir(snapshots, 0, 100, ALICE)
        assert all(not entry.cacheable for _, entry, _ in listed)
        assert len({entry.node for _, entry, _ in listed}) == 21
    assert surface.fs.snapshot_views == {}
    assert len(surface.tree._tickets) == kept
    modes = {name: entry.attr.mode for name, entry, _ in listed}
    assert stat.S_ISLNK(modes.pop(b"latest"))
    assert all(stat.S_ISDIR(mode) for mode in modes.values())


async def test_a_listing_shows_the_node_that_the_kernel_has(surface: Surface) -> None:
    # Another node would throw the directory out under everybody who stands in it.
    forked = await surface.make(b"branches", b"exp")
    snapshot = await surface.make(b"snapshots", b"v1")
    link = await surface.node(b".helios", b"snapshots", b"latest")
    branches = await surface.tree.readdir(await surface.node(b".helios", b"branches"), 0, 10, ALICE)
    assert [(name, entry.node) for name, entry, _ in branches] == [(b"exp", forked.node)]
    node = await surface.node(b".helios", b"snapshots")
    shown = {name: entry.node for name, entry, _ in await surface.tree.readdir(node, 0, 10, ALICE)}
    assert shown == {b"v1": snapshot.node, b"latest": link}
    await surface.tree.rename(node, b"v1", node, b"v2", 0, ALICE)
    shown = {name: entry.node for name, entry, _ in await surface.tree.readdir(node, 0, 10, ALICE)}
    assert shown[b"v2"] == snapshot.node


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_a_long_listing_has_every_name_once_while_others_come_and_go(surface: Surface, limit: int) -> None:
    wanted = [b"keep-%d" % number for number in range(150)]
    for name in wanted:
        await surface.fs.fork(ViewNo(1), name, ALICE)
        await surface.fs.fork(ViewNo(1), b"drop-" + name, ALICE)
    branches = await surface.node(b".helios", b"branches")
    found: list[bytes] = []
    cookie = turn = 0
    while batch := await surface.tree.readdir(branches, cookie, limit, ALICE):
        found += [name for name, _, _ in batch]
        cookie = batch[-1][2]
        if turn < 150:
            await surface.tree.rmdir(branches, b"drop-keep-%d" % turn, ALICE)
            await surface.tree.make(branches, b"new-%d" % turn, DIRECTORY, ALICE)
            if turn % 3 == 0:
                await surface.tree.readdir(branches, 0, limit, ALICE)
        turn += 1
    assert len(found) == len(set(found))
    assert set(wanted) <= set(found)


async def test_a_long_listing_asks_for_the_snapshots_once(surface: Surface) -> None:
    for number in range(50):
        await surface.fs.checkpoint(ViewNo(1), b"s%d" % number, ALICE)
    surface.fs.calls.clear()
    assert len(await surface.names(await surface.node(b".helios", b"snapshots"), limit=5)) == 51
    assert [call[0] for call in surface.fs.calls].count("snapshots") <= 2


async def test_equal_cookies_are_not_parted(surface: Surface, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "_cookie", lambda name: len(name))
    for name in (b"a", b"b", b"c", b"dd", b"ee"):
        await surface.fs.fork(ViewNo(1), name, ALICE)
    branches = await surface.node(b".helios", b"branches")
    first = await surface.tree.readdir(branches, 0, 1, ALICE)
    assert [name for name, _, _ in first] == [b"a", b"b", b"c"]
    assert await surface.names(branches, limit=1) == [b"a", b"b", b"c", b"dd", b"ee"]


async def test_cookies_fit_the_wire(surface: Surface) -> None:
    for number in range(50):
        await surface.fs.checkpoint(ViewNo(1), b"s%d" % number, ALICE)
    listed = await surface.tree.readdir(await surface.node(b".helios", b"snapshots"), 0, 100, ALICE)
    assert all(0 < cookie < 1 << 62 for _, _, cookie in listed)


# --- mkdir, rmdir, rename --------------------------------------------------------------------------------


async def test_mkdir_takes_a_named_checkpoint(surface: Surface) -> None:
    await surface.make(b"snapshots", b"v1")
    assert surface.fs.calls[0] == ("checkpoint", ViewNo(1), b"v1", "user")
    await refused(errno.EEXIST, surface.make(b"snapshots", b"v1"))


async def test_mkdir_forks_this_instant_for_its_maker(surface: Surface) -> None:
    entry = await surface.make(b"branches", b"exp", caller=ROOT_USER)
    assert surface.fs.calls == [("fork", ViewNo(1), b"exp", None)]
    assert surface.fs.branches[view_of(entry.node)].uid == 0
    await refused(errno.EEXIST, surface.make(b"branches", b"exp"))


@pytest.mark.parametrize("directory", [b"snapshots", b"branches"])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b".helios", errno.EINVAL),
        (b"latest", errno.EINVAL),
        (b"now", errno.EINVAL),
        (b"parent", errno.EINVAL),
        (b"base", errno.EINVAL),
        (b"a..b", errno.EINVAL),
        (b"a\nb", errno.EINVAL),
        (b"\xff", errno.EINVAL),
        (b"n" * 256, errno.ENAMETOOLONG),
    ],
)
async def test_mkdir_refuses_bad_names(surface: Surface, directory: bytes, name: bytes, code: int) -> None:
    await refused(code, surface.make(directory, name))
    assert not surface.fs.calls


async def test_nothing_else_can_be_made(surface: Surface) -> None:
    tree = surface.tree
    helios = await surface.node(b".helios")
    await refused(errno.EPERM, tree.make(helios, b"x", DIRECTORY, ALICE))
    for name in (b"snapshots", b"branches"):
        node = await surface.node(name, root=helios)
        for kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR):
            await refused(errno.EPERM, tree.make(node, b"x", kind | 0o644, ALICE))
        await refused(errno.EPERM, tree.make(node, b"x", stat.S_IFLNK | 0o777, ALICE, target=b"y"))
    ticket = await surface.node(b"ctl", root=helios)
    await refused(errno.ENOTDIR, tree.make(ticket, b"x", DIRECTORY, ALICE))
    assert not surface.fs.calls


async def test_helios_itself_stays(surface: Surface) -> None:
    tree = surface.tree
    await refused(errno.EEXIST, tree.make(MAIN_ROOT, b".helios", DIRECTORY, ALICE))
    await refused(errno.EISDIR, tree.unlink(MAIN_ROOT, b".helios", ALICE))
    await refused(errno.EPERM, tree.rmdir(MAIN_ROOT, b".helios", ALICE))
    await refused(errno.EPERM, tree.rename(MAIN_ROOT, b".helios", MAIN_ROOT, b"x", 0, ALICE))
    await refused(errno.EPERM, tree.rename(MAIN_ROOT, b"x", MAIN_ROOT, b".helios", 0, ALICE))


async def test_control_files_stay(surface: Surface) -> None:
    tree, helios = surface.tree, await surface.node(b".helios")
    await refused(errno.EPERM, tree.unlink(helios, b"ctl", ALICE))
    await refused(errno.EPERM, tree.rmdir(helios, b"snapshots", ALICE))
    await refused(errno.EPERM, tree.rename(helios, b"ctl", helios, b"x", 0, ALICE))


async def test_rmdir_forgets_a_snapshot_and_tells_the_kernel_after_the_reply(surface: Surface) -> None:
    entry = await surface.make(b"snapshots", b"v1")
    snapshots = await surface.node(b".helios", b"snapshots")
    await surface.tree.rmdir(snapshots, b"v1", ALICE)
    assert surface.fs.main.snapshots == {}
    assert surface.fs.published == [] and len(surface.waiting) == 1
    await surface.reply()
    assert surface.fs.published == [Change(view_of(entry.node), Ino(0), True, ())]
    await refused(errno.ENOENT, surface.tree.rmdir(snapshots, b"v1", ALICE))
    await refused(errno.ENOENT, surface.tree.lookup(snapshots, b"v1", ALICE))


async def test_rmdir_discards_a_branch(surface: Surface) -> None:
    entry = await surface.make(b"branches", b"exp")
    branches = await surface.node(b".helios", b"branches")
    await refused(errno.ENOENT, surface.tree.rmdir(branches, b"none", ALICE))
    inner = await surface.node(b".helios", b"branches", root=entry.node)
    await surface.tree.make(inner, b"child", DIRECTORY, ALICE)
    await refused(errno.EBUSY, surface.tree.rmdir(branches, b"exp", ALICE))
    await surface.tree.rmdir(inner, b"child", ALICE)
    surface.fs.mounted_views.add(view_of(entry.node))
    await refused(errno.EBUSY, surface.tree.rmdir(branches, b"exp", ALICE))
    surface.fs.mounted_views.clear()
    await surface.tree.rmdir(branches, b"exp", ALICE)
    await surface.reply()
    assert surface.fs.published[-1] == Change(view_of(entry.node), Ino(0), True, ())
    assert not surface.fs.main.children
    await refused(errno.ENOENT, surface.tree.lookup(branches, b"exp", ALICE))


async def test_mv_renames_a_snapshot(surface: Surface) -> None:
    entry = await surface.make(b"snapshots", b"v1")
    await surface.make(b"snapshots", b"v3")
    tree, snapshots = surface.tree, await surface.node(b".helios", b"snapshots")
    await tree.rename(snapshots, b"v1", snapshots, b"v2", 1, ALICE)
    assert (await tree.lookup(snapshots, b"v2", ALICE)).node == entry.node
    await refused(errno.ENOENT, tree.lookup(snapshots, b"v1", ALICE))
    await refused(errno.EEXIST, tree.rename(snapshots, b"v2", snapshots, b"v3", 0, ALICE))
    await refused(errno.ENOENT, tree.rename(snapshots, b"v1", snapshots, b"v4", 0, ALICE))
    await refused(errno.EINVAL, tree.rename(snapshots, b"v2", snapshots, b"base", 0, ALICE))
    await refused(errno.EINVAL, tree.rename(snapshots, b"v2", snapshots, b"v4", 2, ALICE))
    await refused(errno.ENAMETOOLONG, tree.rename(snapshots, b"v2", snapshots, b"n" * 256, 0, ALICE))


async def test_mv_goes_nowhere_else(surface: Surface) -> None:
    await surface.make(b"snapshots", b"v1")
    await surface.make(b"branches", b"exp")
    tree = surface.tree
    snapshots, branches = (
        await surface.node(b".helios", b"snapshots"),
        await surface.node(b".helios", b"branches"),
    )
    await refused(errno.EPERM, tree.rename(branches, b"exp", branches, b"new", 0, ALICE))
    await refused(errno.EXDEV, tree.rename(snapshots, b"v1", branches, b"v1", 0, ALICE))
    await refused(errno.EXDEV, tree.rename(snapshots, b"v1", MAIN_ROOT, b"v1", 0, ALICE))
    await refused(errno.EXDEV, tree.rename(MAIN_ROOT, b"file", snapshots, b"v2", 0, ALICE))
    assert set(surface.fs.main.snapshots) == {b"v1"} and set(surface.fs.main.children) == {b"exp"}


async def test_a_control_directory_has_no_attributes_to_set_and_no_xattrs(surface: Surface) -> None:
    tree = surface.tree
    for node in (await surface.node(b".helios"), await surface.node(b".helios", b"ctl")):
        await refused(errno.ENODATA, tree.getxattr(node, b"user.helios.id", ALICE))
        await refused(errno.EPERM, tree.setxattr(node, b"user.helios.checkpoint", b"v1", 0, ALICE))
    helios = await surface.node(b".helios")
    await refused(errno.EPERM, tree.setattr(helios, SetAttr(mtime_ns=1), True, ALICE))
    assert not surface.fs.calls
