"""What others' filesystems take, from DESIGN section 7: one machine, one run, 1,502 files of Go source.

Seconds; None: the program failed. `native` is the lower figure of the ext4 column: dividing by it favours them
least when ext4 varied.
"""

from __future__ import annotations

from typing import Final, NamedTuple

TO_BEAT: Final = ("BranchFS", "AgentFS", "S3QL")
FOR_ORIENTATION: Final = ("passthrough_hp", "memfs_ll")
PASSTHROUGH_OVER_TMPFS: Final = "passthrough over tmpfs"


class Published(NamedTuple):
    """One row: the native filesystem's lower figure, and the others' by name."""

    native: float
    others: dict[str, float | None]


def _row(native: float, *others: float | None) -> Published:
    return Published(native, dict(zip((*TO_BEAT, *FOR_ORIENTATION), others, strict=True)))


TABLE: Final[dict[str, Published]] = {
    "untar": _row(0.4, 3.2, 2.0, 2.1, 1.3, 0.38),
    "find, warm": _row(0.006, 0.38, 0.038, 0.097, 0.009, 0.099),
    "grep -r, warm": _row(0.015, 0.63, 0.34, 0.36, 0.18, 0.27),
    "git init + add + commit": _row(0.7, None, 3.7, 3.8, 2.6, None),
    "git status, warm": _row(0.006, None, 0.043, 0.20, 0.012, 0.007),
    "git checkout of all": _row(1.0, None, 2.2, 2.7, 2.1, None),
    "cp -a inside": _row(1.3, 5.5, 5.2, 16.7, 3.1, 1.05),
    "rm -rf": _row(0.08, 0.46, 1.5, 4.2, 0.47, 0.11),
    "creates of 4 KiB": _row(0.1, 1.2, 0.89, 1.8, 0.64, 0.16),
    "open+read+close, warm": _row(0.009, 0.69, 0.24, 0.16, 0.15, 0.21),
    "sequential write": _row(0.3, 0.50, 1.4, 0.95, 0.42, 0.22),
    "SQLite transactions, WAL": _row(0.06, 0.10, 0.13, 0.17, 0.13, 0.06),
}
EXCEPTED: Final = frozenset(("SQLite transactions, WAL",))
"""Rows in which this transport need not be ahead."""
