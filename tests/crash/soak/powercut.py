"""Power cuts, and disks that fail: stores on a lossy filesystem, opened again after each.

After a cut the store must show the state at one position of the log: every operation whose record ends
there or before, no other; and that position is none before one that was claimed to be durable. Lives that
end by SIGKILL come in between: what they leave must not be taken for durable by the next.
Must not know: what the operations do.
"""

from __future__ import annotations

import errno
import random
import shutil
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.soak.client import Served, Wrong, applied
from tests.crash.soak.compare import differences
from tests.crash.soak.cycles import WRITE_MAX
from tests.crash.soak.dice import Dice
from tests.crash.soak.journal import Journal
from tests.crash.soak.model import Made, Model, Operation
from tests.crash.soak.server import Life
from tests.support.lossy.mounted import Lossy

_RENEW = 40
_HOWS = ("lost", "ordered", "reordered", "torn", "torn")
_OFF = frozenset((errno.EIO, errno.EROFS, errno.ENOSPC))
"""A short append, because the power went in the middle of it, looks like a full disk."""
_WHERE = (
    ("fsync", "store/log/*"),
    ("write", "store/log/*"),
    ("fsync", "store/db/*"),
    ("write", "store/db/*"),
    ("create", "store/db/*"),
    ("rename", "store/db/*"),
    ("fsyncdir", "store/db"),
    ("fsync", "store/packs/*"),
    ("write", "store/packs/*"),
    ("create", "store/packs/*"),
    ("create", "store/log/*"),
    ("fsyncdir", "*"),
    ("unlink", "*"),
    ("*", "*"),
)
"""Operations at which the power goes, and files."""


@dataclass
class CutTotals:
    """What was done.

    Attributes:
        at_operation: Cuts at a chosen operation, by its kind; the others came at random instants.
        beyond: Operations that survived though nothing had claimed so.
        gone: Operations that were lost, none of them claimed durable.
        kept: Operations that were claimed durable, all of them found.
    """

    cuts: int = 0
    kills: int = 0
    opening: int = 0
    acked: int = 0
    stores: int = 0
    kept: int = 0
    beyond: int = 0
    gone: int = 0
    writes: int = 0
    names: int = 0
    torn: int = 0
    at_operation: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        return (
            f"{self.cuts} power cuts ({self.at_operation.total()} at chosen operations, {self.opening} while "
            f"opening; {self.writes} writes and {self.names} names lost, {self.torn} torn), {self.kills} kills "
            f"between, {self.acked} operations answered: {self.kept} durable and there, {self.beyond} more there, "
            f"{self.gone} not durable and gone, {self.stores} stores"
        )


