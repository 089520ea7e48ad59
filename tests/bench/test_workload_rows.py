"""What the workload's report says of a peer that does not do the work: that, and no verdict."""

from __future__ import annotations

import math

import pytest

from tests.bench.figures import Figure
from tests.bench.grounds import IN_MEMORY, NATIVE, OURS, PORTABLE
from tests.bench.workload import Cell, Workload, figures

STEP = "cp -a inside"


def rows(peer: Cell | None) -> list[Figure]:
    cells = {OURS: Cell([1.0, 2.0]), PORTABLE: Cell([1.0, 2.0]), NATIVE: Cell([1.0, 1.0])}
    if peer is not None:
        cells[IN_MEMORY] = peer
    names = dict.fromkeys(cells, "")
    return [row for row in figures(Workload(names, names, {STEP: cells})) if IN_MEMORY in row.name]


def test_a_peer_that_does_the_work() -> None:
    (row,) = rows(Cell([2.0, 4.0]))
    assert (row.value, row.met) == (0.5, True)


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        (Cell([0.1, 0.1], right=False), "its result is wrong"),
        (Cell([0.1], right=False, error="CalledProcessError: tar"), "CalledProcessError: tar"),
        (Cell([], right=False, error="CalledProcessError: tar"), "CalledProcessError: tar"),
        (Cell([0.1]), "not in every round"),
    ],
)
def test_a_peer_that_fails(peer: Cell, said: str) -> None:
    (row,) = rows(peer)
    assert row.met is None and math.isnan(row.value)
    assert f"no verdict, it fails ({said})" in row.name


def test_a_peer_that_is_not_installed() -> None:
    assert rows(None) == []
