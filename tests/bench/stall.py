"""MNT figures of stalls: a stat at 1 kHz during compaction and beside cold reads, against undisturbed ones.

The stat is statx(2) with AT_STATX_FORCE_SYNC from a process of its own, so that each is a request to the daemon;
its latency alone is counted. Undisturbed and busy runs alternate.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from tests.bench.figures import Figure, figure, quantile, quantile_figure
from tests.bench.lib_cas import source_text
from tests.bench.mounts import Mount
from tests.bench.plan import Plan

_MEGABYTE = 1 << 20

_STATTER = """
import ctypes, struct, sys, time, threading
libc = ctypes.CDLL(None, use_errno=True)
name, size = sys.argv[1].encode(), int(sys.argv[2])
buffer = ctypes.create_string_buffer(256)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
taken, wrong = [], 0
clock = time.perf_counter
print("ready", flush=True)
next_ = clock()
while not stop.is_set():
    next_ += 0.001
    start = clock()
    failed = libc.statx(-100, name, 0x2000, 0x7ff, buffer)
    taken.append(clock() - start)
    wrong += failed != 0 or struct.unpack_from("<Q", buffer, 40)[0] != size
    left = next_ - clock()
    if left > 0:
        time.sleep(left)
    else:
        next_ = clock()
print(wrong)
print(" ".join("%.1f" % (each * 1e6) for each in taken))
"""


def stats_during(mount: Mount, work: Callable[[], None]) -> tuple[list[float], bool]:
    """Microseconds of every stat while `work` runs, and whether all were right."""
    target = mount.point / "target"
    process = subprocess.Popen(
        (sys.executable, "-c", _STATTER, os.fspath(target), str(target.stat().st_size)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdout.readline()
        work()
        said = process.communicate(timeout=60)[0].splitlines()
    except BaseException:
        process.kill()
        process.wait()
        raise
    taken = [float(word) for word in said[1].split()]
    return taken, int(said[0]) == 0 and len(taken) > 10


def wait(seconds: float) -> Callable[[], None]:
    """Work that is none."""

    def work() -> None:
        threading.Event().wait(seconds)

    return work


def _write(mount: Mount, name: str, size: int, seed: int) -> tuple[bytes, bytes]:
    """A file of half text, half noise, `size` bytes about. Its first and last 64 bytes."""
    random_ = random.Random(seed)
    text = source_text(8 << 20)
    first = last = b""
    with open(mount.point / name, "wb", buffering=0) as file:
        for _ in range(max(1, size // _MEGABYTE)):
            at = random_.randrange(len(text) - _MEGABYTE)
            piece = text[at : at + _MEGABYTE // 2] + random_.randbytes(_MEGABYTE // 2)
            file.write(piece)
            first = first or piece[:64]
            last = piece[-64:]
    return first, last


def _rows(what: str, quiet: list[float], busy: list[float], bound: float | None, right: bool) -> list[Figure]:
    added = (quantile(busy, 0.999) - quantile(quiet, 0.999)) / 1000
    name = "MNT stat at 1 kHz, p99.9"
    return [
        quantile_figure(f"{name}, undisturbed ({len(quiet)})", quiet, 0.999, "us", verified=right),
        quantile_figure(f"{name}, {what} ({len(busy)})", busy, 0.999, "us", verified=right),
        figure(f"MNT stat at 1 kHz, p50, {what}", busy, "us", verified=right),
        figure(f"{name} added, {what}", [added], "ms", below=bound, verified=right),
    ]


def _compaction(plan: Plan, mount: Mount) -> list[Figure]:
    quiet: list[float] = []
    busy: list[float] = []
    took: list[float] = []
    right = True
    for number in range(plan.rounds):
        mount.idle()
        taken, fine = stats_during(mount, wait(plan.stall_s))
        quiet += taken
        right = right and fine
        name = f"bulk-{number}"
        first, last = _write(mount, name, plan.busy_bytes, number)
        before = int(str(mount.status()["cuts"]))
        start = time.perf_counter()
        taken, fine = stats_during(mount, lambda: _settle(mount))
        took.append(time.perf_counter() - start)
        busy += taken
        status = mount.status()
        right = right and fine and int(str(status["cuts"])) > before
        with open(mount.point / name, "rb") as file:
            right = right and file.read(64) == first
            file.seek(-64, os.SEEK_END)
            right = right and file.read() == last
    what = f"compaction of {plan.busy_bytes // 1_000_000} MB"
    rows = _rows(f"during {what}", quiet, busy, 2.0, right)
    return [*rows, figure(f"MNT {what}", took, "s", durability="power", verified=right)]


def _settle(mount: Mount) -> None:
    mount.settle()


def _cold_reads(plan: Plan, mount: Mount) -> list[Figure]:
    """One process reads a file that only packs hold, their pages dropped, while another stats."""
    first, last = _write(mount, "cold", plan.busy_bytes, 99)
    mount.settle()
    quiet: list[float] = []
    busy: list[float] = []
    right = True
    for _ in range(plan.rounds):
        mount.close()
        mount.start()
        taken, fine = stats_during(mount, wait(plan.stall_s))
        quiet += taken
        right = right and fine
        os.sync()
        for pack in (mount.store / "packs").iterdir():
            with pack.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        ends: list[bytes] = []
        taken, fine = stats_during(mount, lambda ends=ends: _read(mount, ends))  # type: ignore[misc]
        busy += taken
        right = right and fine and ends == [first, last]
    return _rows("beside cold reads", quiet, busy, 2.0, right)


def _read(mount: Mount, ends: list[bytes]) -> None:
    with open(mount.point / "cold", "rb", buffering=0) as file:
        piece = last = file.read(_MEGABYTE)
        ends.append(piece[:64])
        while piece:
            last = piece
            piece = file.read(_MEGABYTE)
        ends.append(last[-64:])


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    mount = Mount(plan.directory / "stall")
    try:
        mount.start()
        (mount.point / "target").write_bytes(b"x" * 1234)
        return [*_compaction(plan, mount), *_cold_reads(plan, mount)]
    finally:
        mount.close()
