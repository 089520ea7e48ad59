"""Memory: the daemon with a loaded tree; forks against copies.

Loaded means: after `find -ls` and `cat` of all (DECISIONS). Memory is the PSS of the daemon and its workers; for
forks against copies the page cache of the files that were touched (mincore) is added. A copy is a branch that the
same tree was imported into. In both, ten files of each branch are edited and read, and every tree is listed; the
caches' budget is large enough that nothing is evicted.
"""

from __future__ import annotations

import ctypes
import mmap
import subprocess
from pathlib import Path

from tests.bench.figures import Figure, figure
from tests.bench.mounts import Mount, heliosfs, mounted
from tests.bench.plan import Plan
from tests.bench.trees import Tree, same, shared_tree

_EDITED = 10
_TIMEOUT_S = 600
_PAGE = mmap.PAGESIZE


def pss_bytes(pids: list[int]) -> int:
    """Proportional set size of processes together."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) << 10
    return total


def cached_bytes(path: Path) -> int:
    """How much of a file is in the page cache."""
    size = path.stat().st_size
    if not size:
        return 0
    pages = (size + _PAGE - 1) // _PAGE
    residence = (ctypes.c_ubyte * pages)()
    # MAP_PRIVATE, so that ctypes gets an address from a writable buffer; only looked at.
    access = mmap.PROT_READ | mmap.PROT_WRITE
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, access) as view:
        anchor = ctypes.c_char.from_buffer(view)
        at = ctypes.c_void_p(ctypes.addressof(anchor))
        failed = ctypes.CDLL(None).mincore(at, ctypes.c_size_t(size), residence)
        del anchor
    return 0 if failed else sum(each & 1 for each in residence) * _PAGE


def _list(where: Path) -> int:
    """`find -ls`; how many lines."""
    done = subprocess.run(("find", where, "-ls"), capture_output=True, timeout=_TIMEOUT_S, check=True)
    return done.stdout.count(b"\n")


def _loaded(plan: Plan, directory: Path) -> list[Figure]:
    tree = shared_tree(plan.directory, plan.large_files)
    mount = Mount(directory)
    heliosfs("import", mount.store, tree.directory)
    try:
        mount.start()
        started = pss_bytes(mount.processes())
        right = _list(mount.point) > tree.files
        right = right and same(mount.point, tree)
        pids = mount.processes()
        daemon, all_ = pss_bytes(pids[:1]), pss_bytes(pids)
    finally:
        mount.close()
    name = f"MNT PSS with {tree.files} files loaded"
    return [
        figure("MNT PSS of daemon and workers, just mounted", [started / 1e6], "MB", verified=right),
        figure(f"{name}, daemon", [daemon / 1e6], "MB", below=150, verified=right),
        figure(f"{name}, daemon and workers", [all_ / 1e6], "MB", verified=right),
    ]


def _edit(branch: Path, names: list[Path], number: int) -> None:
    for at, name in enumerate(names):
        data = (branch / name).read_bytes()
        (branch / name).write_bytes(b"# branch %d, edit %d\n" % (number, at) + data)


def _edited_right(branch: Path, names: list[Path], number: int, tree: Tree) -> bool:
    for at, name in enumerate(names):
        expected = b"# branch %d, edit %d\n" % (number, at) + (tree.directory / name).read_bytes()
        if (branch / name).read_bytes() != expected:
            return False
    return True


def _branches(plan: Plan, directory: Path, tree: Tree, *, copies: bool) -> tuple[int, int, bool]:
    """(PSS, page cache of edited files, right) of `plan.branches` branches that hold the tree."""
    mount = Mount(directory, "memory=4G")
    if not copies:
        heliosfs("import", mount.store, tree.directory)
    plain = sorted(
        path.relative_to(tree.directory)
        for path in tree.directory.rglob("*.py")
        if not path.is_symlink() and path.stat().st_size < 65536
    )
    right = True
    edited: list[Path] = []
    try:
        mount.start()
        chosen: list[tuple[Path, list[Path]]] = []
        for number in range(plan.branches):
            branch = mount.control(f"branches/b{number:03}")
            branch.mkdir()
            if copies:
                reply = heliosfs("import", mount.store, tree.directory, "--branch", f"main/b{number:03}")
                right = right and reply.get("ok") is True
            names = [plain[(number * 7 + at * 11) % len(plain)] for at in range(_EDITED)]
            names = sorted(set(names))
            _edit(branch, names, number)
            chosen.append((branch, names))
        for number, (branch, names) in enumerate(chosen):
            right = right and _list(branch) > tree.files and _edited_right(branch, names, number, tree)
            edited += [branch / name for name in names]
        mount.idle()
        pss = pss_bytes(mount.processes())
        cache = sum(cached_bytes(path) for path in edited)
    finally:
        mount.close()
    return pss, cache, right


def _saved(plan: Plan, directory: Path) -> list[Figure]:
    tree = shared_tree(plan.directory, plan.tree_files)
    pss, cache, right = _branches(plan, directory / "forks", tree, copies=False)
    copied_pss, copied_cache, copied_right = _branches(plan, directory / "copies", tree, copies=True)
    right = right and copied_right
    forks, copied = pss + cache, copied_pss + copied_cache
    with mounted(directory / "empty") as mount:
        empty = pss_bytes(mount.processes())
    what = f"of {tree.files} files, {_EDITED} edits each"
    saved = (1 - forks / copied) * 100
    grown = (1 - (forks - empty) / (copied - empty)) * 100
    return [
        figure(f"MNT memory, {plan.branches} forks {what}", [forks / 1e6], "MB", verified=right),
        figure(f"MNT memory, {plan.branches} imports {what}", [copied / 1e6], "MB", verified=right),
        figure("MNT memory saved by forks", [saved], "%", above=80, verified=right),
        figure("MNT memory saved by forks, above an empty daemon's", [grown], "%", above=80, verified=right),
    ]


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    return [*_loaded(plan, plan.directory / "loaded"), *_saved(plan, plan.directory / "many")]
