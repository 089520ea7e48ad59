"""MNT figures: checkpoint and fork through the mount beside plain requests, a mixed load, git in a fork.

This process is the client; the daemon is another. What is compared alternates call by call.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tests.bench.figures import Figure, figure, quantile_figure
from tests.bench.mixed import mixed
from tests.bench.mounts import Mount, heliosfs, mounted
from tests.bench.plan import Plan
from tests.bench.trees import shared_tree

_clock = time.perf_counter
_TIMEOUT_S = 300


def _snapshots(mount: Mount) -> set[str]:
    return set(os.listdir(mount.control("snapshots"))) - {"latest"}


def _checkpoints(plan: Plan, mount: Mount) -> list[Figure]:
    """setxattr user.helios.checkpoint against getxattr of an ordinary attribute, both on the mount's root."""
    point = os.fspath(mount.point)
    marker = mount.point / "marker"
    marker.write_bytes(b"before")
    os.setxattr(point, "user.bench", b"value")
    before = len(_snapshots(mount))
    plain: list[float] = []
    ours: list[float] = []
    right = True
    for number in range(plan.samples):
        start = _clock()
        value = os.getxattr(point, "user.bench")
        middle = _clock()
        os.setxattr(point, "user.helios.checkpoint", b"c%05d" % number)
        end = _clock()
        plain.append((middle - start) * 1e6)
        ours.append((end - middle) * 1e6)
        right = right and value == b"value"
        if number % 50 == 0:
            marker.write_bytes(b"at %05d" % number)
            os.setxattr(point, "user.helios.checkpoint", b"m%05d" % number)
            marker.write_bytes(b"after")
            right = right and mount.control(f"snapshots/m{number:05}/marker").read_bytes() == b"at %05d" % number
    marked = (plan.samples + 49) // 50
    right = right and len(_snapshots(mount)) == before + plan.samples + marked
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    return [
        figure("MNT getxattr of an ordinary attribute", plain, "us", verified=right),
        figure("MNT checkpoint by setxattr", ours, "us", durability="kill", verified=right),
        figure("MNT checkpoint by setxattr / getxattr", ratios, "x", below=2, durability="kill", verified=right),
    ]


def _forks(plan: Plan, mount: Mount) -> list[Figure]:
    """mkdir in .helios/branches against a plain mkdir."""
    (mount.point / "marker").write_bytes(b"forked")
    (mount.point / "plain").mkdir()
    branches = mount.control("branches")
    plain: list[float] = []
    ours: list[float] = []
    count = min(plan.samples, 500)
    for number in range(count):
        there = f"{mount.point}/plain/d{number:05}"
        here = f"{branches}/b{number:05}"
        start = _clock()
        os.mkdir(there)
        middle = _clock()
        os.mkdir(here)
        end = _clock()
        plain.append((middle - start) * 1e6)
        ours.append((end - middle) * 1e6)
    right = len(os.listdir(mount.point / "plain")) == len(os.listdir(branches)) == count
    for number in range(0, count, 50):
        tree = branches / f"b{number:05}"
        right = right and (tree / "marker").read_bytes() == b"forked"
        right = right and len(os.listdir(tree / "plain")) == number + 1
        (tree / "marker").write_bytes(b"edited")
    right = right and (mount.point / "marker").read_bytes() == b"forked"
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    return [
        figure("MNT plain mkdir", plain, "us", durability="kill", verified=right),
        figure("MNT fork by mkdir", ours, "us", durability="kill", verified=right),
        figure("MNT fork by mkdir / plain mkdir", ratios, "x", below=2, durability="kill", verified=right),
    ]


def _mixed(plan: Plan, mount: Mount) -> list[Figure]:
    """The mixed load by one client; what he does between his calls is not counted."""
    operations = plan.samples * 20
    _, taken, right = mixed(mount, "mixed", operations, plan.loose_files, clients=1)
    rate = [operations / sum(taken) * 1e3]
    name = "MNT mixed 70/20/10"
    return [
        figure(f"{name}, operations a second", rate, "1/s", above=5000, durability="kill", verified=right),
        quantile_figure(f"{name}, p50", taken, 0.5, "ms", below=15, durability="kill", verified=right),
        quantile_figure(f"{name}, p99", taken, 0.99, "ms", below=50, durability="kill", verified=right),
    ]


def _git(where: Path, *words: str) -> tuple[float, str]:
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **{f"GIT_{who}_{what}": "bench@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    start = _clock()
    done = subprocess.run(
        ("git", *words), cwd=where, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
    )
    return _clock() - start, done.stdout


def _git_in_forks(plan: Plan, directory: Path) -> list[Figure]:
    """git status in a fresh fork of the large tree, the first and the next time."""
    tree = shared_tree(plan.directory, plan.large_files)
    mount = Mount(directory)
    heliosfs("import", mount.store, tree.directory)
    first: list[float] = []
    warm: list[float] = []
    right = True
    try:
        mount.start()
        _git(mount.point, "init", "-q", ".")
        _git(mount.point, "config", "gc.auto", "0")
        _git(mount.point, "add", "-A")
        _git(mount.point, "commit", "-q", "-m", "all")
        for _ in range(2):
            _git(mount.point, "status", "--porcelain")
        mount.idle()
        for number in range(plan.rounds):
            fork = mount.control(f"branches/g{number}")
            fork.mkdir()
            index = (fork / ".git/index").stat().st_mtime_ns
            taken, said = _git(fork, "status", "--porcelain")
            first.append(taken)
            right = right and said == "" and (fork / ".git/index").stat().st_mtime_ns == index
            again = [_git(fork, "status", "--porcelain") for _ in range(3)]
            warm.append(min(taken for taken, _ in again))
            right = right and all(said == "" for _, said in again)
            (fork / "copy-000").rename(fork / "renamed")
            right = right and _git(fork, "status", "--porcelain")[1] != ""
    finally:
        mount.close()
    ratios = [a / b for a, b in zip(first, warm, strict=True)]
    name = f"MNT git status in a fork of {tree.files} files"
    return [
        figure(f"{name}, the first", first, "s", durability="kill", verified=right),
        figure(f"{name}, warm", warm, "s", durability="kill", verified=right),
        figure(f"{name}, the first / warm", ratios, "x", below=10, durability="kill", verified=right),
    ]


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    rows: list[Figure] = []
    for part in (_checkpoints, _forks, _mixed):
        with mounted(plan.directory / f"mnt{part.__name__}") as mount:
            rows += part(plan, mount)
    return [*rows, *_git_in_forks(plan, plan.directory / "mnt-git")]
