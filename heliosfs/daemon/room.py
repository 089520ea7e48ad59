"""How much memory there is for a mount, and what it leaves out where that is little.

With the defaults a busy mount's processes take some 250 MB. In a container that may have 200 the kernel ends one
of them again and again: nothing is lost, but no cut is ever done, and the log grows. Imports the standard library
alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from heliosfs.daemon.options import MountOptions

AMPLE: Final = 512 << 20
"""Bytes with which nothing has to be left out."""
_LITTLE_MEMORY: Final = 32 << 20


def fitted(options: MountOptions, limit: int) -> MountOptions:
    """The options with what was not asked for chosen by the memory there is: little of it, and no process follows
    (a death then takes as long as replaying the log), and caches are small.

    Args:
        limit: Bytes.
    """
    ample = limit >= AMPLE
    return replace(
        options,
        follow=ample if options.follow is None else options.follow,
        memory_bytes=_LITTLE_MEMORY if options.memory_bytes is None and not ample else options.memory_bytes,
    )


def memory_limit(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that this process and those it starts may have: the machine's, or its control groups' limit.

    Source: cgroups(7), of both versions; groups that can't be seen from here do not count.
    """
    limits = [_total(proc / "meminfo")]
    for directory, name in _groups(proc / "self/cgroup", cgroups):
        try:
            limits.append(int((directory / name).read_text()))
        except (OSError, ValueError):  # "max" is none.
            continue
    return min(limits)


def _total(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return AMPLE


def _groups(listed: Path, cgroups: Path) -> Iterator[tuple[Path, str]]:
    """Our groups and those above them, each with the name of the file that has its limit."""
    try:
        lines = listed.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            top, name = cgroups / "memory", "memory.limit_in_bytes"
        elif not controllers:
            top, name = cgroups, "memory.max"
        else:
            continue
        group = top / path.lstrip("/")
        while group != top:
            yield group, name
            group = group.parent
        yield top, name
