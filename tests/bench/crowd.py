"""MNT figures of a crowded host: what a client's calls take beside programs that compute on every core.

Each call on a FUSE filesystem waits twice for a processor, for the server's and for the caller's; one on a local
filesystem for none. The programs are loops in sessions of their own, as those of other sandboxes are. Ratios to the
local filesystem, taken in turn; everything that was made is checked.

With nothing beside, a wait is that for a core that has halted: the same without asking for quick wake-ups, and the
pass-through while somebody else does (transport/waking.py), show what that makes of it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from heliosfs.transport.waking import WakeUps
from tests.bench.figures import Figure, figure
from tests.bench.grounds import NATIVE, PASS_THROUGH, grounds
from tests.bench.mounts import mounted
from tests.bench.plan import Plan
from tests.support.crowd import crowd

_LOOPS_PER_CORE: Final = (0, 1, 3)
_MODEST: Final = "heliosfs, realtime=no"
_SLEEPY: Final = "heliosfs, pm_qos=no"
_KEPT_AWAKE: Final = f"{PASS_THROUGH}, cores kept awake"
_PIECE: Final = b"sixteen bytes..." * 256


def _client(top: Path, count: int) -> tuple[float, bool]:
    """Microseconds for create + write of 4 KiB + close + stat, and whether all of it is there."""
    top.mkdir()
    start = time.perf_counter()
    for number in range(count):
        fd = os.open(top / f"f{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, _PIECE)
        os.close(fd)
        os.stat(top / f"f{number}")
    taken = (time.perf_counter() - start) / count * 1e6
    right = len(os.listdir(top)) == count and all(path.read_bytes() == _PIECE for path in top.iterdir())
    shutil.rmtree(top)
    return taken, right


@contextmanager
def _kept_awake() -> Iterator[None]:
    """Cores wake up as quickly as beside a mount of ours under load."""
    wake_ups = WakeUps()
    wake_ups.hasten()
    try:
        yield
    finally:
        wake_ups.close()


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    count = max(plan.loose_files // 5, 10)
    cores = os.cpu_count() or 1
    taken: dict[tuple[str, int], list[float]] = {}
    right: dict[str, bool] = {}
    with ExitStack() as stack:
        peers = tuple(name for name in (PASS_THROUGH,) if plan.peers is None or name in plan.peers)
        (plan.directory / "crowd").mkdir()
        found = stack.enter_context(grounds(plan.directory / "crowd", peers))
        places = {ground.name: ground.directory for ground in found}
        places[_MODEST] = stack.enter_context(mounted(plan.directory / "modest", "realtime=no")).point
        places[_SLEEPY] = stack.enter_context(mounted(plan.directory / "sleepy", "pm_qos=no")).point
        if PASS_THROUGH in places:
            places[_KEPT_AWAKE] = places[PASS_THROUGH]
        for number in range(plan.rounds * 2):
            for each in _LOOPS_PER_CORE:
                with crowd(each * cores):
                    for name in (*list(places)[number % len(places) :], *list(places)[: number % len(places)]):
                        with _kept_awake() if name == _KEPT_AWAKE else ExitStack():
                            spent, good = _client(places[name] / f"c{number}-{each}", count)
                        taken.setdefault((name, each), []).append(spent)
                        right[name] = right.get(name, True) and good
    rows = []
    for each in _LOOPS_PER_CORE:
        beside = f"create + write + stat beside {each * cores} loops"
        native = taken[NATIVE, each]
        for name in places:
            samples = taken[name, each]
            rows.append(figure(f"MNT {beside}, {name}", samples, "us", durability="kill", verified=right[name]))
            if name != NATIVE:
                ratios = [a / b for a, b in zip(samples, native, strict=True)]
                rows.append(
                    figure(f"MNT {beside}, {name} / native", [statistics.median(ratios)], "x", verified=right[name])
                )
    return rows
