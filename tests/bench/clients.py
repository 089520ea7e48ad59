"""Many clients and many branches: a mixed load of eight processes, idle branches beside it, and a daemon at rest.

Must not know: what a client does (mixed.py).
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Final

from tests.bench.figures import Figure, figure, quantile_figure
from tests.bench.mixed import mixed
from tests.bench.mounts import mounted, transport
from tests.bench.plan import Plan

_CLIENTS: Final = 8
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def _many_clients(plan: Plan) -> list[Figure]:
    operations, files = plan.samples, max(plan.loose_files // _CLIENTS, 4)
    alone: list[float] = []
    beside: list[float] = []
    taken: list[float] = []
    right = True
    with mounted(plan.directory / "clients") as mount:
        for number in range(plan.rounds):
            rate, times, good = mixed(mount, f"alone-{number}", operations, files, clients=_CLIENTS)
            alone.append(rate)
            taken += times
            right = right and good
        for number in range(plan.branches):
            mount.control(f"branches/idle-{number:03}").mkdir()
            right = right and len(os.listdir(mount.control(f"branches/idle-{number:03}"))) > 0
        for number in range(plan.rounds):
            rate, _, good = mixed(mount, f"beside-{number}", operations, files, clients=_CLIENTS)
            beside.append(rate)
            right = right and good
    overhead = [(statistics.median(alone) / rate - 1) * 100 for rate in beside]
    name = f"MNT mixed 70/20/10, {_CLIENTS} clients"
    return [
        figure(f"{name}, operations a second", alone, "1/s", above=5000, durability="kill", verified=right),
        quantile_figure(f"{name}, p50", taken, 0.5, "ms", below=15, durability="kill", verified=right),
        quantile_figure(f"{name}, p99", taken, 0.99, "ms", below=50, durability="kill", verified=right),
        figure(
            f"{name}, {plan.branches} idle branches cost",
            overhead,
            "%",
            below=15,
            durability="kill",
            verified=right,
        ),
    ]


def _cpu_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def _at_rest(plan: Plan) -> list[Figure]:
    """CPU of daemon and workers while nobody asks for anything."""
    with mounted(plan.directory / "rest") as mount:
        (mount.point / "file").write_bytes(b"content")
        mount.idle()
        pids = mount.processes()
        before, start = _cpu_seconds(pids), time.perf_counter()
        time.sleep(plan.stall_s)
        used, passed = _cpu_seconds(pids) - before, time.perf_counter() - start
        right = (mount.point / "file").read_bytes() == b"content"
    return [figure("MNT CPU of an idle daemon", [used / passed * 100], "%", below=1, verified=right)]


def _read_by_all(plan: Plan, cache: str) -> tuple[int, float, bool]:
    """(page cache in bytes, seconds, right) of all branches reading one file, with `-o cache=`."""
    size = plan.shared_bytes
    block = os.urandom(1 << 16)
    with mounted(plan.directory / f"cache-{cache}", f"cache={cache}") as mount:
        (mount.point / "common").write_bytes(block * (size // len(block)))
        for number in range(plan.branches):
            mount.control(f"branches/b{number:03}").mkdir()
        mount.idle()
        paths = [mount.control(f"branches/b{number:03}") / "common" for number in range(plan.branches)]
        before = _page_cache_bytes()
        start = time.perf_counter()
        right = True
        for path in paths:
            with path.open("rb", buffering=0) as file:
                for at in range(0, size, 1 << 20):
                    piece = file.read(1 << 20)
                    right = right and piece[: len(block)] == block and len(piece) == min(1 << 20, size - at)
        taken = time.perf_counter() - start
        grown = max(_page_cache_bytes() - before, 0)
    return grown, taken, right


def _page_cache_bytes() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["Cached"].split()[0]) << 10


def _shared_cache(plan: Plan) -> list[Figure]:
    """One file read through every branch: what the page cache holds of it afterwards."""
    rows = []
    for cache in ("private", "shared"):
        grown, taken, right = _read_by_all(plan, cache)
        name = f"MNT {plan.branches} branches read {plan.shared_bytes >> 20} MiB, cache={cache}"
        bound = 64e6 if cache == "shared" else None
        rows += [
            figure(f"{name}, page cache", [grown / 1e6], "MB", below=bound and bound / 1e6, verified=right),
            figure(name, [taken], "s", verified=right),
        ]
    return rows


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    rows = [*_many_clients(plan), *_at_rest(plan)]
    return rows if transport() == "pyfuse3" else [*rows, *_shared_cache(plan)]
