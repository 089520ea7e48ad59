"""`python -m tests.crash.soak --kills N --cuts N --seed S`: docs/testing-crashes.md."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.soak.client import Wrong
from tests.crash.soak.cycles import Kills
from tests.crash.soak.faults import Faults
from tests.crash.soak.mounted import MountedKills
from tests.crash.soak.powercut import Cuts
from tests.support.lossy.mounted import mounted_lossy

_ALL_STEPS = 500
"""So many kills should reach every labelled step."""

LINES, COLUMNS = 40, 200
"""Of what is printed of a failure; the whole of it lies beside the store."""


def main() -> int:
    """Run the parts that were asked for; 1 at the first difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="servers killed by SIGKILL")
    parser.add_argument("--mounted", type=int, default=0, help="mounted daemons killed by SIGKILL")
    parser.add_argument(
        "--cuts", type=int, default=0, help="power cuts on a filesystem that loses what was not synced"
    )
    parser.add_argument("--faults", type=int, default=0, help="disks that fail for a while")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--transport", choices=("kernel", "pyfuse3"), default="kernel", help="of --mounted")
    parser.add_argument("--directory", type=Path, help="where stores are made; default: in memory")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="heliosfs-soak-", dir=given.directory or memory))
    try:
        if given.kills:
            kills = Kills(given.seed, directory)
            _part(kills, given.kills, directory)
            if given.kills >= _ALL_STEPS:
                print(f"steps that were not reached: {', '.join(kills.unreached()) or 'none'}", flush=True)
        if given.mounted:
            _part(MountedKills(given.seed, directory, transport=given.transport), given.mounted, directory)
        if given.cuts or given.faults:
            with mounted_lossy(directory) as lossy:
                if given.cuts:
                    _part(Cuts(given.seed, directory, lossy), given.cuts, directory)
                if given.faults:
                    _part(Faults(given.seed, directory, lossy), given.faults, directory)
    except Wrong:
        return 1
    shutil.rmtree(directory)
    return 0


def _part(part: Kills | MountedKills | Cuts, count: int, directory: Path) -> None:
    began = time.monotonic()
    try:
        part.run(count)
    except BaseException as error:
        wrong = (str(error) or repr(error)).splitlines()
        said = part.said()[-4000:].splitlines()
        whole = directory / "story"
        whole.write_text("\n".join([*wrong, *part.tail, *said]), errors="backslashreplace")
        for line in story(wrong, list(part.tail), said, f"{whole} has all of it; {part.totals.line()}"):
            print(line)
        raise
    print(f"{part.totals.line()} in {time.monotonic() - began:.1f} s", flush=True)


def story(wrong: list[str], tail: list[str], said: list[str], where: str) -> list[str]:
    """What is told of a failure: what is wrong first, then how it came about, as far as there is room.

    At most LINES lines of COLUMNS characters. Of the operations and of what servers said the last are kept.
    """
    lines = [f"FAILED: {where}", *_some(wrong, 24)]
    life = [line for line in tail if line.startswith("---")][-1:]
    said = said[-6:]
    room = LINES - len(lines) - len(life) - len(said)
    last = tail[-room:]
    lines += [*(line for line in life if line not in last), *last, *said]
    return [line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "\u2026" for line in lines]


def _some(lines: list[str], most: int) -> list[str]:
    return lines if len(lines) <= most else [*lines[: most - 1], f"and {len(lines) - most + 1} more"]


if __name__ == "__main__":
    sys.exit(main())
