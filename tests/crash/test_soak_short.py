"""The soak's short form; the long one is a command (docs/testing-crashes.md).

In a process of its own: it forks, which a process with threads must not.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("part", "count"), [("kills", 280), ("mounted", 20), ("cuts", 40), ("faults", 30)])
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost(part: str, count: int, tmp_path: Path, dice: random.Random) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.crash.soak",
        f"--{part}",
        str(count),
        "--seed",
        str(dice.randrange(1 << 32)),
    ]
    if part == "mounted":
        # Where a mount that is left behind is found and taken away.
        command += ["--directory", str(tmp_path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=580,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-12000:]}{done.stderr[-4000:]}"
