"""Rules for operations that go wrong: by kind of operation, path pattern and count.

Must not know: what operations do.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(slots=True)
class Rule:
    """What happens to some operations.

    Attributes:
        operation: lookup, getattr, setattr, create, mkdir, unlink, rmdir, rename, open, read, write, fsync,
            fsyncdir, or * for any that changes or syncs something.
        path: Shell pattern of paths below the epoch: `log/*`, `db/*.log`, `*`.
        skip: So many that match go well first.
        times: So many are met then; 0: all.
        errno: They fail with this; 0: they don't.
        delay: They take so many seconds longer.
        short: A write stores half of its bytes and says so.
        cut: The power goes at this one, before it has any effect.
        met: Operations that matched; hit: those that went wrong.
    """

    operation: str
    path: str = "*"
    skip: int = 0
    times: int = 0
    errno: int = 0
    delay: float = 0.0
    short: bool = False
    cut: bool = False
    met: int = 0
    hit: int = 0

    def meets(self, operation: str, path: str) -> bool:
        """Whether this operation is one of them; counts it."""
        if self.operation != operation and not (self.operation == "*" and operation in CHANGING):
            return False
        if not fnmatch.fnmatchcase(path, self.path):
            return False
        self.met += 1
        hit = self.met > self.skip and (not self.times or self.met <= self.skip + self.times)
        self.hit += hit
        return hit


CHANGING = frozenset(("setattr", "create", "mkdir", "unlink", "rmdir", "rename", "write", "fsync", "fsyncdir"))
