"""Programs that go on while the worker is killed every second: a compile, `git gc`, a SQLite writer.

Each is a process of its own that works in rounds on the mount until its time is over, and verifies what it has
made: object files, bytecode and binaries are those of the same build on the local disk, byte for byte; `git fsck
--strict` and the history; `integrity_check` and every row whose commit returned. Any error a program meets is one
of the mount's: the local filesystem would have given none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.support.mounts import REPOSITORY, MountedStore, shell

PROGRAMS: Final = ("compile", "git", "sqlite")
_UNITS: Final = 12
_MODULES: Final = ("json", "email", "unittest", "asyncio")
_STEP_S: Final = 120.0


def run_programs(mount: MountedStore, seconds: float, every_s: float = 1.0) -> dict[str, Any]:
    """Have all of them work for so long while workers are killed. What happened; no `errors` if all is well."""
    elsewhere = mount.base / "elsewhere"
    elsewhere.mkdir()
    processes = {}
    until = time.time() + seconds
    for name in PROGRAMS:
        directory = mount.point / name
        directory.mkdir()
        words = [sys.executable, "-m", "tests.crash.programs", name, str(directory), str(elsewhere), str(until)]
        processes[name] = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    gaps: list[float] = []
    try:
        while time.time() < until:
            time.sleep(every_s)
            pid = mount.worker()
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            os.statvfs(mount.point)
            gaps.append(time.monotonic() - began)
    finally:
        reports: dict[str, Any] = {}
        errors = []
        for name, process in processes.items():
            try:
                said, _ = process.communicate(timeout=_STEP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
                errors.append(f"{name} did not end")
            text = said.decode(errors="replace").strip()
            if process.returncode:
                errors.append(f"{name}: {text[-2000:]}")
            else:
                reports[name] = json.loads(text.splitlines()[-1])
    gaps.sort()
    return {
        "seconds": seconds,
        "kills": len(gaps),
        "restarts": mount.status()["restarts"],
        "programs": reports,
        "errors": errors,
        "gap_ms_median": round(1000 * gaps[len(gaps) // 2], 1),
        "gap_ms_p95": round(1000 * gaps[int(len(gaps) * 0.95)], 1),
        "gap_ms_max": round(1000 * gaps[-1], 1),
    }


# --- what they do --------------------------------------------------------------------------------------


def sources(directory: Path) -> None:
    """A program in C of some modules, and Python modules."""
    directory.mkdir()
    for unit in range(_UNITS):
        loop = "for (int i = 0; i < x; i++) s = s * 31 + (i ^ %d);"
        functions = [
            f"int f{unit}_{n}(int x) {{ unsigned s = {n}; {loop % (unit * n)} return (int)s; }}" for n in range(40)
        ]
        (directory / f"unit{unit}.c").write_text("\n".join(functions) + "\n")
    calls = [f"f{unit}_{n}" for unit in range(_UNITS) for n in range(40)]
    declared = "\n".join(f"int {name}(int);" for name in calls)
    added = "\n".join(f"    sum = sum * 7 + {name}({number % 17});" for number, name in enumerate(calls))
    told = 'printf("%u\\n", sum);'
    body = f"int main(void) {{\n    unsigned sum = 0;\n{added}\n    {told}\n    return 0;\n}}\n"
    (directory / "main.c").write_text(f"#include <stdio.h>\n{declared}\n{body}")
    for name in _MODULES:
        found = Path(os.__file__).parent / name
        shutil.copytree(found, directory / name, ignore=shutil.ignore_patterns("__pycache__", "test*"))


BUILD: Final = """
for unit in main $(seq -f unit%.0f 0 {last}); do gcc -O1 -c $unit.c -o $unit.o; done
gcc *.o -o program.new && mv program.new program && ./program > said
{python} -m compileall -q --invalidation-mode unchecked-hash {modules}
""".format(last=_UNITS - 1, python=sys.executable, modules=" ".join(_MODULES))


def digests(directory: Path) -> dict[str, str]:
    """Of every file below, by its path."""
    return {
        os.fspath(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def compile_(directory: Path, elsewhere: Path, over: Callable[[], bool]) -> dict[str, Any]:
    """Build again and again from a fresh copy; every product is that of the local disk."""
    local = elsewhere / "build"
    sources(local)
    original = elsewhere / "sources"
    shutil.copytree(local, original)
    shell(BUILD, local, timeout_s=_STEP_S)
    wanted = digests(local)
    rounds = 0
    while not rounds or not over():
        place = directory / "build"
        shutil.copytree(original, place)
        shell(BUILD, place, timeout_s=_STEP_S)
        found = digests(place)
        assert found == wanted, sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
        shutil.rmtree(place)
        rounds += 1
    return {"rounds": rounds, "files": len(wanted)}


def git(directory: Path, elsewhere: Path, over: Callable[[], bool]) -> dict[str, Any]:
    """Commit, and pack all there is, again and again; every commit stays there, and is what was committed."""
    repository = directory / "repository"
    shell(
        f"git init -q {repository}; cd {repository}; git config user.email a@b; git config user.name n", directory
    )
    rounds = 0
    while not rounds or not over():
        for n in range(5):
            number = rounds * 5 + n
            for file in range(10):
                (repository / f"file{file}").write_text(f"{number} {file}\n" * (50 + file))
            shell(f"git add -A; git commit -qm {number}", repository, timeout_s=_STEP_S)
        shell("git gc -q --prune=now; git fsck --strict --no-progress", repository, timeout_s=_STEP_S)
        rounds += 1
    subjects = shell("git log --format=%s", repository).split()
    assert subjects == [str(number) for number in reversed(range(rounds * 5))], subjects
    for back in range(rounds * 5):
        number = rounds * 5 - 1 - back
        assert shell(f"git show HEAD~{back}:file3", repository) == f"{number} 3\n" * 53, f"commit {number}"
    assert shell("git status --porcelain", repository) == ""
    return {"rounds": rounds, "commits": rounds * 5}


def sqlite(directory: Path, elsewhere: Path, over: Callable[[], bool]) -> dict[str, Any]:
    """One row after the other, each committed; all of them stay."""
    rows = 0
    for mode in ("wal", "delete"):
        path = directory / f"{mode}.db"
        database = sqlite3.connect(path, isolation_level=None)
        database.execute(f"pragma journal_mode={mode}")
        database.execute("pragma synchronous=full")
        database.execute("create table t(n integer primary key, content blob)")
        database.close()
    contents: dict[int, bytes] = {}
    while not rows or not over():
        for mode in ("wal", "delete"):
            with sqlite3.connect(directory / f"{mode}.db", isolation_level=None) as database:
                for n in range(rows, rows + 20):
                    contents.setdefault(n, os.urandom(n % 3000))
                    database.execute("insert into t values (?, ?)", (n, contents[n]))
            database.close()
        rows += 20
    for mode in ("wal", "delete"):
        database = sqlite3.connect(directory / f"{mode}.db")
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        found = dict(database.execute("select n, content from t").fetchall())
        assert found == contents, f"{mode}: {len(found)} rows, {rows} committed"
        database.close()
    return {"rows": rows * 2}


def main(name: str, directory: Path, elsewhere: Path, until: float) -> int:
    """Be one of the programs."""
    program = {"compile": compile_, "git": git, "sqlite": sqlite}[name]
    print(json.dumps(program(directory, elsewhere, lambda: time.time() > until)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])))
