"""Durability: what a sync covers, what its failure means, and how waiters share it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from heliosfs.core.ids import Lsn
from heliosfs.storage.log import GroupCommit, Log
from heliosfs.storage.log.oscalls import OsCalls

SEGMENT = 16 * 1024
DEADLINE_S = 20.0


@pytest.fixture
def calls() -> OsCalls:
    return OsCalls()


@pytest.fixture
def log(tmp_path: Path, calls: OsCalls) -> Iterator[Log]:
    opened = Log.open(
        tmp_path,
        budget_bytes=1 << 20,
        start=Lsn(0),
        on_record=lambda *_: None,
        segment_bytes=SEGMENT,
        calls=calls,
    )
    with closing(opened):
        yield opened


def fill_life(log: Log) -> None:
    """Append until another life is in use."""
    life = log.current_life
    while log.current_life == life:
        log.append(1, b"", bytes(3000))


def record_inodes(synced: list[int], during_first: Callable[[], object]) -> Callable[[int], None]:
    """A sync that notes what it was for, and does something while the first one runs."""

    def sync(fd: int) -> None:
        os.fdatasync(fd)
        synced.append(os.fstat(fd).st_ino)
        if len(synced) == 1:
            during_first()

    return sync


def test_segments_are_synced_oldest_first_and_once(log: Log, calls: OsCalls) -> None:
    inodes = [log.locate(log.current_life)[0].stat().st_ino]
    for _ in range(2):
        fill_life(log)
        inodes.append(log.locate(log.current_life)[0].stat().st_ino)
    synced: list[int] = []
    calls.sync = record_inodes(synced, lambda: None)
    log.sync()
    assert synced == inodes
    assert log.durable_lsn == log.end
    log.sync()
    assert synced == inodes, "nothing to do"
    log.append(1, b"")
    log.sync()
    assert synced == [*inodes, inodes[-1]]


def test_tail_of_a_life_that_is_sealed_while_a_sync_runs_is_synced_by_the_next(log: Log, calls: OsCalls) -> None:
    log.append(1, b"before")
    end = log.end
    inode = log.locate(log.current_life)[0].stat().st_ino
    synced: list[int] = []
    calls.sync = record_inodes(synced, lambda: fill_life(log))
    log.sync()
    assert log.durable_lsn == end
    synced[:] = [0]
    log.sync()
    assert synced[1] == inode
    assert log.durable_lsn == log.end


class LockWithVisitor:
    """Calls `visitor` right after each time it is given back: where another thread could come in."""

    def __init__(self, visitor: Callable[[], object]) -> None:
        self.lock = threading.Lock()
        self.visitor = visitor
        self.visiting = False

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        if not self.visiting:
            self.visiting = True
            self.visitor()
            self.visiting = False


def test_sync_in_the_midst_of_a_roll_leaves_the_new_life_to_the_next(log: Log, calls: OsCalls) -> None:
    log.append(1, b"before")
    log._lock = LockWithVisitor(log.sync)  # type: ignore[assignment]
    fill_life(log)
    log._lock = threading.Lock()
    synced: list[int] = []
    calls.sync = record_inodes(synced, lambda: None)
    log.sync()
    assert log.locate(log.current_life)[0].stat().st_ino in synced


def test_no_descriptor_to_spare_is_not_a_failed_sync(
    log: Log, calls: OsCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_life(log)
    left = [1]

    def dup(fd: int) -> int:
        if not left:
            raise OSError(errno.EMFILE, "injected")
        left.pop()
        return duplicate(fd)

    duplicate = os.dup
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", dup)
        with pytest.raises(OSError, match="injected"):
            log.sync()
    assert len(os.listdir("/proc/self/fd")) == before
    assert log.failed is None
    log.sync()
    assert log.durable_lsn == log.end


def test_life_released_while_a_sync_runs_does_not_pull_the_descriptor_away(log: Log, calls: OsCalls) -> None:
    for _ in range(8):
        fill_life(log)
    synced: list[int] = []
    calls.sync = record_inodes(synced, lambda: log.release(log.end))
    log.sync()
    assert log.failed is None
    assert len(set(synced)) == 9


def test_names_of_new_files_are_synced_before_anything_is_called_durable(log: Log, calls: OsCalls) -> None:
    order: list[str] = []
    calls.sync_directory = lambda fd: order.append("directory")
    calls.sync = lambda fd: order.append("segment")
    log.append(1, b"")
    log.sync()
    log.append(1, b"")
    log.sync()
    assert order == ["directory", "segment", "segment"]


@pytest.mark.parametrize("label", ["sync", "sync_directory"])
def test_failed_sync_makes_the_log_read_only(log: Log, calls: OsCalls, label: str) -> None:
    log.append(1, b"")
    durable = log.durable_lsn

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "injected")

    setattr(calls, label, fail)
    with pytest.raises(OSError, match="injected"):
        log.sync()
    setattr(calls, label, os.fdatasync)
    assert log.failed is not None
    assert log.durable_lsn == durable
    for refused in (log.sync, lambda: log.append(1, b"")):
        with pytest.raises(OSError, match="read-only") as caught:
            refused()
        assert caught.value.errno == errno.EROFS
    assert log.durable_lsn == durable


def test_appending_goes_on_while_a_sync_runs(log: Log, calls: OsCalls) -> None:
    running, go_on = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        running.set()
        assert go_on.wait(DEADLINE_S)

    calls.sync = slow
    before = log.append(1, b"before")
    thread = threading.Thread(target=log.sync)
    thread.start()
    try:
        assert running.wait(DEADLINE_S)
        after = log.append(1, b"after")
    finally:
        go_on.set()
        thread.join(DEADLINE_S)
    assert log.durable_lsn == before.end_lsn < after.end_lsn


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(DEADLINE_S):
        while not condition():
            await trio.sleep(0.001)


class SlowSync:
    """Lets each fdatasync go only when told; counts them."""

    def __init__(self, calls: OsCalls, error: OSError | None = None) -> None:
        self.started = 0
        self.gate = threading.Semaphore(0)
        self.error = error
        calls.sync = self

    def __call__(self, fd: int) -> None:
        self.started += 1
        assert self.gate.acquire(timeout=DEADLINE_S)
        if self.error is not None:
            raise self.error


async def test_waiters_that_arrive_while_a_sync_runs_share_the_next(log: Log, calls: OsCalls) -> None:
    slow = SlowSync(calls)
    commit = GroupCommit(log)
    done: list[int] = []

    async def wait(number: int) -> None:
        place = log.append(1, b"%d" % number)
        await commit.wait_durable(place.end_lsn)
        assert log.durable_lsn >= place.end_lsn
        done.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 0)
        await wait_until(lambda: slow.started == 1)
        for number in range(1, 50):
            nursery.start_soon(wait, number)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        slow.gate.release(50)
    assert sorted(done) == list(range(50))
    assert slow.started == 2


async def test_failed_sync_reaches_every_waiter(log: Log, calls: OsCalls) -> None:
    slow = SlowSync(calls, OSError(errno.EIO, "injected"))
    commit = GroupCommit(log)
    errors: list[OSError] = []

    async def wait() -> None:
        try:
            await commit.wait_durable(log.append(1, b"").end_lsn)
        except OSError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_until(lambda: slow.started == 1)
        for _ in range(9):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        slow.gate.release(10)
    assert len(errors) == 10
    assert {error.errno for error in errors} == {errno.EIO, errno.EROFS}
    assert slow.started == 2, "the segment, and once the file that it was to be moved to: nothing is tried again"


async def test_cancelled_waiter_leaves_the_others_served(log: Log, calls: OsCalls) -> None:
    slow = SlowSync(calls)
    commit = GroupCommit(log)
    place = log.append(1, b"")
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def cancelled() -> None:
            with first:
                await commit.wait_durable(place.end_lsn)

        nursery.start_soon(cancelled)
        await wait_until(lambda: slow.started == 1)
        nursery.start_soon(commit.wait_durable, place.end_lsn)
        first.cancel()
        slow.gate.release(2)
    assert log.durable_lsn >= place.end_lsn


async def test_interval_makes_durable_what_nobody_waits_for(log: Log) -> None:
    commit = GroupCommit(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit.run_interval, 0.005)
        for _ in range(3):
            place = log.append(1, b"")
            await wait_until(lambda end=place.end_lsn: log.durable_lsn >= end)  # type: ignore[misc]
        nursery.cancel_scope.cancel()


async def test_interval_ends_when_the_log_has_failed_for_good(log: Log) -> None:
    log.append(1, b"")
    log.failed = OSError(errno.EROFS, "by order")
    with trio.fail_after(DEADLINE_S):
        await GroupCommit(log).run_interval(0.001)
    assert not log.mend()


async def test_interval_mends_the_log_when_the_disk_is_well(log: Log, calls: OsCalls) -> None:
    well = calls.sync

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "injected")

    calls.sync = fail
    place = log.append(1, b"")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(GroupCommit(log).run_interval, 0.001)
        await wait_until(lambda: log.failed is not None)
        calls.sync = well
        await wait_until(lambda: log.failed is None)
        assert log.durable_lsn >= place.end_lsn
        log.append(1, b"")
        nursery.cancel_scope.cancel()


async def test_interval_outlives_an_error_that_passes(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[int] = []
    duplicate = os.dup

    def dup(fd: int) -> int:
        if len(refused) < 3:
            refused.append(fd)
            raise OSError(errno.EMFILE, "injected")
        return duplicate(fd)

    monkeypatch.setattr(os, "dup", dup)
    place = log.append(1, b"")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(GroupCommit(log).run_interval, 0.001)
        await wait_until(lambda: log.durable_lsn >= place.end_lsn)
        nursery.cancel_scope.cancel()
    assert len(refused) == 3


async def test_nobody_waits_for_what_was_not_appended(log: Log) -> None:
    with pytest.raises(AssertionError):
        await GroupCommit(log).wait_durable(Lsn(log.end + 1))
