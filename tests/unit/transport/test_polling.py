"""When the poller looks and when it sleeps, on a pipe and with a clock of our own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
import trio
import trio.testing

from heliosfs.transport import polling
from heliosfs.transport.polling import AWAKE_S, Poller
from heliosfs.transport.waking import WakeUps


class Clock:
    """Stands still unless a look at the descriptor takes time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.step = 1e-6

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(polling, "perf_counter", made)
    monkeypatch.setattr(polling, "running", lambda: 1)
    return made


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


async def slept(poller: Poller, writer: int, monkeypatch: pytest.MonkeyPatch, clock: Clock, sleep_s: float) -> bool:
    """Whether a wait for which a request comes after `sleep_s` of sleep has slept at all, and not polled before."""
    began = clock.now
    polled_s = 0.0

    async def wait_readable(fd: int) -> None:
        nonlocal polled_s
        polled_s = clock.now - began
        clock.now += sleep_s
        os.write(writer, b"x")

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_readable)
    await poller.wait()
    return 0 < polled_s < AWAKE_S


async def test_polling_stops_where_nothing_comes_and_starts_again(
    clock: Clock, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    poller = Poller(reader)
    vain = 0
    while not await slept(poller, writer, monkeypatch, clock, 1.0):
        os.read(reader, 10)
        vain += 1
        assert vain < 20
    os.read(reader, 10)
    assert vain > 1
    assert await slept(poller, writer, monkeypatch, clock, 1.0), "still asleep"
    os.read(reader, 10)
    await slept(poller, writer, monkeypatch, clock, AWAKE_S / 4)
    os.read(reader, 10)
    assert not await slept(poller, writer, monkeypatch, clock, 1.0), "what came soon makes it look again"


async def test_a_core_that_is_taken_away_ends_polling_at_once(
    clock: Clock, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    poller = Poller(reader)
    clock.step = 0.001
    began = clock.now
    await slept(poller, writer, monkeypatch, clock, 0.0)
    assert clock.now - began < 0.01
    os.read(reader, 10)
    clock.step = 1e-6
    assert await slept(poller, writer, monkeypatch, clock, 0.0), "and for a while after"


async def test_where_cores_stay_busy_it_looks_ever_more_rarely(
    clock: Clock, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    poller = Poller(reader)
    asleep: list[float] = []
    for _ in range(4):
        clock.step = 0.001
        await slept(poller, writer, monkeypatch, clock, 0.0)
        os.read(reader, 10)
        clock.step, began = 1e-6, clock.now
        while not poller.glance():
            clock.now += 0.01
            os.write(writer, b"x")
        asleep.append(clock.now - began)
        os.read(reader, 1000)
    assert all(2 * before < after + 0.02 for before, after in pairwise(asleep)), asleep
    clock.now += 60
    clock.step = 0.001
    await slept(poller, writer, monkeypatch, clock, 0.0)
    clock.step = 1e-6
    clock.now += asleep[0]
    assert poller.glance(), "forgiven"


async def test_who_asks_as_soon_as_it_sleeps_has_waited_for_its_core(
    clock: Clock, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    poller = Poller(reader)
    assert not await slept(poller, writer, monkeypatch, clock, AWAKE_S / 4)
    os.read(reader, 10)
    assert not await slept(poller, writer, monkeypatch, clock, AWAKE_S / 4), "among others it is in nobody's way"
    os.read(reader, 10)
    monkeypatch.setattr(polling, "_goes_first", lambda: True)
    assert not await slept(poller, writer, monkeypatch, clock, AWAKE_S / 4), "it has looked before"
    os.read(reader, 10)
    assert await slept(poller, writer, monkeypatch, clock, AWAKE_S / 4), "in vain, and stood in the way"
    os.read(reader, 10)
    clock.now += 1
    assert not await slept(poller, writer, monkeypatch, clock, 1.0), "not for ever"


async def test_it_does_not_look_where_more_want_a_core_than_there_are(
    clock: Clock, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    poller = Poller(reader)
    crowd = len(os.sched_getaffinity(0)) + 2
    monkeypatch.setattr(polling, "running", lambda: crowd)
    assert await slept(poller, writer, monkeypatch, clock, 1.0)
    os.read(reader, 10)
    crowd -= 1
    assert not await slept(poller, writer, monkeypatch, clock, 1.0)


class Told(WakeUps):
    """Notes what it would ask for, with the time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls: list[tuple[str, float]] = []
        self.quick = False

    def hasten(self) -> None:
        self.calls.append(("hasten", self.clock.now))

    def relax(self) -> None:
        self.calls.append(("relax", self.clock.now))

    def close(self) -> None:
        self.calls.append(("close", self.clock.now))


async def asked_every(
    gap_s: float, count: int, poller: Poller, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """So many requests, each so long after the poller has gone to sleep. With 0.0 they come while it looks."""
    reader, writer = pipe

    async def wait_readable(fd: int) -> None:
        # A deadline of the caller's passes before the request comes.
        left = trio.current_effective_deadline() - trio.current_time()
        clock.now += min(gap_s, max(left, 0.0))
        if left < gap_s:
            await trio.sleep_forever()
        os.write(writer, b"x")

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_readable)
    for _ in range(count):
        if not gap_s:
            os.write(writer, b"x")
        await poller.wait()
        os.read(reader, 10)


async def test_cores_are_kept_from_halting_while_requests_follow_closely(
    clock: Clock,
    pipe: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    told = Told(clock)
    poller = Poller(pipe[0], told)
    await asked_every(0.0, 10, poller, pipe, monkeypatch, clock)
    assert not told.calls, "a few requests are none of its business"
    await asked_every(0.0, 30, poller, pipe, monkeypatch, clock)
    assert [call for call, _ in told.calls] == ["hasten"]
    last = clock.now
    await asked_every(5.0, 1, poller, pipe, monkeypatch, clock)
    assert [call for call, _ in told.calls] == ["hasten", "relax"]
    assert 0.001 < told.calls[1][1] - last < 0.1, "not at once, and not for long"
    poller.close()
    assert told.calls[-1][0] == "close"


async def test_who_thinks_between_his_requests_is_served_quickly_and_who_thinks_for_long_is_not(
    clock: Clock,
    pipe: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    told = Told(clock)
    poller = Poller(pipe[0], told)
    await asked_every(0.005, 50, poller, pipe, monkeypatch, clock)
    assert not told.calls
    await asked_every(0.001, 50, poller, pipe, monkeypatch, clock)
    assert [call for call, _ in told.calls] == ["hasten"]
    await asked_every(0.005, 50, poller, pipe, monkeypatch, clock)
    assert [call for call, _ in told.calls] == ["hasten", "relax"], "each saved 0.1 ms of 5"


def test_running_counts_at_least_us() -> None:
    assert polling.running() >= 1


async def test_close_wakes(pipe: tuple[int, int]) -> None:
    poller = Poller(pipe[0])
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await poller.wait()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        poller.close()
    with pytest.raises(trio.ClosedResourceError):
        await poller.wait()
