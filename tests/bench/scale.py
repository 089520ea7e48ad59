"""Figures of scale: what a stat, a create, a checkpoint, a cut and an opening cost where there is much.

For each dimension (files, entries of one directory, snapshots, branches, levels of a path, bytes of a sparse file)
the same steps are timed on a small store and on a large one, in a process of its own each, and the ratio of their
medians is the figure: about 1 where the cost follows the work and not what is there. Through a mount: mounting, and
the memory of the daemon (its workers apart) after all was listed and thousands of files were opened. After each
timed step its result is read back. `--scale full` takes a million files, `--scale small` a tenth of everything.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import shutil
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from heliosfs.core.ids import NodeId, ViewNo
from heliosfs.core.imported import ImportedNode
from heliosfs.filesystem import Filesystem, StoreOptions, open_filesystem
from tests.bench.figures import Figure, figure, quantile_figure
from tests.bench.mounts import Mount
from tests.bench.plan import Plan
from tests.bench.stores import CALLER, main_view

_MEMORY: Final = 256 << 20
_IN_A_DIRECTORY: Final = 100
_TIMEOUT_S: Final = 1500
_OPENS: Final = 5
_clock = time.perf_counter


@dataclass(frozen=True, slots=True)
class Case:
    """One dimension at one size.

    Attributes:
        kind: Which dimension: a key of `_BUILDERS`.
        size: How much of it.
    """

    kind: str
    size: int


# --- stores of a size --------------------------------------------------------------------------------------


def tree(files: int, in_a_directory: int = _IN_A_DIRECTORY) -> Iterator[ImportedNode]:
    """The nodes of a tree of empty files, its root first."""
    yield ImportedNode(-1, b"", 0o40755, 0, 0, 0, 1, 0)
    at = 1
    for first in range(0, files, in_a_directory):
        directory = at
        yield ImportedNode(0, b"d%06d" % (first // in_a_directory), 0o40755, 0, 0, 0, 1, 0)
        at += 1
        for number in range(first, min(first + in_a_directory, files)):
            yield ImportedNode(directory, b"f%07d" % number, 0o100644, 0, 0, 0, number, 0, extents=[])
            at += 1


def path_of(number: int, in_a_directory: int = _IN_A_DIRECTORY) -> bytes:
    """Where `tree` puts file `number`."""
    return b"d%06d/f%07d" % (number // in_a_directory, number)


async def _files(fs: Filesystem, view: ViewNo, size: int) -> None:
    await fs.adopt(view, list(tree(size)), CALLER)


async def _entries(fs: Filesystem, view: ViewNo, size: int) -> None:
    await fs.adopt(view, list(tree(size, size)), CALLER)


async def _snapshots(fs: Filesystem, view: ViewNo, size: int) -> None:
    node = (await fs.resolve(view, path_of(0))).node
    for number in range(size):
        if number % 10 == 0:
            await fs.write(node, 0, b"%08d" % number, CALLER)
        await fs.checkpoint(view, b"s%06d" % number, CALLER)


async def _branches(fs: Filesystem, view: ViewNo, size: int) -> None:
    for number in range(size):
        outcome = await fs.fork(view, b"b%06d" % number, CALLER)
        branch = outcome.extra["view"]
        assert isinstance(branch, int)
        if number % 10 == 0:
            node = (await fs.resolve(ViewNo(branch), path_of(0))).node
            await fs.write(node, 0, b"%08d" % number, CALLER)


async def _depth(fs: Filesystem, view: ViewNo, size: int) -> None:
    node = fs.branch_root(view).node
    for number in range(size):
        node = (await fs.make(node, b"level%03d" % number, 0o40755, CALLER)).node


async def _sparse(fs: Filesystem, view: ViewNo, size: int) -> None:
    node = (await fs.make(fs.branch_root(view).node, b"sparse", 0o100644, CALLER)).node
    for at in range(4096):
        await fs.write(node, at * (size // 4096), b"%08d" % at, CALLER)


_BUILDERS: Final[dict[str, Callable[[Filesystem, ViewNo, int], Awaitable[None]]]] = {
    "files": _files,
    "entries of a directory": _entries,
    "snapshots": _snapshots,
    "branches": _branches,
    "levels of a path": _depth,
    "bytes of a sparse file": _sparse,
}
_TREE_FILES: Final = 1000
"""Files below the dimensions that are not about files."""


def _target(case: Case, fs: Filesystem, view: ViewNo) -> tuple[bytes, list[bytes]]:
    """(directory to create files in, paths to stat)."""
    dice = random.Random(7)
    if case.kind in ("files", "entries of a directory"):
        inside = case.size if case.kind != "files" else _IN_A_DIRECTORY
        chosen = [path_of(dice.randrange(case.size), inside) for _ in range(200)]
        return path_of(0, inside).partition(b"/")[0], chosen
    if case.kind == "levels of a path":
        deep = b"/".join(b"level%03d" % number for number in range(case.size))
        return deep, [deep]
    if case.kind == "bytes of a sparse file":
        return b"", [b"sparse"]
    return b"d000000", [path_of(dice.randrange(_TREE_FILES)) for _ in range(200)]


# --- one case, in a process of its own ---------------------------------------------------------------------


@asynccontextmanager
async def _opened(store: Path) -> AsyncIterator[Filesystem]:
    options = StoreOptions(memory=_MEMORY)
    async with open_filesystem(store, options, create=True, background=False) as fs:
        yield fs


async def _build(store: Path, case: Case) -> None:
    async with _opened(store) as fs:
        view = main_view(fs)
        if case.kind not in ("files", "entries of a directory"):
            await _files(fs, view, _TREE_FILES)
        await _BUILDERS[case.kind](fs, view, case.size)
        await fs.wait_persisted()


async def _measure(store: Path, case: Case, samples: int) -> dict[str, object]:
    taken: dict[str, list[float]] = {}

    def note(name: str, began: float) -> None:
        taken.setdefault(name, []).append((_clock() - began) * 1e6)

    right = True
    for _ in range(_OPENS if samples > 100 else 1):
        began = _clock()
        async with _opened(store) as fs:
            fs.branch_root(main_view(fs))
            note("opening", began)
            right = right and fs.branch(main_view(fs)).files > 0
    async with _opened(store) as fs:
        view = main_view(fs)
        directory, paths = _target(case, fs, view)
        where = (await fs.resolve(view, directory)).node
        parents = [(await fs.resolve(view, path.rpartition(b"/")[0])).node for path in paths]
        names = [path.rpartition(b"/")[2] for path in paths]
        for parent, name in zip(parents, names, strict=True):
            await fs.lookup(parent, name)
        for number in range(samples):
            at = number % len(paths)
            began = _clock()
            entry = await fs.lookup(parents[at], names[at])
            note("stat", began)
            mode = stat.S_IFDIR if case.kind == "levels of a path" else stat.S_IFREG
            right = right and stat.S_IFMT(entry.attr.mode) == mode
        made: list[tuple[bytes, NodeId]] = []
        for number in range(samples):
            name = b"new%06d" % number
            began = _clock()
            entry = await fs.make(where, name, 0o100644, CALLER)
            note("create", began)
            made.append((name, entry.node))
        for name, node in made:
            right = right and (await fs.lookup(where, name)).node == node
        for number in range(samples):
            await fs.write(made[number][1], 0, b"x", CALLER)
            began = _clock()
            outcome = await fs.checkpoint(view, None, CALLER)
            note("checkpoint", began)
            assert outcome.name is not None
            right = right and fs.latest(view) == outcome.name.encode()
        await fs.wait_persisted()
        for number in range(min(8, samples)):
            await fs.write(made[number][1], 0, b"y%d" % number, CALLER)
            began = _clock()
            await fs.wait_persisted()
            note("cut of one changed file", began)
        listed: set[bytes] = set()
        cookie = 0
        while True:
            began = _clock()
            part = await fs.readdir(where, cookie, 200)
            note("listing 200 entries", began)
            if not part:
                break
            listed.update(name for name, _, _ in part)
            cookie = part[-1][2]
        size = case.size if case.kind == "entries of a directory" else 0
        right = right and {name for name, _ in made} <= listed and len(listed) >= size
        rss = _rss_bytes()
    return {"taken": taken, "right": right, "rss": rss}


def _rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM in /proc/self/status")


def _run(step: str, store: Path, case: Case, samples: int) -> str:
    """A step in a process of its own; what it printed."""
    words = (sys.executable, "-m", "tests.bench.scale", step, os.fspath(store), case.kind, str(case.size))
    done = subprocess.run((*words, str(samples)), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{case}: {step}: {done.stdout[-500:]}{done.stderr[-2000:]}")
    return done.stdout


def _case(store: Path, case: Case, samples: int) -> dict[str, object]:
    _run("build", store, case, samples)
    found: dict[str, object] = json.loads(_run("measure", store, case, samples).splitlines()[-1])
    shutil.rmtree(store)
    return found


# --- figures -----------------------------------------------------------------------------------------------


def _pair(plan: Plan, kind: str, small: int, large: int) -> list[Figure]:
    results: list[dict[str, list[float]]] = []
    rows: list[Figure] = []
    right = True
    for size in (small, large):
        store = plan.directory / f"scale-{kind.replace(' ', '-')}-{size}"
        found = _case(store, Case(kind, size), min(plan.samples, 400))
        right = right and found["right"] is True
        taken = found["taken"]
        rss = found["rss"]
        assert isinstance(taken, dict) and isinstance(rss, int)
        results.append(taken)
        name = f"LIB {size} {kind}"
        tail = taken["checkpoint"]
        rows.append(
            quantile_figure(
                f"{name}: checkpoint, p95", tail, 0.95, "us", below=70, durability="kill", verified=right
            )
        )
        rows.append(
            figure(f"{name}: peak memory of the process, memory=256M", [rss / 1e6], "MB", below=512, verified=right)
        )
    before, after = results
    for step in ("opening", "stat", "create", "checkpoint", "cut of one changed file", "listing 200 entries"):
        ratio = statistics.median(after[step]) / statistics.median(before[step])
        rows.append(figure(f"LIB {large} {kind}: {step}", after[step], "us", verified=right))
        rows.append(figure(f"LIB {large} / {small} {kind}: {step}", [ratio], "x", below=2, verified=right))
    return rows


def _mounted(plan: Plan) -> list[Figure]:
    """Mounting a small and a large tree; memory after listing all of it, with files held open."""
    rows: list[Figure] = []
    seconds: list[float] = []
    right = True
    for size in plan.mounted_files:
        directory = plan.directory / f"scale-mounted-{size}"
        directory.mkdir()
        _run("build", directory / "store", Case("files", size), 1)
        mount = Mount(directory, "memory=256M")
        try:
            began = _clock()
            mount.start()
            seconds.append(_clock() - began)
            done = subprocess.run(("find", mount.point, "-ls"), capture_output=True, timeout=_TIMEOUT_S, check=True)
            right = right and done.stdout.count(b"\n") == size + -(-size // _IN_A_DIRECTORY) + 1
            held = _open(mount.point, min(plan.open_files, size))
            try:
                right = right and all(os.fstat(descriptor).st_size == 0 for descriptor in held)
                pids = mount.processes()
                name = f"MNT memory with {size} files listed, {len(held)} of them open, memory=256M"
                daemon, workers = rss_bytes(pids[:1]), rss_bytes(pids[1:])
                rows.append(figure(f"{name}, daemon's RSS", [daemon / 1e6], "MB", below=512, verified=right))
                rows.append(figure(f"{name}, workers' RSS", [workers / 1e6], "MB", verified=right))
            finally:
                for descriptor in held:
                    os.close(descriptor)
        finally:
            mount.close()
    small, large = plan.mounted_files
    rows.append(figure(f"MNT mount of {large} files", [seconds[1] * 1e3], "ms", verified=right))
    name = f"MNT mount of {large} files / of {small}"
    rows.append(figure(name, [seconds[1] / seconds[0]], "x", below=1.5, verified=right))
    return rows


def _open(point: Path, count: int) -> list[int]:
    """Descriptors of the first `count` files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 200)), hard))
    return [os.open(os.fsencode(point) + b"/" + path_of(number), os.O_RDONLY) for number in range(count)]


def rss_bytes(pids: list[int]) -> int:
    """Resident set of processes together, shared pages counted for each."""
    page = resource.getpagesize()
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids)


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    rows: list[Figure] = []
    for kind, small, large in plan.scales:
        rows += _pair(plan, kind, small, large)
    return rows + _mounted(plan)


def _main(words: list[str]) -> None:
    step, store, kind, size, samples = words
    # As the daemon has it: else full collections are what is measured.
    gc.set_threshold(50_000, 50, 100)
    case = Case(kind, int(size))
    if step == "build":
        trio.run(_build, Path(store), case)
    else:
        print(json.dumps(trio.run(_measure, Path(store), case, int(samples))))


if __name__ == "__main__":
    _main(sys.argv[1:])
