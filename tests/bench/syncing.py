"""MNT figures of durability: fsync of a small new file beside the local filesystem's, and many at once.

Ratios within one run, taken in turn: a disk is never the same for long. What was synced is read back.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path

from tests.bench.figures import Figure, figure
from tests.bench.mounts import Mount
from tests.bench.plan import Plan

_BYTES = 4096
_AT_ONCE = 16


def _fresh(directory: Path, number: int) -> tuple[float, bool]:
    """Microseconds of the fsync of a new file, and whether it holds what was written."""
    data = os.urandom(_BYTES)
    fd = os.open(directory / f"fresh{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.write(fd, data)
        start = time.perf_counter()
        os.fsync(fd)
        taken = time.perf_counter() - start
        return taken * 1e6, os.pread(fd, _BYTES + 1, 0) == data
    finally:
        os.close(fd)


def _together(descriptors: list[int]) -> float:
    """Microseconds until all of them, written to just before, are synced by a thread each."""
    for fd in descriptors:
        os.pwrite(fd, os.urandom(_BYTES), 0)
    barrier = threading.Barrier(len(descriptors) + 1)

    def sync(fd: int) -> None:
        barrier.wait()
        os.fsync(fd)

    threads = [threading.Thread(target=sync, args=(fd,)) for fd in descriptors]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - start) * 1e6


def run(plan: Plan) -> list[Figure]:
    """Mount a store, measure, unmount."""
    local = plan.directory / "syncing-local"
    local.mkdir()
    mount = Mount(plan.directory / "syncing")
    mount.start()
    try:
        ours: list[float] = []
        theirs: list[float] = []
        right = True
        for number in range(plan.samples):
            for directory, samples in ((mount.point, ours), (local, theirs)):
                taken, whole = _fresh(directory, number)
                samples.append(taken)
                right = right and whole
        descriptors = [os.open(mount.point / f"at-once{n}", os.O_RDWR | os.O_CREAT) for n in range(_AT_ONCE)]
        try:
            one: list[float] = []
            many: list[float] = []
            for _ in range(max(5, plan.samples // 4)):
                one.append(_together(descriptors[:1]))
                many.append(_together(descriptors))
        finally:
            for fd in descriptors:
                os.close(fd)
    finally:
        mount.close()
    ratio = statistics.median(ours) / statistics.median(theirs)
    spread = statistics.median(many) / statistics.median(one)
    return [
        figure("MNT fsync of a new file of 4 KiB", ours, "us", durability="power", verified=right),
        figure("MNT fsync of the same on the local filesystem", theirs, "us", durability="power", verified=right),
        figure("MNT fsync, ours / the local one's", [ratio], "x", below=1.5, durability="power", verified=right),
        figure(f"MNT fsync, {_AT_ONCE} at once / one", [spread], "x", below=3, durability="power", verified=right),
    ]