class Cuts:
    """Cuts the power under servers of one store after another.

    Args:
        seed: Decides everything but the instants.
        directory: For scratch files and what servers say.
        lossy: Where the stores are.
    """

    def __init__(self, seed: int, directory: Path, lossy: Lossy, clients: int = 3) -> None:
        self.totals = CutTotals()
        self.tail: deque[str] = deque(maxlen=120)
        self._seed = seed
        self._dice = random.Random(f"cuts {seed}")
        self._clients = clients
        self._lossy = lossy
        self._journal = Journal()
        self._directory = directory
        self._said = directory / "said"
        self._model = Model()
        self._base = Model()
        self._history: list[tuple[int, Operation, Made]] = []
        self._doubtful: Operation | None = None
        self._durable = 0
        self._first = 0
        self._cut = False

    def run(self, cuts: int, report: float = 30.0) -> None:
        """Until the power was cut so often. Raises Wrong."""
        next_report = time.monotonic() + report
        while self._done() < cuts:
            self._store(min(_RENEW, cuts - self._done()))
            if time.monotonic() > next_report:
                next_report = time.monotonic() + report
                print(self.totals.line(), flush=True)

    def _store(self, cuts: int) -> None:
        totals = self.totals
        totals.stores += 1
        self._lossy.renew()
        scratch = self._directory / "scratch"
        scratch.mkdir()
        self._model, self._base = Model(), Model()
        self._history, self._doubtful, self._durable, self._first, self._cut = [], None, 0, 0, False
        clients = [
            Dice(f"{self._seed} {totals.stores} {n}", n, self._model, WRITE_MAX, scratch)
            for n in range(1, self._clients + 1)
        ]
        wanted = self._done() + cuts
        while self._done() < wanted:
            self._life(clients)
        shutil.rmtree(scratch)

    def said(self) -> str:
        """What servers wrote to standard error."""
        return self._said.read_text(errors="replace") if self._said.exists() else ""

    def _done(self) -> int:
        return self.totals.cuts

    # --- one life ------------------------------------------------------------------------------------

    def _life(self, clients: list[Dice]) -> None:
        dice, lossy = self._dice, self._lossy
        rule: dict[str, Any] | None = None
        if dice.random() < 0.6:
            operation, path = dice.choice(_WHERE)
            skip = dice.randrange(60) if operation in ("write", "*") else dice.choice((0, 0, 1, 2, 3, 6))
            rule = {"operation": operation, "path": path, "skip": skip, "times": 1, "cut": True}
        life = Life(
            lossy.root / "store",
            segment_bytes=dice.choice((1 << 16, 1 << 17)),
            log_bytes=dice.choice((1 << 19, 1 << 20)),
            commit_s=dice.choice((0.005, 0.02, 1.0)),
            quiet_s=dice.choice((0.0, 0.003, 0.02)),
        )
        self.tail.append(f"--- life: {life}, the power goes at {rule}")
        lossy.rules(*([rule] if rule else []))
        served = self._serve(life, clients)
        served.failures_allowed = _OFF if rule else frozenset()
        served.may_fail = bool(rule)
        served.stop_when_refused = True
        try:
            found = served.ready()
            if found is None:
                self._over(served, rule, opening=True)
                return
            self._settle(found[0], served, clients)
            self._compare(served)
            if self._base is self._model:
                self._base = self._model.copy()
            if served.alive:
                served.run(dice.randrange(1, 20) if dice.random() < 0.4 else dice.randrange(1, 90))
            if rule is None and dice.random() < 0.3:
                self._kill(served)
            else:
                self._over(served, rule)
        finally:
            if served.alive:
                served.may_fail = True
                served.kill()
            lossy.rules()

    def _serve(self, life: Life, clients: list[Dice]) -> Served:
        for dice in clients:
            dice.use(self._model)
        return Served(life, self._journal, clients, self._model, self._said, self.tail)

    def _kill(self, served: Served) -> None:
        served.kill()
        self.totals.kills += 1
        self._remember(served)

    def _over(self, served: Served, rule: dict[str, Any] | None, *, opening: bool = False) -> None:
        """The power goes, if it has not gone by itself."""
        dice, totals = self._dice, self.totals
        off = self._lossy.state()["off"]
        if opening and not off:
            served.may_fail = False
            served.wait()
            raise Wrong("the server ended while it opened the store")
        how = dice.choice(_HOWS)
        seed = dice.randrange(1 << 32)
        served.failures_allowed, served.may_fail = _OFF, True
        lost = self._lossy.cut(how, seed)
        if served.alive:
            served.kill()
        self.tail.append(f"--- the power is off: {how}, {lost}")
        totals.cuts += 1
        totals.opening += opening
        totals.writes += lost["writes"]
        totals.names += lost["names"]
        totals.torn += lost["torn"]
        if off and rule:
            totals.at_operation[f"{rule['operation']} {rule['path']}"] += 1
        self._remember(served, cut=True)

    def _remember(self, served: Served, *, cut: bool = False) -> None:
        self.totals.acked += served.acked
        self._history += served.happened()
        self._first = max(served.first, self._first)
        self._durable = max(served.durable, self._durable)
        self._cut = cut
        if served.first:
            self._doubtful = served.doubtful[2] if served.doubtful is not None else None

    # --- what is found -------------------------------------------------------------------------------

    def _settle(self, end: int, served: Served, clients: list[Dice]) -> None:
        """Make the model what the log ends with, and see that this is late enough."""
        last = self._history[-1][0] if self._history else 0
        needed = max((at for at, _, _ in self._history if at <= self._durable or not self._cut), default=0)
        if end < needed:
            raise Wrong(f"the log ends at {end}; what ended at {needed} was to survive (durable: {self._durable})")
        found = [step for step in self._history if step[0] <= end]
        if self._doubtful is not None and end > max(last, self._first):
            found.append((end, self._doubtful, None))
            self.tail.append(f"the operation under way is there: {self._doubtful}")
        self._doubtful = None
        if not self._cut:
            if len(found) > len(self._history):
                end, operation, _ = found[-1]
                found[-1] = (end, operation, applied(self._model, operation))
            self._history = found
            return
        self._cut = False
        kept = sum(at <= self._durable for at, _, _ in self._history)
        self.totals.kept += kept
        self.totals.beyond += len(found) - kept
        self.totals.gone += len(self._history) - len(found) if len(found) < len(self._history) else 0
        for _, operation, made in found:
            applied(self._base, operation, made)
        self._model = served.model = self._base
        self._history, self._durable, self._first = [], 0, 0
        for dice in clients:
            dice.use(self._model)

    def _compare(self, served: Served) -> None:
        answer = served.shown(-1 if self._dice.random() < 0.4 else self.totals.cuts)
        if answer is None or self._lossy.state()["off"]:
            return
        wrong, shown = answer
        wrong = wrong or differences(served.model, shown)
        if wrong:
            raise Wrong("\n".join(wrong[:20]))
