"""Syncs that the kernel performs, and blocks written ahead for them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from heliosfs.core.ids import Lsn
from heliosfs.storage.log import GroupCommit, Log
from heliosfs.storage.log.commit import kernel_sync
from heliosfs.storage.log.frame import HEADER_BYTES
from heliosfs.storage.log.kernelsync import KernelSync
from heliosfs.storage.log.oscalls import OsCalls

SEGMENT = 1 << 20
DEADLINE_S = 20.0


@pytest.fixture
def kernel() -> Iterator[KernelSync]:
    with closing(KernelSync()) as made:
        yield made


@pytest.fixture
def calls() -> OsCalls:
    return OsCalls()


@pytest.fixture
def log(tmp_path: Path, calls: OsCalls) -> Iterator[Log]:
    with closing(opened(tmp_path, calls)) as log:
        # The names of its files are durable: what follows is the usual sync.
        log.append(1, b"first")
        log.sync()
        yield log


def opened(directory: Path, calls: OsCalls, found: list[bytes] | None = None) -> Log:
    return Log.open(
        directory,
        budget_bytes=1 << 30,
        start=Lsn(0),
        on_record=lambda lsn, end, kind, body, place: found.append(bytes(body)) if found is not None else None,
        segment_bytes=SEGMENT,
        calls=calls,
    )


# --- the kernel's part -----------------------------------------------------------------------------------


async def test_a_task_waits_for_it_where_nobody_watches(kernel: KernelSync, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        for number in range(3):
            file.write(b"%d" % number)
            assert await kernel.fdatasync(file.fileno())
    assert (kernel.naps, kernel.waits) == (0, 3)


async def test_the_loop_sleeps_through_quick_ones_and_not_through_requests(
    kernel: KernelSync, tmp_path: Path
) -> None:
    requests, asking = os.pipe()
    ended = []

    async def another() -> None:
        await trio.lowlevel.checkpoint()
        ended.append(True)

    with (tmp_path / "file").open("wb", buffering=0) as file:
        kernel.watch(requests)
        try:
            kernel._nap = FakeNap([[(kernel._ring.fd, 1)], [(requests, 1)]])  # type: ignore[assignment]
            kernel._through = iter([True, True]).__next__  # type: ignore[method-assign]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(another)
                assert await kernel.fdatasync(file.fileno())
                assert (kernel.naps, kernel.waits, ended) == (1, 0, [])
            kernel._quick = True
            assert await kernel.fdatasync(file.fileno())
            assert (kernel.naps, kernel.waits) == (1, 1)
        finally:
            kernel.unwatch(requests)
            os.close(requests)
            os.close(asking)
    del kernel._through
    # What had ended while it was not looked at is not taken for the end of a later one.
    with (tmp_path / "file").open("wb", buffering=0) as file:
        assert await kernel.fdatasync(file.fileno())
        assert kernel._ring.result() is None


class FakeNap:
    """What poll() answers."""

    def __init__(self, answers: list[list[tuple[int, int]]]) -> None:
        self.answers = answers

    def poll(self, _: int) -> list[tuple[int, int]]:
        return self.answers.pop(0)

    def register(self, fd: int, events: int) -> None:
        pass

    def unregister(self, fd: int) -> None:
        pass


async def test_after_a_slow_one_the_loop_does_not_sleep(kernel: KernelSync, tmp_path: Path) -> None:
    requests, asking = os.pipe()
    try:
        kernel.watch(requests)
        kernel._quick = False
        with (tmp_path / "file").open("wb", buffering=0) as file:
            assert await kernel.fdatasync(file.fileno())
        assert (kernel.naps, kernel.waits) == (0, 1)
    finally:
        os.close(requests)
        os.close(asking)


async def test_whoever_polls_sees_that_somebody_is_at_work(kernel: KernelSync, tmp_path: Path) -> None:
    threads = trio.to_thread.current_default_thread_limiter()
    seen: list[int] = []
    through = kernel._through

    def looked() -> bool:
        seen.append(threads.borrowed_tokens)
        return len(seen) > 1 and through()

    kernel._through = looked  # type: ignore[method-assign]
    with (tmp_path / "file").open("wb", buffering=0) as file:
        with trio.fail_after(DEADLINE_S):
            assert await kernel.fdatasync(file.fileno())
    assert set(seen) == {1}
    assert threads.borrowed_tokens == 0


async def test_what_cannot_be_synced_is_the_error_of_fdatasync(kernel: KernelSync) -> None:
    readable, writable = os.pipe()
    os.close(writable)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            await kernel.fdatasync(readable)
    finally:
        os.close(readable)
    assert not await kernel.fdatasync(readable)


async def test_what_the_kernel_does_not_take_is_left_undone(kernel: KernelSync, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        call, kernel._ring._call = kernel._ring._call, lambda *_: -1
        assert not await kernel.fdatasync(file.fileno())
        kernel._ring._call = call
        # Nothing of it is left for the kernel to find.
        for _ in range(20):
            assert await kernel.fdatasync(file.fileno())
    assert kernel._ring.result() is None


async def test_what_the_kernel_has_no_worker_for_is_left_undone(kernel: KernelSync, tmp_path: Path) -> None:
    result = kernel._ring.result

    def cancelled() -> tuple[int, int] | None:
        found = result()
        return None if found is None else (found[0], -errno.ECANCELED)

    kernel._ring.result = cancelled  # type: ignore[method-assign]
    with (tmp_path / "file").open("wb", buffering=0) as file:
        assert not await kernel.fdatasync(file.fileno())


async def test_an_error_of_the_disk_is_raised(kernel: KernelSync, tmp_path: Path) -> None:
    result = kernel._ring.result

    def failed() -> tuple[int, int] | None:
        found = result()
        return None if found is None else (found[0], -errno.EIO)

    kernel._ring.result = failed  # type: ignore[method-assign]
    with (
        (tmp_path / "file").open("wb", buffering=0) as file,
        pytest.raises(OSError, match=os.strerror(errno.EIO)),
    ):
        await kernel.fdatasync(file.fileno())


async def test_a_file_may_be_closed_while_it_is_synced(kernel: KernelSync, tmp_path: Path) -> None:
    descriptors = os.listdir("/proc/self/fd")
    # Not at once: a worker of the kernel finds the descriptor when it comes to it.
    for _ in range(50):
        file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        os.write(file, bytes(100_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.fdatasync, file)
            await trio.testing.wait_all_tasks_blocked()
            os.close(file)
    assert kernel.waits == 50
    assert os.listdir("/proc/self/fd") == descriptors


def test_closed_twice() -> None:
    kernel = KernelSync()
    kernel.close()
    kernel.close()


def test_a_test_that_wants_to_see_each_sync_gets_threads(calls: OsCalls) -> None:
    found = kernel_sync(calls)
    assert found is not None
    found.close()
    calls.sync = lambda fd: None
    assert kernel_sync(calls) is None


# --- the log's part --------------------------------------------------------------------------------------


class Scripted(KernelSync):
    """Syncs as told: True and False are its answers, an error is raised."""

    def __init__(self, *outcomes: bool | OSError) -> None:
        self.outcomes = list(outcomes)
        self.gates: list[trio.Event] = []
        self.gated = False

    async def fdatasync(self, fd: int) -> bool:
        if self.gated:
            self.gates.append(trio.Event())
            await self.gates[-1].wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome


async def test_the_kernel_syncs_what_is_one_file(log: Log, calls: OsCalls) -> None:
    kernel = Scripted(True)
    threads: list[int] = []
    calls.sync = threads.append
    place = log.append(1, b"")
    await GroupCommit(log, kernel).wait_durable(place.end_lsn)
    assert log.durable_lsn == place.end_lsn
    assert (kernel.outcomes, threads) == ([], [])


async def test_a_thread_does_what_the_kernel_leaves_undone(log: Log, calls: OsCalls) -> None:
    threads: list[int] = []
    calls.sync = threads.append
    place = log.append(1, b"")
    await GroupCommit(log, Scripted(False)).wait_durable(place.end_lsn)
    assert log.durable_lsn == place.end_lsn
    assert len(threads) == 1


async def test_a_failed_one_moves_the_segment_and_is_not_tried_again(
    log: Log, calls: OsCalls, tmp_path: Path
) -> None:
    path = log.locate(log.current_life)[0]
    before = path.stat().st_ino
    synced: list[int] = []

    def sync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        os.fdatasync(fd)

    calls.sync = sync
    place = log.append(1, b"kept")
    await GroupCommit(log, Scripted(OSError(errno.EIO, "injected"))).wait_durable(place.end_lsn)
    assert log.moves == 1
    assert log.durable_lsn == place.end_lsn
    assert path.stat().st_ino != before
    assert before not in synced
    log.append(1, b"later")
    log.close()
    found: list[bytes] = []
    opened(tmp_path, OsCalls(), found).close()
    assert found == [b"first", b"kept", b"later"]


async def test_a_failed_one_that_cannot_be_moved_makes_the_log_read_only(log: Log, calls: OsCalls) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no second file")

    calls.create_copy = fail
    place = log.append(1, b"")
    durable = log.durable_lsn
    with pytest.raises(OSError, match="injected"):
        await GroupCommit(log, Scripted(OSError(errno.EIO, "injected"))).wait_durable(place.end_lsn)
    assert log.failed is not None
    assert log.durable_lsn == durable
    assert log.begin_sync() is None


async def test_waiters_that_arrive_meanwhile_share_the_next(log: Log) -> None:
    kernel = Scripted(True, True)
    kernel.gated = True
    commit = GroupCommit(log, kernel)
    done: list[int] = []

    async def wait(number: int) -> None:
        place = log.append(1, b"%d" % number)
        await commit.wait_durable(place.end_lsn)
        assert log.durable_lsn >= place.end_lsn
        done.append(number)

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, 0)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(1, 20):
                nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
            assert (len(kernel.gates), done) == (1, [])
            kernel.gates[0].set()
            await trio.testing.wait_all_tasks_blocked()
            assert (len(kernel.gates), done) == (2, [0])
            kernel.gates[1].set()
    assert sorted(done) == list(range(20))


def test_what_is_more_than_one_file_takes_a_whole_sync(tmp_path: Path, calls: OsCalls) -> None:
    with closing(opened(tmp_path, calls)) as log:
        log.append(1, b"")
        assert log.begin_sync() is None, "the segment's name is not durable"
        log.sync()
        begun = log.begin_sync()
        assert begun is not None
        assert log.begin_sync() is None, "one is under way"
        log.end_sync(begun, None)
        life = log.current_life
        while log.current_life == life:
            log.append(1, b"", bytes(100_000))
        assert log.begin_sync() is None, "two lives have records"
        log.sync()
        begun = log.begin_sync()
        assert begun is not None
        log.abandon_sync(begun)
    assert log.begin_sync() is None, "closed"


def test_what_is_appended_during_a_sync_is_not_durable_by_it(log: Log) -> None:
    before = log.append(1, b"before")
    begun = log.begin_sync()
    assert begun is not None
    after = log.append(1, b"after")
    log.end_sync(begun, None)
    assert log.durable_lsn == before.end_lsn < after.end_lsn


# --- writing ahead ---------------------------------------------------------------------------------------


class Ahead:
    """Notes what is written ahead: (offset, length)."""

    def __init__(self, calls: OsCalls) -> None:
        self.ranges: list[tuple[int, int]] = []
        calls.write_ahead = self

    def __call__(self, fd: int, data: bytes, offset: int) -> int:
        assert not any(data)
        self.ranges.append((offset, len(data)))
        return os.pwrite(fd, data, offset)


def synced(log: Log) -> None:
    begun = log.begin_sync()
    assert begun is not None
    log.end_sync(begun, None)


def test_blocks_are_written_before_records_need_them(log: Log, calls: OsCalls) -> None:
    ahead = Ahead(calls)
    covered = 0
    for _ in range(150):
        place = log.append(1, b"", bytes(4000))
        synced(log)
        covered = max((offset + length for offset, length in ahead.ranges), default=0)
        assert place.offset + place.length <= covered
    assert 2 <= len(ahead.ranges) <= 4
    for (offset, length), (following, _) in zip(ahead.ranges, ahead.ranges[1:], strict=False):
        assert offset + length == following, "nothing is written ahead twice"
    assert covered % 4096 == 0


def test_nothing_is_written_ahead_of_much_data(log: Log, calls: OsCalls) -> None:
    ahead = Ahead(calls)
    log.append(1, b"", bytes(200_000))
    synced(log)
    assert ahead.ranges == []


def test_writing_ahead_stops_at_the_end_of_a_life(log: Log, calls: OsCalls) -> None:
    ahead = Ahead(calls)
    path = log.locate(log.current_life)[0]
    life = log.current_life
    while True:
        log.append(1, b"", bytes(4000))
        if log.current_life != life:
            break
        synced(log)
    assert ahead.ranges
    assert max(offset + length for offset, length in ahead.ranges) <= SEGMENT
    assert path.stat().st_size == SEGMENT


def test_a_file_that_led_a_life_is_not_written_ahead_where_that_was(log: Log, calls: OsCalls) -> None:
    first = log.locate(log.current_life)[0]
    while log.locate(log.current_life)[0] == first:
        log.append(1, b"", bytes(100_000))
    log.release(log.end)
    while log.locate(log.current_life)[0] != first:
        log.append(1, b"", bytes(100_000))
        log.release(log.end)
    log.sync()
    ahead = Ahead(calls)
    for _ in range(20):
        log.append(1, b"", bytes(4000))
        synced(log)
    assert ahead.ranges == []


def test_a_log_at_rest_stays_small(log: Log, calls: OsCalls) -> None:
    ahead = Ahead(calls)
    log.release(log.end)
    log.rest()
    path = log.locate(log.current_life)[0]
    assert path.stat().st_size == HEADER_BYTES
    log.sync()
    synced(log)
    assert ahead.ranges == []
    assert path.stat().st_size == HEADER_BYTES
    log.append(1, b"awake")
    synced(log)
    assert len(ahead.ranges) == 1


def test_an_error_of_writing_ahead_is_nobodys(log: Log, calls: OsCalls) -> None:
    def fail(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.EIO, "injected")

    calls.write_ahead = fail
    place = log.append(1, b"")
    synced(log)
    assert log.failed is None
    assert log.durable_lsn == place.end_lsn


def test_zeros_and_what_they_cover_are_no_records(log: Log, tmp_path: Path) -> None:
    bodies = [b"%d" % number for number in range(40)]
    for body in bodies:
        log.append(1, body, bytes(3000))
        synced(log)
    # As a killed process leaves it: nothing is closed.
    found: list[bytes] = []
    opened(tmp_path, OsCalls(), found).close()
    assert found == [b"first", *bodies]
