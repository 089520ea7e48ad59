"""The soak's short form; the long one is a command (docs/testing-crashes.md).

In a process of its own: it forks, which a process with threads must not.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.soak.__main__ import COLUMNS, LINES, story
from tests.crash.soak.client import unanswered


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
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-12000:]}{done.stderr[-2000:]}"


def test_a_failure_is_told_in_little_and_what_is_wrong_first() -> None:
    wrong = [f"'main': (b'f{n}',): content is {bytes(5000)!r}" for n in range(60)]
    tail = ["--- life: 1", *(f"client 1 #{n} write" for n in range(79))]
    told = story(wrong, tail, ["Traceback"] * 90, "3 kills")
    assert len(told) == LINES and max(map(len, told)) == COLUMNS
    assert told[0] == "FAILED: 3 kills" and told[1].startswith(wrong[0][:150])
    assert told[24] == "and 37 more" and "--- life: 1" in told and tail[-1] in told


def test_a_hang_names_what_waits_and_not_what_it_carries() -> None:
    under_way = {2: ("adopt", b"main/c2", {b"i0": (0o600, 1, bytes(20_000))}, "/import"), 4: ("persist", b"main")}
    first, *waiting = unanswered(under_way, 60.0).splitlines()
    assert first.startswith("a hang: no operation is answered for 60 s")
    assert len(waiting) == 2 and max(map(len, waiting)) < COLUMNS
