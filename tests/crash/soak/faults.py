"""Disks that fail while a server runs: ENOSPC, EIO, short writes and slow calls, and then none of it any more.

An operation that meets a fault is answered with an errno and has not happened; everything acknowledged stays,
seen at once, after the fault, and after a kill or a power cut. When the fault is over operations go well
again; where the log had to give up writing, it is to be mended by then.
Must not know: what the operations do.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.crash.soak.client import Served, Wrong
from tests.crash.soak.dice import Dice
from tests.crash.soak.powercut import Cuts, CutTotals
from tests.crash.soak.server import Life

_ALLOWED = frozenset((errno.ENOSPC, errno.EIO, errno.EROFS))
_PATHS = ("store/log/*", "store/db/*", "store/packs/*", "*")
_FULL_PATHS = ("store/db/*", "store/packs/*")
"""Where a call may fail with ENOSPC by itself; in segments only while they are made: their blocks are theirs."""


@dataclass
class FaultTotals(CutTotals):
    """What was done.

    Attributes:
        faults: Lives with one, by kind; met: calls that it made fail or slow.
        refused: Operations that were answered with an errno.
        mended: Lives in which the log gave up writing, and went on when the fault was over, by fault.
        refused_to_open: Servers that ended with an error because a call failed while they opened the store.
    """

    faults: Counter[str] = field(default_factory=Counter)
    met: int = 0
    refused: int = 0
    refused_to_open: int = 0
    mended: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        return (
            f"{self.faults.total()} faults ({kinds}): {self.met} calls failed or slow, {self.refused} operations "
            f"refused, {self.refused_to_open} refused to open, logs mended: "
            f"{dict(self.mended) or 'none'}; {super().line()}"
        )


class Faults(Cuts):
    """As Cuts, with disks that fail first."""

    totals: FaultTotals

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.totals = FaultTotals()

    def _done(self) -> int:
        return self.totals.faults.total()

    def _life(self, clients: list[Dice]) -> None:
        dice, lossy, totals = self._dice, self._lossy, self.totals
        life = Life(
            lossy.root / "store",
            segment_bytes=dice.choice((1 << 16, 1 << 17)),
            log_bytes=dice.choice((1 << 19, 1 << 20)),
            commit_s=dice.choice((0.005, 0.02)),
            quiet_s=dice.choice((0.0, 0.003, 0.02)),
        )
        kind = self._fault()
        early = dice.random() < 0.15 and kind != "full disk"
        self.tail.append(f"--- life: {life}")
        if early:
            self._begin_fault(kind)
        served = self._serve(life, clients)
        served.failures_allowed = _ALLOWED if early else frozenset()
        served.may_fail = early
        try:
            found = served.ready()
            if found is None:
                served.wait()
                if not self._end_fault(kind):
                    raise Wrong("the server ended while it opened the store")
                totals.refused_to_open += 1
                return
            self._settle(found[0], served, clients)
            served.may_fail = False
            if not early:
                self._compare(served)
            if self._base is self._model:
                self._base = self._model.copy()
            if not early:
                served.run(dice.randrange(1, 20))
                self._begin_fault(kind)
            served.failures_allowed = _ALLOWED
            served.run(dice.randrange(5, 60))
            self._end_fault(kind)
            self._afterwards(served, kind)
            self._finish(served)
        finally:
            if served.alive:
                served.kill()
            lossy.rules()
            lossy.capacity()

    def _afterwards(self, served: Served, kind: str) -> None:
        served.drain()
        if not served.alive or (health := served.health()) is None:
            served.wait()
            raise Wrong(f"the server died of {kind}")
        if health[0] != "well":
            raise Wrong(f"{kind} is over, and the log is still read-only: {health[1]}")
        if health[1] == "mended":
            self.totals.mended[kind] += 1
        served.failures_allowed = frozenset()
        served.run(self._dice.randrange(5, 30))
        served.drain()
        self._compare(served)
        served.failures_allowed = frozenset()

    def _finish(self, served: Served) -> None:
        chance = self._dice.random()
        self.totals.refused += served.refused
        if chance < 0.2:
            served.close()
            self._remember(served)
        elif chance < 0.6:
            self._kill(served)
        else:
            self._over(served, None)

    # --- faults --------------------------------------------------------------------------------------

    def _fault(self) -> str:
        return self._dice.choice(("full disk", "ENOSPC", "EIO", "EIO of a sync", "short", "slow"))

    def _begin_fault(self, kind: str) -> None:
        dice, lossy = self._dice, self._lossy
        rule: dict[str, Any] = {"skip": dice.choice((0, 0, 1, 3, 10)), "times": dice.choice((1, 1, 2, 5, 0))}
        if kind == "full disk":
            free = dice.choice((0, 4096, 1 << 16, dice.randrange(1 << 22)))
            self.tail.append(f"--- full disk: {free} bytes left")
            lossy.capacity(lossy.state()["used"] + free)
            return
        if kind == "ENOSPC":
            operation = dice.choice(("write", "create", "setattr"))
            rule |= {"operation": operation, "path": dice.choice(_FULL_PATHS), "errno": errno.ENOSPC}
        elif kind == "EIO":
            operation = dice.choice(("write", "create", "unlink", "rename", "read", "open", "*"))
            rule |= {"operation": operation, "path": dice.choice(_PATHS), "errno": errno.EIO}
        elif kind == "EIO of a sync":
            operation = dice.choice(("fsync", "fsync", "fsyncdir"))
            path = "*" if operation == "fsyncdir" else dice.choice(_PATHS)
            rule |= {"operation": operation, "path": path, "errno": errno.EIO}
        elif kind == "short":
            rule |= {"operation": "write", "path": dice.choice(_PATHS), "short": True}
        else:
            rule |= {"operation": dice.choice(("write", "fsync")), "path": dice.choice(_PATHS), "delay": 0.05}
            rule["times"] = rule["times"] or 5
        self.tail.append(f"--- fault: {rule}")
        lossy.rules(rule)

    def _end_fault(self, kind: str) -> int:
        """The disk is well again. How many calls met the fault."""
        met = self._lossy.state()["hit"]
        self._lossy.rules()
        self._lossy.capacity()
        self.tail.append(f"--- the fault is over: {met} calls met it")
        self.totals.faults[kind] += 1
        self.totals.met += met
        return met
