"""A hundred flipped bytes, spread over every part of a store. More: `python -m tests.crash.flips --help`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run(tmp_path: Path, *words: str) -> dict[str, dict[str, int]]:
    """Run flips in a process of their own: one that dies or hangs of a flip must not take the tests with it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.flips", "--directory", os.fspath(tmp_path), *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
    summary: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return summary


def test_a_flipped_byte_is_harmless_or_eio_in_its_range_or_refused_by_name(tmp_path: Path) -> None:
    summary = run(tmp_path, "--flips", "100", "--seed", "20261125")
    assert sum(summary["total"].values()) == 100 and set(summary["total"]) == {"harmless", "eio", "refused"}
    assert len(summary["kinds"]) >= 12


def test_a_store_with_a_flipped_byte_is_repaired(tmp_path: Path) -> None:
    summary = run(tmp_path, "--flips", "12", "--seed", "7", "--repair", "--only", "db")
    assert sum(summary["total"].values()) == 12
