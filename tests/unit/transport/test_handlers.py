"""Handlers called as pyfuse3 calls them, over the filesystem in memory; nothing is mounted."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from collections.abc import AsyncIterator

import pyfuse3
import pytest
import trio
import trio.testing

from heliosfs.core.errors import Damaged, FsError
from heliosfs.core.ids import FIRST_CONTROL_INO, Ino, NodeId, node_id
from heliosfs.filesystem.types import Caller, Entry
from heliosfs.transport.invalidate import CacheInvalidator
from heliosfs.transport.lookups import LookupTable
from heliosfs.transport.pyfuse3.operations import HeliosOperations
from heliosfs.transport.requests import FOREVER_S, AfterReply, is_control
from tests.support.memory_control import MemoryControl
from tests.support.memory_tree import FROZEN, FROZEN_ROOT, ROOT, VIEW, MemoryFilesystem

CTX = pyfuse3.RequestContext()
CALLER = Caller(0, 0)
PAGE = b"directly" * (mmap.PAGESIZE // 8)


class Silent:
    """A kernel that is told things, once nothing is locked any more."""

    def __init__(self) -> None:
        self.inodes: list[int] = []
        self.locked = threading.Event()
        self.locked.set()

    def inode(self, node: int, data: bool) -> None:
        self.locked.wait(10)
        self.inodes.append(node)

    def grow(self, node: int, size: int) -> None:
        raise AssertionError

    def entry(self, parent: int, name: bytes) -> None:
        raise AssertionError(name)


class Harness:
    """One session without a mount."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.fs = MemoryFilesystem()
        self.lookups = LookupTable()
        self.kernel = Silent()
        after = AfterReply()
        self.control = MemoryControl(self.fs, after.add)
        invalidator = CacheInvalidator(self.lookups, self.kernel, ROOT, lambda: None)
        self.ops = HeliosOperations(self.fs, self.control, ROOT, self.lookups, invalidator, after, nursery)  # type: ignore[arg-type]


@pytest.fixture
async def h() -> AsyncIterator[Harness]:
    async with trio.open_nursery() as nursery:
        yield Harness(nursery)
        nursery.cancel_scope.cancel()


class Taken(list[tuple[bytes, int, int]]):
    """Accepted entries, and how many more there is room for."""

    room = 1000


@pytest.fixture
def buffer(monkeypatch: pytest.MonkeyPatch) -> Taken:
    given = Taken()

    def reply(token: object, name: bytes, attr: pyfuse3.EntryAttributes, next_id: int) -> bool:
        if len(given) >= given.room:
            return False
        given.append((name, attr.st_ino, next_id))
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    return given


async def errno_of(call: object) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await call  # type: ignore[misc]
    return caught.value.errno


async def make(h: Harness, name: bytes = b"f", mode: int = stat.S_IFREG | 0o644) -> NodeId:
    return (await h.fs.make(ROOT, name, mode, CALLER)).node


def test_which_nodes_are_controls() -> None:
    assert is_control(2)
    assert is_control(node_id(VIEW, FIRST_CONTROL_INO))
    assert is_control(node_id(VIEW, Ino(FIRST_CONTROL_INO + 2)))
    assert not is_control(ROOT)
    assert not is_control(node_id(VIEW, Ino(FIRST_CONTROL_INO - 1)))


async def test_lookup_counts_and_caches_for_ever(h: Harness) -> None:
    node = await make(h)
    entry = await h.ops.lookup(1, b"f", CTX)
    assert entry.st_ino == node
    assert entry.entry_timeout == entry.attr_timeout == FOREVER_S
    assert h.lookups.knows(node)
    await h.ops.forget([(node, 1), (1, 1)])
    assert not h.lookups.knows(node)
    assert h.fs.forgotten == [node]


async def test_an_absent_name_is_cached_but_not_helios(h: Harness) -> None:
    entry = await h.ops.lookup(1, b"absent", CTX)
    assert entry.st_ino == 0
    assert entry.entry_timeout == FOREVER_S
    directory = await make(h, b"d", stat.S_IFDIR | 0o755)
    assert await errno_of(h.ops.lookup(directory, b".helios", CTX)) == errno.ENOENT
    assert await errno_of(h.ops.lookup(FROZEN_ROOT, b".helios", CTX)) == errno.ENOENT


