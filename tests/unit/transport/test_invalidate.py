"""Cache notifications: what is planned, how it is sent, what happens when the kernel does not answer."""

from __future__ import annotations

import errno
import threading

import pytest
import trio
import trio.testing

from heliosfs.core.ids import Ino, ViewNo, node_id
from heliosfs.filesystem.types import Change
from heliosfs.transport.invalidate import CacheInvalidator, InvalEntry, InvalInode, plan_notifications
from heliosfs.transport.lookups import LookupTable

VIEW = ViewNo(3)
ROOT = node_id(VIEW, Ino(1))
FILE = node_id(VIEW, Ino(7))
DIRECTORY = node_id(VIEW, Ino(8))


@pytest.fixture
def lookups() -> LookupTable:
    table = LookupTable()
    table.add(FILE)
    table.add(DIRECTORY)
    return table


class Kernel:
    """Notes what it is told; refuses or blocks as a test wants."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.threads: set[str] = set()
        self.refusals: dict[int, list[int]] = {}
        self.hang: threading.Event | None = None

    def _tell(self, what: object, node: int) -> None:
        self.threads.add(threading.current_thread().name)
        if self.hang is not None:
            assert self.hang.wait(30)
        self.told.append(what)
        if self.refusals.get(node):
            raise OSError(self.refusals[node].pop(0), "refused")

    def inode(self, node: int, data: bool) -> None:
        self._tell(InvalInode(node, data), node)

    def grow(self, node: int, size: int) -> None:
        raise AssertionError

    def entry(self, parent: int, name: bytes) -> None:
        self._tell(InvalEntry(parent, name), parent)


def invalidator(lookups: LookupTable, kernel: Kernel, **more: float) -> tuple[CacheInvalidator, list[str]]:
    aborted: list[str] = []
    made = CacheInvalidator(
        lookups,
        kernel,
        ROOT,
        lambda: (aborted.append("abort"), kernel.hang and kernel.hang.set()),  # type: ignore[arg-type,func-returns-value]
        **more,
    )
    return made, aborted


def test_only_what_the_kernel_knows_is_told(lookups: LookupTable) -> None:
    changes = [
        Change(VIEW, Ino(7), True, ()),
        Change(VIEW, Ino(99), True, ()),
        Change(VIEW, Ino(98), False, (b"x",)),
    ]
    assert plan_notifications(changes, lookups, ROOT) == [InvalInode(FILE, True)]


def test_entries_come_first_and_the_root_is_one(lookups: LookupTable) -> None:
    changes = [
        Change(VIEW, Ino(7), False, ()),
        Change(VIEW, Ino(1), False, (b"b", b"a")),
        Change(VIEW, Ino(8), False, (b"c",)),
    ]
    assert plan_notifications(changes, lookups, ROOT) == [
        InvalEntry(1, b"b"),
        InvalEntry(1, b"a"),
        InvalEntry(DIRECTORY, b"c"),
        InvalInode(FILE, False),
        # A directory's pages are its listing.
        InvalInode(1, True),
        InvalInode(DIRECTORY, True),
    ]


def test_changes_of_one_node_become_one_notification(lookups: LookupTable) -> None:
    changes = [
        Change(VIEW, Ino(8), False, (b"c",)),
        Change(VIEW, Ino(8), False, (b"c", b"d")),
        Change(VIEW, Ino(7), True, ()),
        Change(VIEW, Ino(7), False, ()),
    ]
    assert plan_notifications(changes, lookups, ROOT) == [
        InvalEntry(DIRECTORY, b"c"),
        InvalEntry(DIRECTORY, b"d"),
        InvalInode(DIRECTORY, True),
        InvalInode(FILE, True),
    ]


def test_a_vanished_inode_loses_its_pages(lookups: LookupTable) -> None:
    plan = plan_notifications([Change(VIEW, Ino(7), False, (), gone=True)], lookups, ROOT)
    assert plan == [InvalInode(FILE, True)]


def test_a_dead_view_means_all_its_known_nodes(lookups: LookupTable) -> None:
    lookups.add(node_id(ViewNo(5), Ino(7)))
    plan = plan_notifications([Change(VIEW, Ino(0), True, ())], lookups, ROOT)
    assert sorted(plan) == [InvalInode(FILE, True), InvalInode(DIRECTORY, True)]


async def test_notifications_come_from_another_thread_and_are_through_on_return(lookups: LookupTable) -> None:
    kernel = Kernel()
    made, aborted = invalidator(lookups, kernel)
    await made.invalidate([Change(VIEW, Ino(8), False, (b"c",)), Change(VIEW, Ino(7), True, ())])
    assert kernel.told == [InvalEntry(DIRECTORY, b"c"), InvalInode(DIRECTORY, True), InvalInode(FILE, True)]
    assert threading.current_thread().name not in kernel.threads
    assert aborted == []


async def test_names_wait_for_the_reply_and_the_directory_for_the_names(lookups: LookupTable) -> None:
    kernel = Kernel()
    made, _ = invalidator(lookups, kernel)
    changes = [Change(VIEW, Ino(8), False, (b"c",)), Change(VIEW, Ino(7), True, ())]
    finish = await made.begin(changes)
    assert kernel.told == [InvalInode(DIRECTORY, True), InvalInode(FILE, True)]
    kernel.told.clear()
    order: list[str] = []

    async def looks() -> None:
        await made.settled(FILE)
        order.append("file")
        await made.settled(DIRECTORY)
        order.append("directory")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(looks)
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["file"]
        await finish()
        assert kernel.told == [InvalEntry(DIRECTORY, b"c")]
    assert order == ["file", "directory"]
    assert made.settling == {}


async def test_who_holds_the_lock_is_not_kept_waiting_for_ever(lookups: LookupTable) -> None:
    """A notification that hangs holds nobody back; what needs no lock comes through meanwhile."""
    kernel = Kernel()
    made, aborted = invalidator(lookups, kernel)
    finish = await made.begin([Change(VIEW, Ino(8), False, (b"c",))])
    kernel.hang = release = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(finish)
        await made.settled(DIRECTORY)
        assert made.settling == {}
        kernel.hang = None
        await made.invalidate([Change(VIEW, Ino(7), True, ())])
        assert kernel.told[-1] == InvalInode(FILE, True)
        release.set()
    assert kernel.told[-1] == InvalEntry(DIRECTORY, b"c")
    assert aborted == []


async def test_two_changes_of_one_directory(lookups: LookupTable) -> None:
    """It settles with the later one, and not before the earlier."""
    kernel = Kernel()
    made, _ = invalidator(lookups, kernel)
    first = await made.begin([Change(VIEW, Ino(8), False, (b"a",))])
    second = await made.begin([Change(VIEW, Ino(8), False, (b"b",))])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        assert DIRECTORY in made.settling
        await first()
    assert made.settling == {}


async def test_nothing_known_starts_no_thread(lookups: LookupTable) -> None:
    kernel = Kernel()
    made, _ = invalidator(lookups, kernel)
    await made.invalidate([Change(ViewNo(9), Ino(7), True, ())])
    assert kernel.told == []
    assert kernel.threads == set()


async def test_an_inode_still_being_made_is_told_again(lookups: LookupTable) -> None:
    kernel = Kernel()
    kernel.refusals = {FILE: [errno.ENOENT], DIRECTORY: [errno.ENOENT]}
    made, _ = invalidator(lookups, kernel)
    await made.invalidate([Change(VIEW, Ino(7), True, ()), Change(VIEW, Ino(8), False, (b"c",))])
    assert kernel.told == [
        InvalEntry(DIRECTORY, b"c"),
        InvalInode(FILE, True),
        InvalInode(DIRECTORY, True),
        InvalInode(FILE, True),
    ]


async def test_one_refusal_does_not_stop_the_others(lookups: LookupTable, caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel()
    kernel.refusals = {FILE: [errno.EINVAL]}
    made, _ = invalidator(lookups, kernel)
    await made.invalidate([Change(VIEW, Ino(7), True, ()), Change(VIEW, Ino(8), False, ())])
    assert kernel.told[-1] == InvalInode(DIRECTORY, False)
    assert "refused" in caplog.text


async def test_an_ended_connection_stops_the_rest(lookups: LookupTable) -> None:
    kernel = Kernel()
    kernel.refusals = {FILE: [errno.ENODEV]}
    made, _ = invalidator(lookups, kernel)
    await made.invalidate([Change(VIEW, Ino(7), True, ()), Change(VIEW, Ino(8), False, ())])
    assert kernel.told == [InvalInode(FILE, True)]


async def test_the_loop_serves_on_while_a_notification_waits(lookups: LookupTable) -> None:
    kernel = Kernel()
    kernel.hang = threading.Event()
    made, aborted = invalidator(lookups, kernel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.invalidate, [Change(VIEW, Ino(7), True, ())])
        with trio.fail_after(10):
            while not kernel.threads:
                await trio.lowlevel.checkpoint()
        # What the kernel waits for: only the loop can answer it.
        kernel.hang.set()
    assert kernel.told == [InvalInode(FILE, True)]
    assert aborted == []


async def test_a_hanging_notification_ends_the_connection(
    lookups: LookupTable, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = Kernel()
    kernel.hang = threading.Event()
    made, aborted = invalidator(lookups, kernel, patience_s=0.05)
    with trio.fail_after(20):
        await made.invalidate([Change(VIEW, Ino(7), True, ()), Change(VIEW, Ino(8), False, ())])
    assert aborted == ["abort"]
    assert "hangs" in caplog.text
    assert kernel.told == [InvalInode(FILE, True)]
    await made.invalidate([Change(VIEW, Ino(8), False, ())])
    assert kernel.told == [InvalInode(FILE, True)]


async def test_refused_writes_are_forgotten(lookups: LookupTable) -> None:
    kernel = Kernel()
    made, _ = invalidator(lookups, kernel)
    await made.drop_data(FILE)
    await made.drop_data(ROOT)
    assert kernel.told == [InvalInode(FILE, True), InvalInode(1, True)]


async def test_a_closed_invalidator_says_nothing(lookups: LookupTable) -> None:
    kernel = Kernel()
    made, _ = invalidator(lookups, kernel)
    await made.close()
    await made.invalidate([Change(VIEW, Ino(7), True, ())])
    assert kernel.told == []
