"""Whoever serves a mount goes before others, it alone, and so does whoever goes on for it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.crowd import crowd
from tests.support.mounts import MountedStore, Mounts, storage_processes, wait_until

pytestmark = pytest.mark.mounted

USUAL = {os.SCHED_OTHER, os.SCHED_BATCH}


def policies(pid: int) -> dict[str, set[int]]:
    """Of a process's threads, by their names."""
    found: dict[str, set[int]] = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found.setdefault((thread / "comm").read_text(), set()).add(
                os.sched_getscheduler(int(thread.name)) & ~os.SCHED_RESET_ON_FORK
            )
    return found


def goes_first(pid: int) -> bool:
    """Whether it does, with all of its threads but the database's."""
    return all(
        USUAL.issuperset(of_one) if name.startswith("rocksdb") else of_one == {os.SCHED_RR}
        for name, of_one in policies(pid).items()
    )


def is_as_usual(pid: int) -> bool:
    return all(USUAL.issuperset(of_one) for of_one in policies(pid).values())


def goes_first_when_asked_for_more(mount: MountedStore) -> bool:
    for _ in range(20):
        (mount.point / "g").write_bytes(b"x")
    return goes_first(mount.worker())


@pytest.mark.skipif(os.geteuid() != 0, reason="a real-time priority takes root")
def test_who_serves_goes_first_in_a_crowd_and_nobody_whom_it_starts(mounts: Mounts, transport: str) -> None:
    with mounts.mounted(transport) as mount:
        worker = mount.worker()
        assert is_as_usual(worker)
        (mount.point / "f").write_bytes(os.urandom(1 << 20))
        with crowd(3 * (os.cpu_count() or 1)):
            wait_until(lambda: goes_first_when_asked_for_more(mount), "its priority")
            mount.wait_durable()
            wait_until(lambda: storage_processes(worker), "the storage's workers")
            assert all(is_as_usual(pid) for pid in storage_processes(worker))
            assert any(name.startswith("rocksdb") for name in policies(worker))
            wait_until(lambda: goes_first_when_asked_for_more(mount), "the database's threads")
        if transport == "kernel":
            os.kill(worker, signal.SIGKILL)
            assert (mount.point / "f").stat().st_size == 1 << 20
            assert mount.worker() != worker
            wait_until(lambda: goes_first(mount.worker()), "the next one's priority")


def test_it_is_one_among_others_where_asked_to(mounts: Mounts, transport: str) -> None:
    with mounts.mounted(transport, "realtime=no") as mount:
        assert is_as_usual(mount.worker())
