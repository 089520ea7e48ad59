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
    parser.add_argument("--directory", type=Path, help="where stores are made; default: in memory")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="heliosfs-soak-", dir=given.directory or memory))
    try:
        if given.kills:
            kills = Kills(given.seed, directory)
            _part(kills, given.kills)
            if given.kills >= _ALL_STEPS:
                print(f"steps that were not reached: {', '.join(kills.unreached()) or 'none'}", flush=True)
        if given.mounted:
            _part(MountedKills(given.seed, directory), given.mounted)
        if given.cuts or given.faults:
            with mounted_lossy(directory) as lossy:
                if given.cuts:
                    _part(Cuts(given.seed, directory, lossy), given.cuts)
                if given.faults:
                    _part(Faults(given.seed, directory, lossy), given.faults)
    except Wrong as wrong:
        print(f"\n{wrong}\n(what is left lies in {directory})")
        return 1
    shutil.rmtree(directory)
    return 0


def _part(part: Kills | MountedKills | Cuts, count: int) -> None:
    began = time.monotonic()
    try:
        part.run(count)
    except BaseException:
        print(f"\nFAILED after {part.totals.line()}")
        print("\n".join(part.tail))
        print(part.said()[-4000:])
        raise
    print(f"{part.totals.line()} in {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
