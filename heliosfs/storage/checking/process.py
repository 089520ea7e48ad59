"""The process that checks a store beside its daemon: reads, hashes, tells, and changes nothing.

The daemon's interpreter must not spend a check's time, so it is a process of its own, at the lowest priority
(nice 19, idle I/O class), that ends with the daemon. It tells on standard output, one JSON object a line:
{"step": [stage, done, of]}, {"opened": true}, {"bytes": n}, and last {"report": {...}} or {"error": "..."}.

A daemon at work moves things meanwhile: what is found damaged is looked at again, and counts only if it is
found a second time. Must not know: who reads what it tells.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

from heliosfs.storage.checking.findings import Report
from heliosfs.storage.checking.verify import verify
from heliosfs.storage.errors import StoreError

PASSES: Final = 3
_PR_SET_PDEATHSIG: Final = 1
_NICE: Final = 19
_IOPRIO_SET: Final = 251
"""Number of the system call on x86-64 and, as 30, on arm64; a refusal costs nothing but politeness."""
_IOPRIO_SET_ARM: Final = 30
_IOPRIO_IDLE: Final = 3 << 13
_TELL_S: Final = 0.2


class Rate:
    """A Pace: at most so many bytes a second, and word of how many there were.

    Args:
        bytes_per_second: 0 for no limit.
        silent: Tell nobody.
    """

    def __init__(self, bytes_per_second: int, *, silent: bool = False) -> None:
        self._silent = silent
        self._limit = bytes_per_second
        self._began = time.monotonic()
        self._done = 0
        self._told = 0.0

    def __call__(self, read_bytes: int) -> None:
        self._done += read_bytes
        now = time.monotonic()
        if self._limit:
            ahead = self._done / self._limit - (now - self._began)
            if ahead > 0.01:
                time.sleep(ahead)
        if not self._silent and now - self._told > _TELL_S:
            self._told = now
            _tell(bytes=self._done)


class _Steps:
    def __init__(self) -> None:
        self._told = 0.0
        self._stage = ""

    def __call__(self, stage: str, done: int, of: int) -> None:
        now = time.monotonic()
        if stage != self._stage or now - self._told > _TELL_S:
            self._stage, self._told = stage, now
            _tell(step=[stage, done, of])


def main(words: list[str]) -> int:
    """Check the store that the arguments name: its directory, bytes a second (0: all), the daemon's pid."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    store, rate, parent = words
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        return 0
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # Whoever serves may have another.
    os.nice(_NICE)
    libc.syscall(_IOPRIO_SET if os.uname().machine == "x86_64" else _IOPRIO_SET_ARM, 1, 0, _IOPRIO_IDLE)
    try:
        _tell(report=_confirmed(Path(store), Rate(int(rate))).as_dict())
    except (StoreError, OSError) as error:
        _tell(error=str(error))
        return 1
    return 0


def _confirmed(store: Path, pace: Rate) -> Report:
    """The result of a check, of a second one where the first found something."""
    steps = _Steps()
    before: set[tuple[str, str]] | None = None
    report = Report()
    for _ in range(PASSES):
        report = verify(store, pace=pace, step=steps, opened=lambda: _tell(opened=True)).report
        if report.clean:
            break
        found = {(finding.kind.value, finding.object_id) for finding in report.findings}
        if before is not None:
            report.findings = [each for each in report.findings if (each.kind.value, each.object_id) in before]
            if report.complete or found == before:
                break
        before = found
    return report


def _tell(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
