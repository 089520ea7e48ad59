"""Keeping the loop awake: it turns after a request, sleeps when none comes, and gives way."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from heliosfs.transport.pyfuse3 import wakefulness
from heliosfs.transport.pyfuse3.wakefulness import Wakefulness


class Clock:
    """A clock that goes on a little at each look."""

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 10e-6
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(wakefulness, "perf_counter", made)
    return made


async def test_it_turns_for_200_us_after_a_request_and_then_sleeps(clock: Clock, nursery: trio.Nursery) -> None:
    awake = Wakefulness()
    nursery.start_soon(awake.keep)
    await trio.testing.wait_all_tasks_blocked()
    assert clock.looks == 0
    awake.noted()
    await trio.testing.wait_all_tasks_blocked()
    assert 20 <= clock.looks <= 23
    awake.noted()
    awake.noted()
    await trio.testing.wait_all_tasks_blocked()
    assert 40 <= clock.looks <= 46


async def test_requests_prolong_it(clock: Clock, nursery: trio.Nursery) -> None:
    awake = Wakefulness()
    nursery.start_soon(awake.keep)
    await trio.testing.wait_all_tasks_blocked()
    awake.noted()
    for _ in range(100):
        await trio.lowlevel.checkpoint()
        awake.noted()
    await trio.testing.wait_all_tasks_blocked()
    assert clock.looks > 100


async def test_a_robbed_core_is_given_up_for_a_while(
    clock: Clock, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    awake = Wakefulness()
    nursery.start_soon(awake.keep)
    await trio.testing.wait_all_tasks_blocked()
    clock.step = 600e-6
    awake.noted()
    await trio.testing.wait_all_tasks_blocked()
    looks = clock.looks
    assert looks <= 3
    clock.step = 10e-6
    awake.noted()
    await trio.testing.wait_all_tasks_blocked()
    assert clock.looks == looks
    await trio.sleep(0.1)
    await trio.testing.wait_all_tasks_blocked()
    awake.noted()
    await trio.testing.wait_all_tasks_blocked()
    assert clock.looks > looks
