"""Import of a directory against `cp -a` of it, interleaved, and the first read of the mount after it.

Both sides read from the page cache. The import is the command line's, process start included, and survives a power
cut when it returns; cp's copy does not, so cp and a sync of its filesystem are shown, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.bench.figures import Figure, figure
from tests.bench.mounts import Mount, heliosfs
from tests.bench.plan import Plan
from tests.bench.trees import Tree, same, shared_tree

_clock = time.perf_counter


def _copy(tree: Tree, into: Path) -> tuple[float, float, bool]:
    """Seconds of cp -a, seconds until it is synced, and whether the copy is right."""
    os.sync()
    start = _clock()
    subprocess.run(("cp", "-a", tree.directory, into), check=True, timeout=600)
    middle = _clock()
    subprocess.run(("sync", "-f", into), check=True, timeout=600)
    end = _clock()
    right = same(into, tree)
    shutil.rmtree(into)
    return middle - start, end - start, right


def _compare(plan: Plan, directory: Path, tree: Tree) -> list[Figure]:
    copied: list[float] = []
    synced: list[float] = []
    imported: list[float] = []
    again: list[float] = []
    live: list[float] = []
    read: list[float] = []
    right = True
    for number in range(plan.rounds):
        mount = Mount(directory / f"round-{number}")
        plain = [_copy(tree, directory / "copy")] if number % 2 == 0 else []
        os.sync()
        start = _clock()
        reply = heliosfs("import", mount.store, tree.directory)
        imported.append(_clock() - start)
        right = right and reply.get("ok") is True
        if not plain:
            plain = [_copy(tree, directory / "copy")]
        copied.append(plain[0][0])
        synced.append(plain[0][1])
        right = right and plain[0][2]
        start = _clock()
        heliosfs("import", mount.store, tree.directory)
        again.append(_clock() - start)
        try:
            start = _clock()
            mount.start()
            live.append(_clock() - start)
            start = _clock()
            name = sorted(os.listdir(mount.point))[0]
            path = next(path for path in (mount.point / name).rglob("*.py"))
            data = path.read_bytes()
            read.append((_clock() - start) * 1e3)
            right = right and data == (tree.directory / path.relative_to(mount.point)).read_bytes()
            right = right and same(mount.point, tree)
        finally:
            mount.close()
        shutil.rmtree(mount.store)
    ratios = [a / b for a, b in zip(imported, copied, strict=True)]
    ratios_synced = [a / b for a, b in zip(imported, synced, strict=True)]
    name = f"MNT import of {tree.files} files"
    return [
        figure(f"cp -a of {tree.files} files", copied, "s", verified=right),
        figure(f"cp -a of {tree.files} files, and sync -f", synced, "s", durability="power", verified=right),
        figure(name, imported, "s", durability="power", verified=right),
        figure(f"{name} / cp -a", ratios, "x", below=1, durability="power", verified=right),
        figure(f"{name} / cp -a and sync -f", ratios_synced, "x", durability="power", verified=right),
        figure(f"{name}, again and unchanged", again, "s", durability="power", verified=right),
        figure(f"MNT mount of {tree.files} files", live, "s", durability="power", verified=right),
        figure(f"MNT first listing and read of {tree.files} files", read, "ms", durability="power", verified=right),
    ]


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    rows: list[Figure] = []
    for files in (plan.tree_files, plan.large_files):
        directory = plan.directory / f"imports-{files}"
        directory.mkdir()
        rows += _compare(plan, directory, shared_tree(plan.directory, files))
    return rows
