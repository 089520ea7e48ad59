"""`python -m tests.bench`: takes the figures, checks the work behind each, prints tables and writes JSON.

Exit code 0: everything measured was right; 1: some result was wrong or a part failed. Missing a target is
reported, never an error: no figure here is an assertion about time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.bench import (
    clients,
    collecting,
    crowd,
    dedup,
    imports,
    lib_cas,
    lib_core,
    lib_store,
    machine,
    memory,
    mnt,
    polling,
    requests,
    restore,
    scale,
    stall,
    syncing,
    workload,
)
from tests.bench.figures import Figure, table
from tests.bench.grounds import PEERS
from tests.bench.mounts import abort_all, time_limit, use_transport
from tests.bench.plan import Plan

_PART_S = 1800.0
_SHORT_PART_S = 100.0

PARTS: Final[dict[str, Callable[[Plan], list[Figure]]]] = {
    "cas": lambda plan: [] if plan.short else lib_cas.run(),
    "core": lib_core.run,
    "store": lib_store.run,
    "dedup": dedup.run,
    "mnt": mnt.run,
    "clients": clients.run,
    "polling": polling.run,
    "crowd": crowd.run,
    "restore": restore.run,
    "stall": stall.run,
    "syncing": syncing.run,
    "collecting": collecting.run,
    "imports": imports.run,
    "memory": memory.run,
    "scale": scale.run,
    "requests": requests.run,
}
WORKLOAD: Final = "workload"


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench", description="Figures of HeliosFS: see docs")
    parser.add_argument("--short", action="store_true", help="small trees, once: proves that the benchmark works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    names = [*PARTS, WORKLOAD]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, help="repetitions of what is compared in pairs")
    parser.add_argument("--peers", help=f"of {', '.join(PEERS)}; comma separated; 'none': the native one alone")
    parser.add_argument("--transport", choices=("kernel", "pyfuse3"), default="kernel", help="of all but workload")
    parser.add_argument("--scale", choices=("small", "full"), default="small", help="full: a million files")
    parser.add_argument("--dir", type=Path, help="directory to work in, on the filesystem to compare with")
    return parser.parse_args(words)


def _part(name: str, take: Callable[[], list[Figure]], limit_s: float, faults: list[str]) -> list[Figure]:
    print(f"... {name}", file=sys.stderr, flush=True)
    start = time.monotonic()
    try:
        with time_limit(limit_s):
            return take()
    except Exception:
        faults.append(f"{name} failed:\n{traceback.format_exc()}")
        return []
    finally:
        print(f"    {name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def main(words: list[str]) -> int:
    """Run what is asked for. The exit code."""
    arguments = _arguments(words)
    use_transport(arguments.transport)
    base = arguments.dir or Path(__file__).resolve().parents[2]
    chosen = arguments.only or [*PARTS, WORKLOAD]
    peers = None
    if arguments.peers is not None:
        peers = tuple(name for name in arguments.peers.split(",") if name != "none")
    directory = Path(tempfile.mkdtemp(prefix=".bench-", dir=base))
    make = Plan.brief if arguments.short else Plan.full
    rounds = {} if arguments.rounds is None else {"rounds": arguments.rounds}
    plan = make(directory, peers=peers, **rounds)
    if arguments.scale == "full":
        plan = plan.at_full_scale()
    faults: list[str] = []
    rows: list[Figure] = []
    report: dict[str, object] = {
        "machine": machine.describe(directory),
        "transport": arguments.transport,
        "short": plan.short,
        "rounds": plan.rounds,
    }
    limit_s = _SHORT_PART_S if plan.short else _PART_S
    try:
        print(machine.text(machine.describe(directory)))
        for name in chosen:
            if name != WORKLOAD:
                found = _part(name, lambda name=name: PARTS[name](plan), limit_s, faults)  # type: ignore[misc]
                rows += found
                print(table(found), flush=True)
        if WORKLOAD in chosen:
            results: list[workload.Workload] = []

            def take() -> list[Figure]:
                results.append(workload.run(plan))
                return workload.figures(results[0])

            rows += _part(WORKLOAD, take, limit_s, faults)
            if results:
                print(workload.text(results[0]), flush=True)
                report[WORKLOAD] = workload.as_json(results[0])
    finally:
        abort_all()
        shutil.rmtree(directory, ignore_errors=True)
    wrong = [row.name for row in rows if not row.verified]
    missed = [row for row in rows if row.met is False]
    report["figures"] = [dataclasses.asdict(row) for row in rows]
    report["faults"] = faults
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    for fault in faults:
        print(fault)
    if missed and not plan.short:
        print("\nbehind their targets:\n" + table(missed))
    counts = f"{len(rows)} figures, {len(wrong)} wrong, {len(missed)} behind their target"
    print(f"\n{counts}, {len(faults)} parts failed")
    for name in wrong:
        print(f"wrong: {name}")
    return 1 if wrong or faults else 0


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C")
    sys.exit(main(sys.argv[1:]))
