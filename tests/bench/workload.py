"""The workload table: the same steps on every filesystem in one run, interleaved, against the native one.

Within a round a step runs on one filesystem after the other, the order turned by one each round; ratios are taken
within a round, so that what else the machine does falls on both sides. Each starts with nothing going on in
the background: what a filesystem does later is not in its figure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.grounds import NATIVE, OURS, PORTABLE, Ground, grounds
from tests.bench.plan import Plan
from tests.bench.published import EXCEPTED, FOR_ORIENTATION, TABLE, TO_BEAT
from tests.bench.steps import Site, make_kit, steps_of
from tests.bench.targets import TARGETS


@dataclass(slots=True)
class Cell:
    """A step on a filesystem: seconds by round, whether each check was right, and what went wrong."""

    seconds: list[float] = field(default_factory=list)
    right: bool = True
    error: str = ""

    @property
    def wrong(self) -> str:
        """Why its times count for nothing; "" where they do."""
        return self.error or ("" if self.right else "its result is wrong")

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")


@dataclass(slots=True)
class Workload:
    """All cells: steps by filesystem."""

    kinds: dict[str, str]
    survives: dict[str, str]
    cells: dict[str, dict[str, Cell]]

    def ratios(self, step: str, name: str = OURS, other: str = NATIVE) -> list[float]:
        """Seconds against another filesystem's (the native one's) of the same round; [] where one has none."""
        cells = self.cells[step]
        if name not in cells or other not in cells:
            return []
        return [a / b for a, b in zip(cells[name].seconds, cells[other].seconds, strict=False)]


def run(plan: Plan) -> Workload:
    """Every step on every filesystem, `plan.rounds` times."""
    directory = plan.directory / "workload"
    kit = make_kit(plan, directory / "kit")
    steps = steps_of(plan)
    with grounds(directory, plan.peers) as found:
        cells = {step: {ground.name: Cell() for ground in found} for step in steps}
        kinds = {ground.name: ground.kind for ground in found}
        survives = {ground.name: ground.survives for ground in found}
        result = Workload(kinds, survives, cells)
        for number in range(plan.rounds):
            turned = found[number % len(found) :] + found[: number % len(found)]
            sites: dict[str, Site] = {}
            for ground in list(turned):
                try:
                    sites[ground.name] = Site(_fresh(ground, number), kit)
                except OSError:
                    # A peer that died in an earlier step (git kills some) sits out the rest.
                    if ground.name in (OURS, PORTABLE, NATIVE):
                        raise
                    turned.remove(ground)
            for step in steps:
                for ground in turned:
                    _rest(turned)
                    _take(steps[step], sites[ground.name], cells[step][ground.name])
            for site in sites.values():
                shutil.rmtree(site.base, ignore_errors=True)
    return result


def _fresh(ground: Ground, number: int) -> Path:
    base = ground.directory / f"round-{number}"
    base.mkdir()
    return base


def _rest(all_grounds: list[Ground]) -> None:
    """One that is still storing what a step has left would take the next one's processors."""
    for ground in all_grounds:
        with contextlib.suppress(OSError):
            ground.rest()
    os.sync()


def _take(step: Callable[[Site], tuple[float, bool]], site: Site, cell: Cell) -> None:
    try:
        taken, right = step(site)
    except (OSError, ValueError, subprocess.SubprocessError, sqlite3.Error) as error:
        cell.error = cell.error or f"{type(error).__name__}: {error}"[:300]
        cell.right = False
        with contextlib.suppress(OSError):
            shutil.rmtree(site.copy, ignore_errors=True)
        return
    cell.seconds.append(taken)
    cell.right = cell.right and right


# --- as figures and text -------------------------------------------------------------------------------


def figures(result: Workload) -> list[Figure]:
    """Two rows a step and transport: our median in seconds, and the comparison with what it is to reach."""
    return [row for step in result.cells for name in (OURS, PORTABLE) for row in _rows(result, step, name)]


