"""Whoever serves a mount goes before others, it alone, and so does whoever goes on for it."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.mounts import Mounts, storage_processes, wait_until

pytestmark = pytest.mark.mounted

FIRST = os.SCHED_RR | os.SCHED_RESET_ON_FORK
USUAL = {os.SCHED_OTHER, os.SCHED_BATCH}


def policies(pid: int) -> list[int]:
    """Of a process's threads, the first one first."""
    return [os.sched_getscheduler(int(thread)) for thread in sorted(os.listdir(f"/proc/{pid}/task"), key=int)]


def goes_first(pid: int) -> bool:
    first, *others = policies(pid)
    return first == FIRST and USUAL.issuperset(others)


@pytest.mark.skipif(os.geteuid() != 0, reason="a real-time priority takes root")
def test_who_serves_goes_first_and_nobody_whom_it_starts(mounts: Mounts, transport: str) -> None:
    with mounts.mounted(transport) as mount:
        worker = mount.worker()
        wait_until(lambda: goes_first(worker), "its priority")
        (mount.point / "f").write_bytes(os.urandom(1 << 20))
        mount.wait_durable()
        wait_until(lambda: storage_processes(worker), "the storage's workers")
        assert all(USUAL.issuperset(policies(pid)) for pid in storage_processes(worker))
        if transport == "kernel":
            os.kill(worker, signal.SIGKILL)
            assert (mount.point / "f").stat().st_size == 1 << 20
            assert mount.worker() != worker
            wait_until(lambda: goes_first(mount.worker()), "the next one's priority")


def test_it_is_one_among_others_where_asked_to(mounts: Mounts, transport: str) -> None:
    with mounts.mounted(transport, "realtime=no") as mount:
        assert USUAL.issuperset(policies(mount.worker()))
