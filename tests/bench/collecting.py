"""MNT figures of garbage collection: a stat at 1 kHz while dead chunks are collected, and what the disk gives back.

The dead chunks are the data runs of a sparse file; a file that lives lies in the same packs, so that packs are
removed and rewritten, too. After each collection the counts, the disk use and the living file are checked.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from tests.bench.figures import Figure, figure, quantile_figure
from tests.bench.mounts import Mount, heliosfs
from tests.bench.plan import Plan
from tests.bench.stall import stats_during, wait

_RUN_BYTES = 300
_STRIDE = 8192
_LIVE_BYTES = 1 << 20
"""Little beside the garbage of the short form, too: packs with less than 5 % of garbage are left as they are."""
_DELAY_MAX_MS = 50.0


def _pack_bytes(store: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(store / "packs"))


def _garbage(mount: Mount, count: int, seed: int) -> None:
    """A file of `count` distinct chunks of 300 bytes, stored and removed."""
    path = mount.point / "garbage"
    dice = random.Random(seed)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        for number in range(count):
            os.pwrite(fd, dice.randbytes(_RUN_BYTES), number * _STRIDE)
    finally:
        os.close(fd)
    mount.settle()
    path.unlink()


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    mount = Mount(plan.directory / "collecting", "gc=manual")
    count = plan.dead_chunks
    quiet: list[float] = []
    busy: list[float] = []
    took: list[float] = []
    waste: list[float] = []
    right = True
    try:
        mount.start()
        (mount.point / "target").write_bytes(b"x" * 1234)
        live = random.Random(1).randbytes(_LIVE_BYTES)
        (mount.point / "live").write_bytes(live)
        for number in range(plan.rounds):
            _garbage(mount, count, number)
            mount.idle()
            taken, fine = stats_during(mount, wait(plan.stall_s))
            quiet += taken
            right = right and fine
            full = _pack_bytes(mount.store)
            replies: list[dict[str, object]] = []

            def collect(replies: list[dict[str, object]] = replies) -> None:
                began = time.perf_counter()
                replies.append(heliosfs("-C", mount.point, "gc"))
                took.append(time.perf_counter() - began)

            taken, fine = stats_during(mount, collect)
            busy += taken
            reply = replies[0]
            freed, kept = reply["freed_chunks"], reply["live_bytes"]
            assert isinstance(freed, int) and isinstance(kept, int)
            right = right and fine and freed >= count and reply["stopped"] is None
            right = right and _pack_bytes(mount.store) < full and (mount.point / "live").read_bytes() == live
            packs = sum(entry.stat().st_size for entry in os.scandir(mount.store / "packs"))
            waste.append(packs / kept - 1)
    finally:
        mount.close()
    what = f"gc of {count:,} dead chunks"
    milliseconds = [each / 1000 for each in busy]
    return [
        quantile_figure(f"MNT stat at 1 kHz, longest, before ({len(quiet)})", quiet, 1.0, "us", verified=right),
        quantile_figure(
            f"MNT stat at 1 kHz, longest, {what} ({len(busy)})",
            milliseconds,
            1.0,
            "ms",
            below=_DELAY_MAX_MS,
            verified=right,
        ),
        quantile_figure(f"MNT stat at 1 kHz, p99.9, {what}", busy, 0.999, "us", verified=right),
        figure(f"MNT {what}", took, "s", durability="power", verified=right),
        figure(f"MNT packs beyond what lives, after {what}", waste, "", below=0.10, verified=right),
    ]
