"""Who belongs to a group: asked where the kernel leaves the set-group-ID bit to the filesystem.

A request names one group of its caller's; the others are in /proc. Must not know: what for.
"""

from __future__ import annotations

from heliosfs.filesystem.types import Caller


def is_member(caller: Caller, gid: int) -> bool:
    """Whether who asks is in a group. May read /proc, about 40 us: for rare requests alone.

    Of a process outside of our pid namespace (pid 0), and of one that is gone, the further groups can't be known
    and count as none.
    """
    return caller.gid == gid or (caller.pid != 0 and gid in _further_groups(caller.pid))


def _further_groups(pid: int) -> frozenset[int]:
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith(b"Groups:"):
                    return frozenset(map(int, line.split()[1:]))
    except OSError:
        pass
    return frozenset()