def _rows(result: Workload, step: str, name: str) -> list[Figure]:
    ours, survives = result.cells[step][name], result.survives[name]
    title = step if name == OURS else f"{step} [{name}]"
    if not ours.seconds:
        return [Figure(f"{title}: {ours.error}", float("nan"), "s", "", None, (0, 0), "none", False)]
    spread = (min(ours.seconds), max(ours.seconds))
    rows = [Figure(title, ours.median, "s", "", None, spread, survives, ours.right)]
    if name == OURS:
        target = TARGETS.get(step)
        if target is None:
            return rows
        peer, bound, against = target.peer, target.factor, f"against {target.peer}"
    else:
        published = TABLE.get(step)
        if published is None or step in EXCEPTED:
            return rows
        times = [published.others[other] for other in TO_BEAT]
        peer = NATIVE
        bound = min(value / published.native for value in times if value is not None)
        against = f"against native, the best of {', '.join(TO_BEAT)} as target"
    theirs = result.cells[step].get(peer)
    if theirs is None:
        return rows
    if theirs.wrong or len(theirs.seconds) < len(ours.seconds):
        # What it took to do something else, or less, is nothing to be measured against.
        title = f"{title}, {against}: no verdict, it fails ({theirs.wrong or 'not in every round'})"
        return [*rows, Figure(title, float("nan"), "x", f"<= {bound:.3g}", None, (0, 0), survives, ours.right)]
    ratios = result.ratios(step, name, peer)
    if ratios:
        ratio = statistics.median(ratios)
        met = ratio <= bound
        rows.append(
            Figure(
                *(f"{title}, {against}", ratio, "x", f"<= {bound:.3g}", met),
                *((min(ratios), max(ratios)), survives, ours.right),
            )
        )
    return rows


def text(result: Workload) -> str:
    """Two tables: seconds on each filesystem; our ratio beside that of others as published."""
    names = list(result.kinds)
    head = f"{'seconds (median)':30}" + "".join(f"{name[:14]:>15}" for name in names) + f"{'against native':>26}"
    lines = [head, f"{'':30}" + "".join(f"{result.kinds[name][:14]:>15}" for name in names)]
    lines.append(f"{'survives without fsync':30}" + "".join(f"{result.survives[name]:>15}" for name in names))
    for step, by_name in result.cells.items():
        shown = "".join(f"{_shown(by_name[name]):>15}" for name in names)
        ratios = result.ratios(step)
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})" if ratios else "-"
        lines.append(f"{step:30}{shown}{ratio:>26}")
    others = "".join(f"{name:>18}" for name in (*TO_BEAT, *FOR_ORIENTATION))
    lines += ["", f"{'time / native time':30}{'ours':>10}{others}"]
    for step, published in TABLE.items():
        ratios = result.ratios(step)
        if not ratios:
            continue
        ours = statistics.median(ratios)
        cells = []
        for name in (*TO_BEAT, *FOR_ORIENTATION):
            value = published.others[name]
            if value is None:
                cells.append("fails, ahead")
            else:
                theirs = value / published.native
                cells.append(f"{theirs:.2f}, {'ahead' if ours < theirs else 'BEHIND'}")
        lines.append(f"{step:30}{ours:>10.2f}" + "".join(f"{cell:>18}" for cell in cells))
    for step, by_name in result.cells.items():
        lines += [f"{step} on {name}: {cell.error}" for name, cell in by_name.items() if cell.error]
    return "\n".join(lines)


def _shown(cell: Cell) -> str:
    if not cell.seconds:
        return "fails"
    return f"{cell.median:.4f}" + ("" if cell.right else " WRONG")


def as_json(result: Workload) -> dict[str, object]:
    """The cells, for the report's file."""
    return {
        "filesystems": result.kinds,
        "survives": result.survives,
        "seconds": {
            step: {
                name: {"seconds": cell.seconds, "verified": cell.right, "error": cell.error or None}
                for name, cell in by_name.items()
            }
            for step, by_name in result.cells.items()
        },
    }
