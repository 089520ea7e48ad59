"""MNT figures of restore: until another process, which had everything open and cached, reads what was.

The clock starts before the write to `.helios/restore` and stops when the other process has answered that it read
the right bytes, the two pipe messages between them included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.figures import Figure, figure
from tests.bench.mounts import Mount, heliosfs
from tests.bench.plan import Plan
from tests.bench.trees import same, shared_tree, survey

_CHANGED = 10
_TIMEOUT_S = 120

_READER = """
import os, sys
names = sys.argv[1:]
good = [open(name, "rb").read() for name in names]
kept = [os.open(name, os.O_RDONLY) for name in names]
print("ready", flush=True)
for line in sys.stdin:
    right = True
    for name, fd, data in zip(names, kept, good):
        with open(name, "rb", buffering=0) as file:
            found = file.read()
        size = os.stat(name).st_size
        held = os.pread(fd, len(data) + 1000, 0)
        if line == "good\\n":
            right = right and found == held == data and size == len(data)
        else:
            right = right and found.startswith(b"wrecked") and held == found and size == len(found)
    print("right" if right else "wrong", flush=True)
"""


class _Reader:
    """The other process."""

    def __init__(self, names: list[str]) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-c", _READER, *names), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._out.readline()

    def sees(self, what: str) -> bool:
        """Whether it reads the good or the wrecked bytes everywhere, path and open handle alike."""
        self._in.write(what + "\n")
        self._in.flush()
        return self._out.readline() == "right\n"

    def close(self) -> None:
        self._in.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()


def _restore(mount: Mount, name: bytes) -> None:
    fd = os.open(mount.control("restore"), os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, name + b"\n")
    finally:
        os.close(fd)


def _ten_files(plan: Plan, mount: Mount, files: list[Path], large: int) -> list[Figure]:
    step = max(1, len(files) // _CHANGED)
    chosen = [os.fspath(files[at]) for at in range(0, step * _CHANGED, step)][:_CHANGED]
    (mount.control("snapshots") / "good").mkdir()
    reader = _Reader(chosen)
    taken: list[float] = []
    alone: list[float] = []
    right = True
    try:
        for _ in range(max(10, plan.samples // 20)):
            for name in chosen:
                Path(name).write_bytes(b"wrecked " * 100)
            right = right and reader.sees("wrecked")
            start = time.perf_counter()
            _restore(mount, b"good")
            middle = time.perf_counter()
            seen = reader.sees("good")
            taken.append((time.perf_counter() - start) * 1e3)
            alone.append((middle - start) * 1e3)
            right = right and seen
    finally:
        reader.close()
    name = f"MNT restore, {_CHANGED} changed files of {large}"
    return [
        figure(f"{name}, the call", alone, "ms", durability="kill", verified=right),
        figure(f"{name}, until another reads them", taken, "ms", below=2, durability="kill", verified=right),
    ]


def _everything(plan: Plan, mount: Mount) -> list[Figure]:
    """rm -rf of all, then restore: until a walk from another process finds every name."""
    good = survey(mount.point)
    (mount.control("snapshots") / "all").mkdir()
    removed: list[float] = []
    taken: list[float] = []
    called: list[float] = []
    right = True
    for _ in range(plan.rounds):
        start = time.perf_counter()
        for entry in list(os.scandir(mount.point)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        removed.append(time.perf_counter() - start)
        right = right and os.listdir(mount.point) == []
        start = time.perf_counter()
        _restore(mount, b"all")
        middle = time.perf_counter()
        done = subprocess.run(
            ("find", mount.point, "!", "-type", "d"), capture_output=True, timeout=_TIMEOUT_S, check=True
        )
        taken.append(time.perf_counter() - start)
        called.append(middle - start)
        right = right and done.stdout.count(b"\n") == good[0] and survey(mount.point) == good
    name = f"MNT all {good[0]} files removed and restored"
    return [
        figure(f"{name}: the removal", removed, "s", durability="kill", verified=right),
        figure(f"{name}: the call", called, "s", durability="kill", verified=right),
        figure(f"{name}: until find in another process lists them", taken, "s", durability="kill", verified=right),
    ]


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    tree = shared_tree(plan.directory, plan.large_files)
    mount = Mount(plan.directory / "restore")
    heliosfs("import", mount.store, tree.directory)
    try:
        mount.start()
        files = sorted(path for path in mount.point.rglob("*.py") if path.is_file() and not path.is_symlink())
        rows = _ten_files(plan, mount, files, tree.files)
        rows += _everything(plan, mount)
        if not same(mount.point, tree):
            rows.append(Figure("MNT the restored tree is the imported one", 0, "", "", None, (0, 0), "kill", False))
    finally:
        mount.close()
    return rows
