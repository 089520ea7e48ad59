"""Which snapshots of a branch may go: a policy, and the pure function that applies it.

As users of restic, borg and sanoid expect: a snapshot stays that any rule keeps, and rules don't see each other.
Hours, days and weeks (from Monday) are those of UTC; the newest snapshot in each stands for it, and only those that
have a snapshot count. Never given up: `base`, the one that `latest` names, the newest durable one, and all that the
policy is not about. Must not know: the log, who applies it, when.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Final, NamedTuple

from heliosfs.core.errors import FsError
from heliosfs.core.oplog import KIND_AUTO, KIND_BASE, KIND_RESTORE

COUNT_MAX: Final = 1_000_000
_HOUR_NS: Final = 3600 * 10**9
_DAY_NS: Final = 24 * _HOUR_NS
_RULES: Final[tuple[tuple[str, Callable[[int], int]], ...]] = (
    ("hourly", lambda time_ns: time_ns // _HOUR_NS),
    ("daily", lambda time_ns: time_ns // _DAY_NS),
    # 1970 began on a Thursday.
    ("weekly", lambda time_ns: (time_ns // _DAY_NS + 3) // 7),
)


@dataclass(slots=True, frozen=True)
class Retention:
    """How many snapshots a branch keeps. Counts are 0 to COUNT_MAX, not all of them 0.

    Attributes:
        keep_last: The newest so many.
        hourly, daily, weekly: The newest of each of the last so many hours, days, weeks that have one.
        match: A pattern for names as the shell has them (`*`, `?`, `[...]`), bytes of UTF-8. The policy is about
            the snapshots that it matches, whoever asked for them; b"": about automatic ones, those of an unnamed
            checkpoint and those that restore took.
    """

    keep_last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    match: bytes = b""

    def check(self) -> None:
        """Raises FsError EINVAL for a policy that keeps nothing, or counts out of range."""
        counts = (self.keep_last, self.hourly, self.daily, self.weekly)
        if not all(0 <= count <= COUNT_MAX for count in counts):
            raise FsError(errno.EINVAL, f"a retention count goes from 0 to {COUNT_MAX}")
        if not any(counts):
            raise FsError(errno.EINVAL, "a retention policy must keep something: say how many")
        if len(self.match) > 255:
            raise FsError(errno.EINVAL, "a pattern has 255 bytes at most")
        try:
            self.match.decode()
        except UnicodeDecodeError:
            raise FsError(errno.EINVAL, "a pattern is UTF-8, as names are") from None


class Candidate(NamedTuple):
    """A snapshot as a policy sees it."""

    id: int
    name: bytes
    time_ns: int
    kind: int
    durable: bool


def expired(policy: Retention, snapshots: Sequence[Candidate], latest: int) -> list[int]:
    """Ids of the snapshots that the policy gives up, oldest first. O(n log n).

    Args:
        snapshots: All of a branch.
        latest: Id of the one that `latest` names, 0 for none.
    """
    newest_first = sorted(snapshots, key=_age, reverse=True)
    kept = {latest}
    kept.update(next(([s.id] for s in newest_first if s.durable), []))
    concerned = [s for s in newest_first if _concerns(policy, s)]
    kept.update(s.id for s in concerned[: policy.keep_last])
    for rule, period_of in _RULES:
        wanted: int = getattr(policy, rule)
        periods: set[int] = set()
        for snapshot in concerned:
            period = period_of(snapshot.time_ns)
            if period not in periods:
                if len(periods) == wanted:
                    break
                periods.add(period)
                kept.add(snapshot.id)
    return [s.id for s in reversed(concerned) if s.id not in kept]


def _concerns(policy: Retention, snapshot: Candidate) -> bool:
    if snapshot.kind == KIND_BASE:
        return False
    if policy.match:
        return _pattern(policy.match).match(snapshot.name.decode("utf-8", "surrogateescape")) is not None
    return snapshot.kind in (KIND_AUTO, KIND_RESTORE)


def _age(snapshot: Candidate) -> tuple[int, int]:
    return snapshot.time_ns, snapshot.id


@lru_cache(maxsize=64)
def _pattern(match: bytes) -> re.Pattern[str]:
    return re.compile(translate(match.decode("utf-8", "surrogateescape")))
