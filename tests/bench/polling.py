"""How long the daemon should look for the next request before it sleeps: the same steps with several limits.

One mount for each limit, all at once, asked in turn: first with nothing else to do, then with every core busy. Each
is served by the daemon as it is, told another limit; 0 is one that sleeps at once. What was made is checked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.bench.figures import Figure, figure
from tests.bench.mounts import Mount, transport
from tests.bench.plan import Plan
from tests.support.crowd import crowd

LIMITS_US: Final = (0, 50, 100, 200, 400, 800)
_START_S: Final = 30
_PIECE: Final = b"sixteen bytes..." * 256

_DAEMON: Final = """
import sys
from heliosfs.transport import polling
limit_s = int(sys.argv[1]) / 1e6
polling.AWAKE_S = limit_s
polling.STEP_S = min(polling.STEP_S, limit_s)
if not limit_s:
    polling._CREDIT_MAX = 0
from heliosfs.cli.main import main
sys.argv = ["heliosfs", "mount", "-f", *sys.argv[2:]]
main()
"""


@contextmanager
def _served(directory: Path, limit_us: int) -> Iterator[Path]:
    """A mount whose daemon looks for so long."""
    mount = Mount(directory)
    options = f"supervised=no,transport={transport()}"
    command = [sys.executable, "-c", _DAEMON, str(limit_us), "-o", options, mount.store, mount.point]
    with (directory / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + _START_S
        while not os.path.ismount(mount.point):
            if daemon.poll() is not None or time.monotonic() > end:
                raise OSError(f"no mount: {(directory / 'log').read_text()}")
            time.sleep(0.05)
        yield mount.point
    finally:
        mount.close()
        daemon.wait(_START_S)


def _creates(top: Path, count: int) -> float:
    """Microseconds for a new file of 4 KiB."""
    top.mkdir()
    start = time.perf_counter()
    for number in range(count):
        fd = os.open(top / f"f{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, _PIECE)
        os.close(fd)
    return (time.perf_counter() - start) / count * 1e6


def _changes(top: Path, count: int) -> float:
    """Microseconds for a chmod(2): one request."""
    start = time.perf_counter()
    for number in range(count):
        os.chmod(top / f"f{number}", 0o600)
    return (time.perf_counter() - start) / count * 1e6


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    count = max(plan.loose_files // 4, 10)
    limits = LIMITS_US[:2] if plan.short else LIMITS_US
    taken: dict[tuple[str, str, int], list[float]] = {}
    right = dict.fromkeys(limits, True)
    with ExitStack() as stack:
        points = {limit: stack.enter_context(_served(plan.directory / f"poll-{limit}", limit)) for limit in limits}
        for number in range(plan.rounds * 2):
            turn = number % len(limits)
            for beside in ("", ", every core busy"):
                with crowd(os.cpu_count() or 1) if beside else ExitStack():
                    for limit in (*limits[turn:], *limits[:turn]):
                        top = points[limit] / f"{number}{len(beside)}"
                        taken.setdefault(("create + write + close", beside, limit), []).append(_creates(top, count))
                        taken.setdefault(("chmod", beside, limit), []).append(_changes(top, count))
                        made = [path.stat() for path in top.iterdir()]
                        good = len(made) == count and all(
                            status.st_size == len(_PIECE) and status.st_mode & 0o777 == 0o600 for status in made
                        )
                        right[limit] = right[limit] and good
    return [
        figure(f"MNT {step}, polls for {limit} us{beside}", samples, "us", durability="kill", verified=right[limit])
        for (step, beside, limit), samples in sorted(taken.items())
    ]
