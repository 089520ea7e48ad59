"""What our own session is to reach in each step of the workload, against what others take in the same round.

From DESIGN section 7 and the native session's goals; a row whose peer is not installed has no verdict.
Must not know: how a step is measured.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.bench.grounds import IN_MEMORY, NATIVE, PASS_THROUGH


class Target(NamedTuple):
    """At most `factor` times the seconds of `peer`."""

    peer: str
    factor: float


_LIKE_NATIVE: Final = Target(NATIVE, 1.3)
_HALF: Final = Target(PASS_THROUGH, 0.5)

TARGETS: Final[dict[str, Target]] = {
    "untar": _HALF,
    "find, warm": _LIKE_NATIVE,
    "grep -r, warm": _LIKE_NATIVE,
    "grep -r, warm, again": _LIKE_NATIVE,
    "git init + add + commit": _HALF,
    "git status, warm": _LIKE_NATIVE,
    "git checkout of all": _HALF,
    "cp -a inside": Target(IN_MEMORY, 1.0),
    "rm -rf": _HALF,
    "creates of 4 KiB": _HALF,
    "stat, warm": _LIKE_NATIVE,
    "open+read+close, warm": _LIKE_NATIVE,
    "sequential write": _LIKE_NATIVE,
    "sequential read, warm": Target(PASS_THROUGH, 1.2),
    "SQLite transactions, WAL": Target(NATIVE, 2.0),
    "SQLite transactions, DELETE": Target(NATIVE, 2.0),
    "pip install of a wheel": _HALF,
    "python imports, warm": _LIKE_NATIVE,
}
