"""Whoever serves goes first as long as it is well, and nobody whom it starts does."""

from __future__ import annotations

import json
import os
import threading

import pytest

from heliosfs.daemon import priority
from tests.unit.daemon.test_hurry import FORBIDDEN, run

SCRIPT = """
import ctypes, json, os, resource, threading, time
from heliosfs.daemon import priority

def policies():
    return [os.sched_getscheduler(task) & ~os.SCHED_RESET_ON_FORK for task in sorted(priority._threads())]

def database():
    ctypes.CDLL(None).prctl(15, b"rocksdb:low", 0, 0, 0)
    named.set()
    over.wait()

said, over, named, soon = {}, threading.Event(), threading.Event(), []
priority.RUN_S = 0.2
threading.Thread(target=over.wait, daemon=True).start()
first = priority.Foremost(soon.append)
first.begin(first=True)
said["first"] = policies()
threading.Thread(target=database, daemon=True).start()
named.wait()
first.tend()
said["database"] = policies()
until = time.monotonic() + 20
while not soon and time.monotonic() < until and first.first:
    pass
said["ran on"] = policies()
for again in soon:
    again()
said["again"] = policies()
said["limit_us"] = resource.getrlimit(resource.RLIMIT_RTTIME)[0]
first._until = 0.0
first.tend()
said["one of many"] = policies()
first.begin(first=True)
first.end()
for again in soon:
    again()
said["end"] = policies()
print(json.dumps(said), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("allowed", [True, False])
def test_who_serves_goes_first_until_it_has_run_for_long_without_a_turn_of_its_loop(allowed: bool) -> None:
    allowed = allowed and os.geteuid() == 0
    found = json.loads(run(SCRIPT if allowed else FORBIDDEN + SCRIPT))
    usual = os.SCHED_OTHER
    first = os.SCHED_RR if allowed else usual
    assert found["first"] == [first, first]
    assert found["database"] == [first, first, usual]
    assert found["ran on"] == [usual, usual, usual]
    assert found["again"] == [first, first, usual]
    if allowed:
        assert found["limit_us"] == 200_000
    assert found["one of many"] == [usual, usual, usual]
    assert found["end"] == [usual, usual, usual]


GIVING_WAY = """
import json, os, socket, tempfile, threading, time
from heliosfs.daemon import priority
from heliosfs.daemon.follower import Follower

priority.RUN_S = 0.2
with tempfile.TemporaryDirectory() as store:
    Follower(socket.socketpair()[0], {"store": store, "options": "{}"}, [])
over = threading.Event()

def hurried():
    return [task for task in os.listdir("/proc/self/task") if os.sched_getscheduler(int(task)) == os.SCHED_RR]

priority.hurry(0)
threading.Thread(target=over.wait, daemon=True).start()
began = time.monotonic()
before = len(hurried())
while hurried() and time.monotonic() < began + 20:
    pass
print(json.dumps([before, len(hurried()), time.monotonic() - began]))
over.set()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may have a real-time priority")
def test_who_goes_on_and_loops_before_it_serves_is_one_among_others() -> None:
    before, after, seconds = json.loads(run(GIVING_WAY))
    assert (before, after) == (2, 0)
    assert seconds < 10


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_who_may_not_go_first_ends_in_good_order() -> None:
    script = """
import os
from heliosfs.daemon import priority
os.setresuid(65534, 65534, 65534)
for first in (True, False):
    foremost = priority.Foremost(print)
    foremost.begin(first=first)
    foremost.end()
print(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
"""
    assert run(script).split() == [str(os.SCHED_OTHER)]


def test_it_goes_first_where_it_has_waited_for_a_processor_for_long() -> None:
    assert priority.would_wait((0, 0), (60_000_000, 30_000_000))
    assert not priority.would_wait((0, 0), (90_000_000, 10_000_000))
    assert not priority.would_wait((0, 0), (1_000_000, 3_000_000)), "hardly anybody has asked for anything"
    assert not priority.would_wait((10**9, 10**9), (10**9 + 90_000_000, 10**9 + 10_000_000)), "since then"
    ran, waited = priority.ran_and_waited()
    assert ran > 0 and waited >= 0


def test_a_short_slice_is_asked_for_this_thread_alone_and_shown_by_the_kernel() -> None:
    slices: list[int] = []

    def ask() -> None:
        before = slice_ns()
        priority.be_short()
        slices.extend((before, slice_ns()))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    if not slices[0]:
        pytest.skip("this kernel does not say how long a slice is")
    assert slices[1] == priority._SLICE_NS < slices[0]
    assert slice_ns() == slices[0]


def slice_ns() -> int:
    """As /proc/thread-self/sched has it (in milliseconds); 0 where it does not."""
    with open("/proc/thread-self/sched") as file:
        for line in file:
            if line.startswith("se.slice"):
                said = line.split(":")[1]
                return round(float(said) * (1e6 if "." in said else 1))
    return 0
