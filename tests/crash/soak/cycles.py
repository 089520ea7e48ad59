"""One life of a server after another: open, compare, work, die; the store is the same all along.

Must not know: what the operations do.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.soak import seams
from tests.crash.soak.client import Served, Wrong, applied
from tests.crash.soak.compare import differences
from tests.crash.soak.dice import Dice
from tests.crash.soak.journal import Journal
from tests.crash.soak.model import Model
from tests.crash.soak.seams import Plan
from tests.crash.soak.server import Life

SEGMENTS = (1 << 16, 1 << 17, 1 << 18)
WRITE_MAX = 24_000
"""Fits the smallest segment."""

_FIRST_STEPS = ("layout.create", "layout.lock", "db.open", "log.begin", "call.begin_life", "call.preallocate")

_RENEW = 60
"""Kills after which a new store is begun: one of any age would take ever longer to compare."""


@dataclass
class Totals:
    """What a soak did.

    Attributes:
        by_step: Deaths at each labelled step; by_chance: at a random instant.
        in_worker: Worker processes that died at a step of theirs; not among the kills.
        opening: Deaths before the store was open.
    """

    kills: int = 0
    by_chance: int = 0
    opening: int = 0
    acked: int = 0
    records: int = 0
    stores: int = 0
    in_worker: Counter[str] = field(default_factory=Counter)
    by_step: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        return (
            f"{self.kills} kills ({self.by_chance} at random instants, {self.kills - self.by_chance} at "
            f"{len(self.by_step)} labelled steps, {self.opening} while opening), "
            f"{self.in_worker.total()} workers killed, {self.acked} operations answered, "
            f"{self.records} records replayed, {self.stores} stores"
        )


class Kills:
    """Kills servers of one store after another.

    Args:
        seed: Decides everything but the instants.
        directory: For stores, scratch files and what servers say.
    """

    def __init__(self, seed: int, directory: Path, clients: int = 4) -> None:
        self.seed = seed
        self.directory = directory
        self.totals = Totals()
        self.tail: deque[str] = deque(maxlen=80)
        self._dice = random.Random(f"kills {seed}")
        self._clients = clients
        self._journal = Journal()
        self._steps = seams.steps()
        self._tried: Counter[tuple[str, str]] = Counter()
        self._said = directory / "said"

    def run(self, kills: int, report: float = 30.0) -> None:
        """Until so many servers were killed. Raises Wrong."""
        next_report = time.monotonic() + report
        while self.totals.kills < kills:
            self._store(min(_RENEW, kills - self.totals.kills))
            if time.monotonic() > next_report:
                next_report = time.monotonic() + report
                print(self.totals.line(), flush=True)

    def _store(self, kills: int) -> None:
        self.totals.stores += 1
        base = self.directory / f"s{self.totals.stores}"
        scratch = base / "scratch"
        scratch.mkdir(parents=True)
        model = Model()
        clients = [
            Dice(f"{self.seed} {self.totals.stores} {n}", n, model, WRITE_MAX, scratch)
            for n in range(1, self._clients + 1)
        ]
        before: Served | None = None
        wanted = self.totals.kills + kills
        while self.totals.kills < wanted:
            life = self._life(base / "store")
            self.tail.append(f"--- life: {life}")
            for dice in clients:
                dice.use(model)
            served = Served(life, self._journal, clients, model, self._said, self.tail)
            try:
                before = self._one(life, served, before, clients)
            finally:
                if served.alive:
                    served.kill()
            if served.acked > 0:
                for entry in os.scandir(scratch):
                    shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)
        shutil.rmtree(base)

    def unreached(self) -> list[str]:
        """Labelled steps at which nothing has died yet."""
        died = self.totals.by_step + self.totals.in_worker
        return [step for label, moment in self._steps if (step := f"{moment} {label}") not in died]

    def said(self) -> str:
        """What servers wrote to standard error."""
        return self._said.read_text(errors="replace") if self._said.exists() else ""

    def _one(self, life: Life, served: Served, before: Served | None, clients: list[Dice]) -> Served | None:
        """One life. Returns whose operations the next one is to find."""
        dice = self._dice
        found = served.ready()
        if found is None:
            served.wait()
            self._died(life, opening=True)
            return before
        self._settle(found[0], served.model, before)
        self.totals.records += found[1]
        if self.totals.kills % _RENEW == _RENEW - 1 or dice.random() < 0.08:
            self._compare(served, -1)
        elif dice.random() < 0.6:
            # What was lost stays lost, and is seen the next time; comparing costs more than opening.
            self._compare(served, self.totals.kills)
        if not served.alive:
            self._died(life, opening=True)
            return None
        if life.plan is None:
            served.run(dice.randrange(1, 16) if dice.random() < 0.7 else dice.randrange(1, 150))
        else:
            # To the step, if it comes: most are those of a cut, of a collection or of an import.
            clients[dice.randrange(len(clients))].urged = [("persist", b"main"), ("collect", b"main")] * 2
            served.run(dice.randrange(20, 100))
        if life.plan is None or life.plan.in_worker:
            time.sleep(dice.random() * 0.002)
        elif life.plan.label in ("settle", "pool.close", "log.close", "layout.close") or dice.random() < 0.1:
            served.close()
        if served.alive:
            served.kill()
            self.totals.by_chance += 1
            self.totals.kills += 1
            if self._journal.died and life.plan is not None:
                self.totals.in_worker[f"{life.plan.moment} {life.plan.label}"] += 1
        else:
            self._died(life)
        self.totals.acked += served.acked
        return served

    def _died(self, life: Life, *, opening: bool = False) -> None:
        assert life.plan is not None, "nobody killed it"
        self.totals.kills += 1
        self.totals.opening += opening
        self.totals.by_step[f"{life.plan.moment} {life.plan.label}"] += 1

    def _settle(self, end: int, model: Model, before: Served | None) -> None:
        """Whether the one record that nobody can tell of is there; all others must be."""
        if before is None:
            return
        last = before.order[-1][0] if before.order else before.first
        if before.order and end < last:
            raise Wrong(f"the log ends at {end}; what ended at {last} was acknowledged or on its way")
        if before.doubtful is not None and end > last:
            self.tail.append(f"the operation under way is there: {before.doubtful}")
            applied(model, before.doubtful[2])

    def _compare(self, served: Served, turn: int) -> None:
        answer = served.shown(turn)
        if answer is None:
            served.wait()
            return
        wrong, shown = answer
        wrong = wrong or differences(served.model, shown)
        if wrong:
            raise Wrong("\n".join(wrong[:20]))

    def _life(self, store: Path) -> Life:
        dice = self._dice
        plan = None
        if dice.random() < 0.6:
            # A store is made but once, so that its steps come rarely.
            made = store.exists()
            fitting = [step for step in self._steps if made or step[0] in _FIRST_STEPS]
            # Of a few the one that was tried least, so that all have their turn.
            label, moment = min(dice.sample(fitting, 3), key=self._tried.__getitem__)
            self._tried[label, moment] += 1
            frequent = label in ("call.append", "apply", "replay", "call.read", "worker.send")
            nth = dice.randrange(1, 200) if frequent and dice.random() < 0.7 else dice.choice((1, 1, 1, 2, 3, 5))
            plan = Plan(label, moment, nth)
        return Life(
            store,
            segment_bytes=dice.choice(SEGMENTS),
            log_bytes=dice.choice((1 << 19, 1 << 20, 4 << 20)),
            commit_s=dice.choice((0.002, 0.02, 1.0)),
            quiet_s=dice.choice((0.0, 0.003, 0.02)),
            workers=dice.choice((1, 1, 2)),
            plan=plan,
        )
