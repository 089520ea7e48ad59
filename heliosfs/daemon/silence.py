"""Why a process says nothing: because it hangs, or because it waits for the host as any program would.

A worker that hangs is to be killed; one that waits in the kernel for a lock that only its own answer frees takes
an abort of its connections. Neither helps where a disk does not answer or no processor is to be had: its successor
would wait as well, and programs on a local filesystem would just wait. Imports the standard library alone.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

GLANCE_S: Final = 0.3
_BUSY: Final = 0.5
"""Of a processor: who gets less, though he could use one, is kept from it by others."""


def waits_for_the_host(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process that is silent, or does not die, waits for a disk or for a processor. Takes GLANCE_S.

    False for one that sleeps, loops or is stopped, and for one of whom a thread waits in FUSE: that is ours to end.
    Who may not look (not root) is told False where it waits in the kernel.
    """
    before = _threads(proc, pid)
    time.sleep(GLANCE_S)
    after = _threads(proc, pid)
    if any(state == "D" and "fuse" in stack for state, _, stack in after.values()):
        return False
    for thread, (state, ran_ns, stack) in after.items():
        if state == "D" and stack:
            return True
        started_ns = before.get(thread, ("", ran_ns, ""))[1]
        if state == "R" and ran_ns - started_ns < _BUSY * GLANCE_S * 1e9:
            return True
    return False


def work_of(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Nanoseconds for which a process has run; None where a thread of it runs, or waits for a processor or a disk.

    The same twice in a row: it has done nothing meanwhile, and waits for nothing that would excuse it.
    """
    found = _threads(proc, pid).values()
    if any(state == "R" or (state == "D" and "fuse" not in stack) for state, _, stack in found):
        return None
    return sum(ran_ns for _, ran_ns, _ in found)


def dies(pid: int, pidfd: int, patience_s: float, excused_s: float, waiting: Callable[[], None]) -> bool:
    """Wait for the end of a process that was SIGKILLed. False: it waits for something that no signal ends.

    Args:
        patience_s: How long it may take, and `excused_s` where it waits for the host.
        waiting: Called every `patience_s`.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    until = time.monotonic() + excused_s
    while not poll.poll(patience_s * 1000):
        waiting()
        if time.monotonic() >= until or not waits_for_the_host(pid):
            return False
    return True


def _threads(proc: Path, pid: int) -> dict[str, tuple[str, int, str]]:
    """State, nanoseconds on a processor, and kernel stack ("" where it can't be had) of each thread."""
    found = {}
    try:
        names = os.listdir(proc / f"{pid}/task")
    except OSError:
        return {}
    for name in names:
        directory = proc / f"{pid}/task/{name}"
        try:
            state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
            ran_ns = int((directory / "schedstat").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            continue
        try:
            stack = (directory / "stack").read_text()
        except OSError:
            stack = ""
        found[name] = (state, ran_ns, stack)
    return found
