"""Many clients and many branches: a mixed load of eight processes, idle branches beside it, and a daemon at rest.

The clients are processes of their own, started before the clock, each in a directory of its own; each checks what
it reads and says how long its calls took.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.bench.figures import Figure, figure, quantile_figure
from tests.bench.mounts import Mount, mounted, transport
from tests.bench.plan import Plan

_CLIENTS: Final = 8
_TIMEOUT_S: Final = 300
_TICKS: Final = os.sysconf("SC_CLK_TCK")

_CLIENT: Final = """
import json, os, random, sys, time
top, seed, operations, files = sys.argv[1], *map(int, sys.argv[2:5])
pick = random.Random(seed)
clock = time.perf_counter
os.mkdir(top)
names = [f"{top}/f{number:04}" for number in range(files)]
content = {}
for name in names:
    content[name] = pick.randbytes(16) * 256
    with open(name, "wb") as file:
        file.write(content[name])
print("ready", flush=True)
sys.stdin.readline()
taken, right, made = [], True, 0
for _ in range(operations):
    dice, name = pick.random(), names[pick.randrange(files)]
    if dice < 0.7:
        start = clock()
        fd = os.open(name, os.O_RDONLY)
        found = os.pread(fd, 4096, 0)
        os.close(fd)
        end = clock()
        right = right and found == content[name]
    elif dice < 0.9:
        data = pick.randbytes(16) * 256
        start = clock()
        fd = os.open(name, os.O_WRONLY)
        os.pwrite(fd, data, 0)
        os.close(fd)
        end = clock()
        content[name] = data
    else:
        new, old, older = (f"{top}/m{number:06}" for number in (made, made - 1, made - 2))
        start = clock()
        if made % 4 == 0:
            os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        elif made % 4 == 1:
            os.rename(old, new)
        elif made % 4 == 2:
            os.chmod(old, 0o600)
        else:
            os.unlink(older)
        end = clock()
        made += 1
    taken.append(end - start)
for name, data in content.items():
    with open(name, "rb") as file:
        right = right and file.read() == data
print(json.dumps([right, taken]))
"""


def _mixed(mount: Mount, name: str, operations: int, files: int) -> tuple[float, list[float], bool]:
    """(operations a second, milliseconds of each, right) of eight clients with 70/20/10 reads/writes/names."""
    top = mount.point / name
    top.mkdir()
    clients = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", _CLIENT, top / f"c{number}", str(number), str(operations), str(files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(_CLIENTS)
    ]
    try:
        for client in clients:
            assert client.stdout is not None
            if client.stdout.readline() != "ready\n":
                raise OSError("a client did not start")
        mount.idle()
        start = time.perf_counter()
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        said = [client.communicate(timeout=_TIMEOUT_S)[0] for client in clients]
        whole = time.perf_counter() - start
    finally:
        for client in clients:
            client.kill()
            client.wait()
    found = [json.loads(line) for line in said]
    taken = [seconds * 1e3 for _, times in found for seconds in times]
    return _CLIENTS * operations / whole, taken, all(right for right, _ in found)


def _many_clients(plan: Plan) -> list[Figure]:
    operations, files = plan.samples, max(plan.loose_files // _CLIENTS, 4)
    alone: list[float] = []
    beside: list[float] = []
    taken: list[float] = []
    right = True
    with mounted(plan.directory / "clients") as mount:
        for number in range(plan.rounds):
            rate, times, good = _mixed(mount, f"alone-{number}", operations, files)
            alone.append(rate)
            taken += times
            right = right and good
        for number in range(plan.branches):
            mount.control(f"branches/idle-{number:03}").mkdir()
            right = right and len(os.listdir(mount.control(f"branches/idle-{number:03}"))) > 0
        for number in range(plan.rounds):
            rate, _, good = _mixed(mount, f"beside-{number}", operations, files)
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
