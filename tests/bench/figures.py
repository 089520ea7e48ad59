"""A figure: what was measured, what it should be, how it was taken, and whether the work was checked."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the report.

    Attributes:
        name: What was measured.
        value: The result, as a median unless the name says otherwise.
        unit: Of value and spread.
        target: What DESIGN wants, in words; "" if it wants nothing.
        met: Whether value is within the target; None without one.
        spread: Lowest and highest of the repetitions.
        durability: "none" (memory), "kill" (survives SIGKILL), "power" (survives a power cut).
        verified: Whether the result of the timed step was checked after it, and was right.
    """

    name: str
    value: float
    unit: str
    target: str
    met: bool | None
    spread: tuple[float, float]
    durability: str
    verified: bool


def seconds(step: Callable[[], object], repeat: int, loops: int = 1) -> list[float]:
    """Seconds for one call of `step`, `repeat` times, each over `loops` calls, garbage collector off."""
    taken: list[float] = []
    clock = time.perf_counter
    for _ in range(repeat):
        gc.collect()
        gc.disable()
        try:
            start = clock()
            for _ in range(loops):
                step()
            taken.append((clock() - start) / loops)
        finally:
            gc.enable()
    return taken


def figure(
    name: str,
    samples: Sequence[float],
    unit: str,
    *,
    below: float | None = None,
    above: float | None = None,
    durability: str = "none",
    verified: bool,
) -> Figure:
    """The median of `samples` as a Figure, with at most one bound."""
    value = statistics.median(samples)
    target, met = "", None
    if below is not None:
        target, met = f"< {below:g}", value < below
    elif above is not None:
        target, met = f"> {above:g}", value > above
    return Figure(name, value, unit, target, met, (min(samples), max(samples)), durability, verified)


def quantile(samples: Sequence[float], fraction: float) -> float:
    """The smallest sample that is no less than `fraction` (0 to 1) of all samples."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(fraction * len(ordered)) - 1))]


def quantile_figure(
    name: str,
    samples: Sequence[float],
    fraction: float,
    unit: str,
    *,
    below: float | None = None,
    durability: str = "none",
    verified: bool,
) -> Figure:
    """A quantile of `samples` as a Figure, with at most an upper bound; the spread is that of all samples."""
    value = quantile(samples, fraction)
    target, met = ("", None) if below is None else (f"< {below:g}", value < below)
    return Figure(name, value, unit, target, met, (min(samples), max(samples)), durability, verified)


def table(figures: Sequence[Figure]) -> str:
    """Figures as text, one a line."""
    head = f"{'figure':66} {'value':>10} {'unit':6} {'target':10} {'met':4} {'spread':>21} {'survives':8}"
    lines = [f"{head} checked"]
    for row in figures:
        met = "" if row.met is None else "yes" if row.met else "NO"
        spread = f"{row.spread[0]:.4g} .. {row.spread[1]:.4g}"
        lines.append(
            f"{row.name:66} {row.value:10.4g} {row.unit:6} {row.target:10} {met:4} {spread:>21} "
            f"{row.durability:8} {'yes' if row.verified else 'WRONG'}"
        )
    return "\n".join(lines)
