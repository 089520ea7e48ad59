"""Kills workers under load and sees whether anybody notices: `python -m tests.crash.takeover --kills 1000`.

With `--programs` the load is a compile, git and SQLite (programs.py), and a worker dies every second.

Clients, each a process of its own, do operations of which none may be done twice or fail: exclusive creates,
mkdirs, renames, links, unlinks, appends; they compare all they know after every round. Meanwhile the worker is
killed at random instants, and each time it is measured how long the mount gave no answer. Prints one JSON object;
exits with 1 for any error of a client, or if the store has a violated invariant afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.crash.programs import run_programs
from tests.support.mounts import REPOSITORY, Guard, MountedStore, wait_until

CLIENTS = 3
ROUND = 40
WORST = 5
"""Of the longest gaps it is told how whoever went on did so."""


def client(directory: Path, seed: int, stop: Path) -> dict[str, Any]:
    """Work until `stop` exists. Counts, and the first errors."""
    dice = random.Random(seed)
    model: dict[str, bytes] = {}
    dirs: set[str] = set()
    operations, errors, number = 0, [], 0
    log = directory / "log"
    logged = 0
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    unlinked = os.open(directory / "gone", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    (directory / "gone").unlink()
    while not stop.exists():
        try:
            for _ in range(ROUND):
                number += 1
                act = dice.choice(
                    ("create", "create", "append", "rename", "unlink", "link", "mkdir", "rmdir", "gone")
                )
                name = f"f{number}"
                some = dice.choice(sorted(model)) if model else None
                if act == "create":
                    content = dice.randbytes(dice.choice((10, 5000, 70000)))
                    fd = os.open(directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                    os.write(fd, content)
                    os.close(fd)
                    model[name] = content
                elif act == "append":
                    os.write(descriptor, b"%08d\n" % logged)
                    logged += 1
                elif act == "rename" and some:
                    os.rename(directory / some, directory / name)
                    model[name] = model.pop(some)
                elif act == "unlink" and some:
                    os.unlink(directory / some)
                    del model[some]
                elif act == "link" and some:
                    os.link(directory / some, directory / name)
                    model[name] = model[some]
                elif act == "mkdir":
                    os.mkdir(directory / f"d{number}")
                    dirs.add(f"d{number}")
                elif act == "rmdir" and dirs:
                    os.rmdir(directory / dirs.pop())
                elif act == "gone":
                    os.pwrite(unlinked, b"%d" % number, 0)
                    assert os.pread(unlinked, 99, 0)[: len(str(number))] == b"%d" % number
                operations += 1
            names = set(os.listdir(directory)) - {"log"}
            assert names == set(model) | dirs, f"names differ: {sorted(names ^ (set(model) | dirs))[:5]}"
            for name in dice.sample(sorted(model), min(5, len(model))):
                assert (directory / name).read_bytes() == model[name], f"content of {name}"
            lines = log.read_bytes().split()
            assert lines == [b"%08d" % line for line in range(logged)], f"log: {len(lines)} lines, {logged} written"
            for name in sorted(model)[30:]:
                os.unlink(directory / name)
                del model[name]
        except (OSError, AssertionError) as error:
            where = error.__traceback__.tb_lineno if error.__traceback__ is not None else 0
            errors.append(f"{act} {name}: {error!r} in line {where}, {time.strftime('%H:%M:%S')}")
            if len(errors) > 5:
                break
            raise_on = isinstance(error, AssertionError)
            if raise_on:
                break
    return {"operations": operations, "errors": errors}


def gap_s(point: Path, killed: int) -> float:
    """Seconds until the mount has answered a question that no cache answers, from another process than `killed`."""
    began = time.monotonic()
    os.statvfs(point)
    return time.monotonic() - began


def run_clients(mount: MountedStore, stop: Path, seed: int) -> list[subprocess.Popen[str]]:
    found = []
    for number in range(CLIENTS):
        directory = mount.point / f"client{number}"
        directory.mkdir()
        words = [sys.executable, "-m", "tests.crash.takeover", "--client", str(directory)]
        words += ["--seed", str(seed + number), "--stop", str(stop)]
        found.append(subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True))
    return found


def soak(mount: MountedStore, kills: int, seed: int, *, longest_s: float = 0.4) -> dict[str, Any]:
    """Kill so many workers of a mount with clients on it. What happened."""
    dice = random.Random(seed)
    stop = mount.base / "stop"
    clients = run_clients(mount, stop, seed)
    gaps = []
    after: list[int] = []
    try:
        for _ in range(kills):
            time.sleep(dice.uniform(0.0, longest_s))
            pid = mount.worker()
            after.append(pid)
            os.kill(pid, signal.SIGKILL)
            gaps.append(gap_s(mount.point, pid))
        time.sleep(0.5)
        after.append(mount.worker())
    finally:
        stop.touch()
        reports = []
        for process in clients:
            said, _ = process.communicate(timeout=60)
            reports.append(json.loads(said) if said else {"operations": 0, "errors": ["the client died"]})
    status = mount.status()
    worst = sorted(zip(gaps, after[1:], strict=False), reverse=True)[:WORST]
    gaps.sort()
    return {
        "kills": kills,
        "restarts": status["restarts"],
        "seed": seed,
        "operations": sum(report["operations"] for report in reports),
        "errors": [error for report in reports for error in report["errors"]],
        "gap_ms_median": round(1000 * gaps[len(gaps) // 2], 1) if gaps else None,
        "gap_ms_p95": round(1000 * gaps[int(len(gaps) * 0.95)], 1) if gaps else None,
        "gap_ms_max": round(1000 * gaps[-1], 1) if gaps else None,
        "worst": [[round(1000 * gap, 1), told_of(mount, pid)] for gap, pid in worst],
    }


def told_of(mount: MountedStore, pid: int) -> str:
    """What a worker that went on has said of how it did."""
    _, _, said = mount.said().rpartition(f", process {pid}, ")
    return next((line for line in said.splitlines()[1:2] if "gone on" in line), "nothing was said")


def main(act: Callable[[MountedStore], dict[str, Any]]) -> int:
    """One soak on a store of its own."""
    base = Path(tempfile.mkdtemp(prefix="takeover", dir="/var/tmp"))
    guard = Guard()
    mount = MountedStore(base, guard, "kernel")
    try:
        mount.mount()
        report = act(mount)
        mount.unmount()
        report["violated"] = mount.check()
        wait_until(lambda: not mount.mounted(), "unmounted")
    except BaseException:
        print(mount.said()[-4000:], file=sys.stderr)
        raise
    finally:
        if mount.mounted():
            mount.close()
        shutil.rmtree(base, ignore_errors=True)
        guard.close()
    print(json.dumps(report))
    return 1 if report["errors"] or report["violated"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=0.4, help="seconds between two kills, at most")
    parser.add_argument("--programs", action="store_true", help="a compile, git and SQLite instead of our clients")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which they run, a kill each second")
    parser.add_argument("--client", type=Path)
    parser.add_argument("--stop", type=Path)
    given = parser.parse_args()
    if given.client is not None:
        print(json.dumps(client(given.client, given.seed, given.stop)))
        sys.exit(0)
    if given.programs:
        sys.exit(main(lambda mount: run_programs(mount, given.seconds)))
    sys.exit(main(lambda mount: soak(mount, given.kills, given.seed, longest_s=given.longest)))