async def test_nothing_of_control_is_cached(h: Harness) -> None:
    helios = await h.ops.lookup(1, b".helios", CTX)
    assert helios.entry_timeout == 0
    assert helios.attr_timeout < 1e-3
    again = await h.ops.getattr(helios.st_ino, CTX)
    assert again.attr_timeout == 0
    assert await errno_of(h.ops.lookup(helios.st_ino, b"absent", CTX)) == errno.ENOENT
    first = await h.ops.lookup(helios.st_ino, b"ctl", CTX)
    second = await h.ops.lookup(helios.st_ino, b"ctl", CTX)
    assert first.st_ino != second.st_ino
    shown = {(await h.ops.getattr(node, CTX)).st_ino for node in (first.st_ino, second.st_ino)}
    assert shown == {FIRST_CONTROL_INO + 16}
    info = await h.ops.open(first.st_ino, os.O_RDWR, CTX)
    assert info.direct_io
    assert not info.keep_cache


async def test_a_generation_goes_out(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await make(h)

    async def lookup(parent: NodeId, name: bytes) -> Entry:
        return Entry(node, await h.fs.getattr(node), 77)

    monkeypatch.setattr(h.fs, "lookup", lookup)
    assert (await h.ops.lookup(1, b"f", CTX)).generation == 77


async def test_the_root_shows_its_true_number(h: Harness) -> None:
    assert (await h.ops.getattr(1, CTX)).st_ino == ROOT


async def test_attributes_arrive_whole(h: Harness) -> None:
    node = await make(h, b"dev", stat.S_IFCHR | 0o600)
    inode = await h.fs.getattr(node)
    inode.rdev, inode.uid, inode.gid, inode.nlink = os.makedev(5, 1), 1000, 1001, 3
    inode.atime_ns, inode.mtime_ns, inode.ctime_ns = 1, -5, 1_700_000_000_123_456_789
    entry = await h.ops.getattr(node, CTX)
    assert entry.st_rdev == os.makedev(5, 1)
    assert (entry.st_uid, entry.st_gid, entry.st_nlink) == (1000, 1001, 3)
    assert (entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns) == (1, -5, 1_700_000_000_123_456_789)


async def test_refusals_become_errnos(h: Harness, caplog: pytest.LogCaptureFixture) -> None:
    stale = node_id(VIEW, Ino(99))
    assert await errno_of(h.ops.getattr(stale, CTX)) == errno.ESTALE
    assert await errno_of(h.ops.open(stale, os.O_RDONLY, CTX)) == errno.ESTALE
    h.fs.failures["lookup"] = Damaged("c0ffee")
    assert await errno_of(h.ops.lookup(1, b"x", CTX)) == errno.EIO
    assert "c0ffee" in caplog.text
    h.fs.failures["read"] = KeyError("bug")
    assert await errno_of(h.ops.read(ROOT, 0, 1)) == errno.EIO
    h.fs.failures["lookup"] = FsError(errno.ENAMETOOLONG)
    assert await errno_of(h.ops.lookup(1, b"x", CTX)) == errno.ENAMETOOLONG


async def test_a_snapshot_can_not_be_opened_for_writing(h: Harness) -> None:
    node = await make(h)
    h.fs.freeze()
    frozen = node_id(FROZEN, Ino(node & 0xFF))
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        assert await errno_of(h.ops.open(frozen, flags, CTX)) == errno.EROFS
    assert (await h.ops.open(frozen, os.O_RDONLY, CTX)).fh == frozen


async def test_open_truncates(h: Harness) -> None:
    node = await make(h)
    await h.ops.write(node, 0, b"text")
    info = await h.ops.open(node, os.O_WRONLY | os.O_TRUNC, CTX)
    assert info.keep_cache
    assert not info.direct_io
    assert await h.ops.read(info.fh, 0, 10) == b""


async def test_what_a_refused_write_left_in_the_cache_is_dropped(h: Harness) -> None:
    h.fs.freeze()
    assert await errno_of(h.ops.write(FROZEN_ROOT, 0, b"forged")) == errno.EROFS
    with trio.fail_after(10):
        while not h.kernel.inodes:
            await trio.lowlevel.checkpoint()
    assert h.kernel.inodes == [FROZEN_ROOT]


async def test_a_name_that_came_before_create_is_looked_up_anew(h: Harness) -> None:
    await make(h)
    mode = stat.S_IFREG | 0o644
    assert await errno_of(h.ops.create(1, b"f", mode, os.O_WRONLY | os.O_CREAT, CTX)) == errno.ESTALE
    assert await errno_of(h.ops.create(1, b"f", mode, os.O_WRONLY | os.O_CREAT | os.O_EXCL, CTX)) == errno.EEXIST
    info, entry = await h.ops.create(1, b"g", mode, os.O_WRONLY | os.O_CREAT, CTX)
    assert info.fh == entry.st_ino
    assert info.keep_cache
    assert h.lookups.knows(NodeId(entry.st_ino))


async def test_flush_is_not_wanted(h: Harness) -> None:
    assert await errno_of(h.ops.flush(ROOT)) == errno.ENOSYS


async def test_sync_reaches_the_filesystem(h: Harness) -> None:
    await h.ops.fsync(ROOT, True)
    await h.ops.fsyncdir(ROOT, False)
    await h.ops.fsync(5, False)
    assert h.fs.synced == [ROOT, ROOT]


async def test_a_listing_starts_with_dots_and_counts_the_rest(h: Harness, buffer: Taken) -> None:
    node = await make(h)
    below = await make(h, b"d", stat.S_IFDIR | 0o755)
    token = pyfuse3.ReaddirToken()
    await h.ops.readdir(ROOT, 0, token)
    assert [name for name, _, _ in buffer] == [b".", b"..", b"f", b"d"]
    assert [cookie for _, _, cookie in buffer][:2] == [1, 2]
    assert h.lookups.knows(node)
    assert not h.lookups.knows(ROOT)
    buffer.clear()
    await h.ops.readdir(below, 0, token)
    assert buffer == [(b".", below, 1), (b"..", ROOT, 2)]


async def test_a_listing_goes_on_from_any_cookie(h: Harness, buffer: Taken) -> None:
    for name in (b"a", b"b", b"c"):
        await make(h, name)
    token = pyfuse3.ReaddirToken()
    await h.ops.readdir(ROOT, 0, token)
    whole = list(buffer)
    for at in range(len(whole)):
        buffer.clear()
        await h.ops.readdir(ROOT, whole[at][2], token)
        assert buffer == whole[at + 1 :]


async def test_a_full_buffer_counts_only_what_it_took(h: Harness, buffer: Taken) -> None:
    nodes = [await make(h, name) for name in (b"a", b"b", b"c")]
    buffer.room = 3
    await h.ops.readdir(ROOT, 0, pyfuse3.ReaddirToken())
    assert [h.lookups.knows(node) for node in nodes] == [True, False, False]


async def test_names_of_one_cookie_that_are_cut_apart_come_again(h: Harness, buffer: Taken) -> None:
    first = await make(h, b"a")
    await h.fs.link(first, ROOT, b"same", CALLER)
    await make(h, b"z")
    buffer.room = 3
    await h.ops.readdir(ROOT, 0, pyfuse3.ReaddirToken())
    assert buffer[-1][0] == b"a"
    buffer.room = 1000
    at = buffer[-1][2]
    buffer.clear()
    await h.ops.readdir(ROOT, at, pyfuse3.ReaddirToken())
    assert [name for name, _, _ in buffer] == [b"a", b"same", b"z"]


async def test_a_visible_control_directory_is_listed_once(h: Harness, buffer: Taken) -> None:
    await make(h)
    h.control.visible = True
    token = pyfuse3.ReaddirToken()
    await h.ops.readdir(ROOT, 0, token)
    assert [name for name, _, _ in buffer] == [b".", b"..", b".helios", b"f"]
    at = buffer[2][2]
    buffer.clear()
    await h.ops.readdir(ROOT, at, token)
    assert [name for name, _, _ in buffer] == [b"f"]


async def test_tickets_of_a_listing_that_found_no_room_are_freed(h: Harness, buffer: Taken) -> None:
    helios = await h.ops.lookup(1, b".helios", CTX)
    fh = await h.ops.opendir(helios.st_ino, CTX)
    buffer.room = 3
    await h.ops.readdir(fh, 0, pyfuse3.ReaddirToken())
    assert [name for name, _, _ in buffer] == [b".", b"..", b"ctl"]
    assert len(h.control._tickets) == 1
    await h.ops.forget([(buffer[-1][1], 1)])
    assert len(h.control._tickets) == 0


async def test_a_control_write_knows_its_opener(h: Harness) -> None:
    helios = await h.ops.lookup(1, b".helios", CTX)
    ticket = (await h.ops.lookup(helios.st_ino, b"ctl", CTX)).st_ino
    await h.ops.open(ticket, os.O_WRONLY, CTX)
    h.ops.openers[ticket] = Caller(4711, 4711)
    await h.ops.write(ticket, 99, b"hello")
    assert await h.ops.read(ticket, 0, 100) == b"4711: hello"
    assert await errno_of(h.ops.write(ticket, 0, b"fail")) == errno.EEXIST
    await h.ops.forget([(ticket, 1)])
    assert ticket not in h.ops.openers


async def test_attributes_of_control_go_to_control(h: Harness) -> None:
    await h.ops.setxattr(1, b"user.helios.freeze", b"1", CTX)
    assert await errno_of(h.ops.setxattr(1, b"user.helios.odd", b"1", CTX)) == errno.EINVAL
    assert b"lookup" not in await h.ops.getxattr(1, b"user.helios.counts", CTX)
    assert await errno_of(h.ops.removexattr(1, b"user.helios.freeze", CTX)) == errno.EPERM
    assert await h.ops.listxattr(1, CTX) == []
    assert await errno_of(h.ops.getxattr(5, b"security.capability", CTX)) == errno.ENODATA
    assert await errno_of(h.ops.setxattr(5, b"user.x", b"", CTX)) == errno.EPERM
    assert await h.ops.listxattr(5, CTX) == ()


async def test_work_put_off_runs_only_after_the_handler(h: Harness) -> None:
    await make(h)
    await h.ops.lookup(1, b"f", CTX)
    await h.ops.setxattr(1, b"user.helios.freeze", b"1", CTX)
    node = (await h.ops.lookup(1, b"f", CTX)).st_ino
    await h.ops.write(node, 0, b"new")
    await h.ops.setxattr(1, b"user.helios.swap", b"1", CTX)
    assert h.kernel.inodes == []
    await trio.testing.wait_all_tasks_blocked()
    # No invalidator is registered here, so nothing is told; but it has run without harm.
    assert await h.ops.read(node, 0, 10) == b""


async def test_put_off_work_belongs_to_its_request(h: Harness) -> None:
    ran: list[str] = []
    after = h.ops.after_reply

    async def request(name: str, hold: trio.Event | None) -> None:
        async def work() -> None:
            ran.append(name)

        after.add(work)
        if hold is not None:
            await hold.wait()
        h.ops.start_after_reply()

    hold = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(request, "slow", hold)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(request, "quick", None)
        await trio.testing.wait_all_tasks_blocked()
        assert ran == ["quick"]
        hold.set()
    await trio.testing.wait_all_tasks_blocked()
    assert ran == ["quick", "slow"]


async def test_control_names_at_the_root_are_not_the_trees(h: Harness) -> None:
    for call in (
        h.ops.mkdir(1, b".helios", 0o755, CTX),
        h.ops.rmdir(1, b".helios", CTX),
        h.ops.unlink(1, b".helios", CTX),
        h.ops.rename(1, b".helios", 1, b"x", 0, CTX),
        h.ops.rename(1, b"x", 1, b".helios", 0, CTX),
    ):
        assert await errno_of(call) == errno.EPERM
    node = await make(h)
    assert await errno_of(h.ops.link(node, 1, b".helios", CTX)) == errno.EEXIST
    assert await errno_of(h.ops.link(5, 1, b"x", CTX)) == errno.EPERM
    directory = await make(h, b"d", stat.S_IFDIR | 0o755)
    assert (await h.ops.mkdir(directory, b".helios", stat.S_IFDIR | 0o755, CTX)).st_ino > 0


@pytest.mark.parametrize(
    ("verb", "call"),
    [
        ("readdir", lambda ops: ops.readdir(ROOT, 5, pyfuse3.ReaddirToken())),
        ("getxattr", lambda ops: ops.getxattr(1, b"user.x", CTX)),
        ("make", lambda ops: ops.mkdir(1, b"d", stat.S_IFDIR | 0o755, CTX)),
        ("write", lambda ops: ops.write(ROOT, 0, b"x")),
        ("getattr", lambda ops: ops.open(1, os.O_RDONLY, CTX)),
        ("getattr", lambda ops: ops.readdir(ROOT, 0, pyfuse3.ReaddirToken())),
        ("lookup", lambda ops: ops.lookup(1, b"x", CTX)),
    ],
)
async def test_a_bug_below_is_eio_and_the_session_goes_on(
    h: Harness, verb: str, call: object, caplog: pytest.LogCaptureFixture
) -> None:
    h.fs.failures[verb] = KeyError("bug")
    assert await errno_of(call(h.ops)) == errno.EIO  # type: ignore[operator]
    assert "unexpected KeyError" in caplog.text


async def test_stale_directories_refuse_everything(h: Harness) -> None:
    gone = node_id(VIEW, Ino(99))
    for call in (
        h.ops.lookup(gone, b"x", CTX),
        h.ops.mknod(gone, b"x", stat.S_IFIFO | 0o600, 0, CTX),
        h.ops.symlink(gone, b"x", b"target", CTX),
        h.ops.unlink(gone, b"x", CTX),
        h.ops.rmdir(gone, b"x", CTX),
        h.ops.rename(gone, b"x", 1, b"y", 0, CTX),
        h.ops.link(gone, 1, b"x", CTX),
        h.ops.readlink(gone, CTX),
        h.ops.listxattr(gone, CTX),
        h.ops.removexattr(gone, b"user.x", CTX),
        h.ops.setxattr(gone, b"user.x", b"", CTX),
        h.ops.readdir(gone, 0, pyfuse3.ReaddirToken()),
        h.ops.read(gone, 0, 1),
    ):
        assert await errno_of(call) == errno.ESTALE


async def test_a_full_buffer_may_end_at_any_entry(h: Harness, buffer: Taken) -> None:
    h.control.visible = True
    await make(h)
    for room in range(5):
        buffer.clear()
        buffer.room = room
        await h.ops.readdir(ROOT, 0, pyfuse3.ReaddirToken())
        assert [name for name, _, _ in buffer] == [b".", b"..", b".helios", b"f"][:room]


async def test_the_pages_of_a_file_written_with_o_direct_are_dropped_before_the_reply(h: Harness) -> None:
    plain, attr = await h.ops.create(1, b"f", 0o644, os.O_RDWR | os.O_CREAT, CTX)
    await h.ops.write(plain.fh, 0, PAGE)
    assert h.kernel.inodes == []
    direct = await h.ops.open(attr.st_ino, os.O_RDWR | os.O_DIRECT, CTX)
    await h.ops.write(direct.fh, 0, PAGE)
    assert h.kernel.inodes == [attr.st_ino]
    assert await h.ops.read(direct.fh, 0, len(PAGE) + 1) == PAGE
    await h.ops.fsync(direct.fh, False)


@pytest.mark.parametrize("size", [len(PAGE), 100])
async def test_a_page_that_waits_for_the_reply_is_dropped_after_it(h: Harness, size: int) -> None:
    """What a mapping has written back, or the short end of a file that dd copies, comes by the same handle."""
    direct, attr = await h.ops.create(1, b"f", 0o644, os.O_RDWR | os.O_CREAT | os.O_DIRECT, CTX)
    h.kernel.locked.clear()
    try:
        with trio.fail_after(4):
            assert await h.ops.write(direct.fh, 0, PAGE[:size]) == size
        assert h.kernel.inodes == []
    finally:
        h.kernel.locked.set()
    with trio.fail_after(4):
        while not h.kernel.inodes:
            await trio.sleep(0.01)
    assert set(h.kernel.inodes) == {attr.st_ino}


async def test_a_handle_knows_append_beside_direct_until_it_is_released(h: Harness) -> None:
    first, attr = await h.ops.create(1, b"f", 0o644, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_DIRECT, CTX)
    second = await h.ops.open(attr.st_ino, os.O_RDWR | os.O_DIRECT, CTX)
    await h.ops.write(first.fh, 100, b"ab")
    await h.ops.write(second.fh, 4, b"c")
    assert await h.ops.read(second.fh, 0, 100) == b"ab\0\0c"
    await h.ops.release(first.fh)
    assert (h.ops.handles.direct(first.fh), h.ops.handles.direct(second.fh)) == (False, True)
