"""How many requests each step of the workload makes, by operation: what `-o debug=requests` has logged.

The mount says itself where a step begins and ends: a name is looked up there that nothing else asks for. Taken with
the kernel checking permissions, and with `-o permissions=trusted`. Each step is verified as in the workload table.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.bench.figures import Figure
from tests.bench.mounts import Mount, mounted
from tests.bench.plan import Plan
from tests.bench.steps import Kit, Site, make_kit, steps_of

_MARK: Final = ".heliosfs-bench"
_LOGGED: Final = "heliosfs.requests: "
_MODES: Final = {"default": "", "trusted": ",permissions=trusted"}
_UNAWAITED: Final = frozenset(("FORGET", "BATCH_FORGET", "INTERRUPT", "RELEASE"))
"""What nobody waits for."""
_PER: Final[dict[str, Callable[[Kit], int]]] = {
    **dict.fromkeys(
        ("untar", "git init + add + commit", "git checkout of all", "cp -a inside", "rm -rf"),
        lambda kit: kit.tree.files,
    ),
    **dict.fromkeys(("creates of 4 KiB", "stat, warm", "open+read+close, warm"), lambda kit: kit.plan.loose_files),
    **dict.fromkeys(("SQLite transactions, WAL", "SQLite transactions, DELETE"), lambda kit: kit.plan.transactions),
    "pip install of a wheel": lambda kit: kit.wheel_files,
}
"""What a step's requests are divided by: files, or transactions."""
_WAIT_S: Final = 30.0


class Log:
    """What a mount has logged of its requests."""

    def __init__(self, mount: Mount) -> None:
        self._point = mount.point
        self._path = mount.store / "daemon.log"
        self._marks = 0
        self._at = 0

    def mark(self, word: str) -> None:
        """Put a mark into the log: a name that nothing else asks for."""
        self._marks += 1
        with contextlib.suppress(FileNotFoundError):
            os.stat(self._point / f"{_MARK}-{self._marks}-{word}")

    def between_marks(self) -> Counter[str]:
        """Requests by operation between the last "begin" and the last "end", since it was asked before."""
        last = f"{_MARK}-{self._marks}-end"
        found: Counter[str] = Counter()
        counted = found
        for line in self._lines(last):
            if _MARK in line:
                if line.endswith("begin"):
                    found = counted = Counter()
                else:
                    # Until the next begin nothing counts.
                    counted = Counter()
            elif line:
                counted[_kind(line)] += 1
        return found

    def _lines(self, last: str) -> Iterator[str]:
        """Requests, one a line: operation, node, name of a mark; returns behind the mark `last`."""
        end = time.monotonic() + _WAIT_S
        while True:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            if last.encode() in whole:
                break
            if time.monotonic() > end:
                raise TimeoutError(f"{last} does not come up in {self._path}")
            time.sleep(0.05)
        self._at += len(whole)
        for raw in whole.decode(errors="replace").splitlines():
            line = raw.partition(_LOGGED)[2]
            yield line.partition('"')[2].partition('"')[0] if _MARK in line else line
            if last in line:
                return


def _kind(line: str) -> str:
    """The operation, and whose attribute it is about."""
    operation = line.partition(" ")[0]
    if operation not in ("GETXATTR", "SETXATTR", "REMOVEXATTR"):
        return operation
    return f"{operation} {line.partition(chr(34))[2].partition(chr(34))[0]}"


def counts(plan: Plan, directory: Path, kit: Kit, mode: str) -> dict[str, tuple[Counter[str], bool]]:
    """Requests by operation of each step, and whether it did what it should."""
    taken: dict[str, tuple[Counter[str], bool]] = {}
    with mounted(directory / mode, "transport=kernel,debug=requests" + _MODES[mode]) as mount:
        log = Log(mount)
        base = mount.point / "site"
        base.mkdir()
        site = Site(base, kit, log.mark)
        for name, step in steps_of(plan).items():
            _, right = step(site)
            taken[name] = log.between_marks(), right
    return taken


def run(plan: Plan) -> list[Figure]:
    """A row a step and mode: requests that somebody waits for. The table by operation is printed."""
    directory = plan.directory / "requests"
    kit = make_kit(plan, directory / "kit")
    by_mode = {mode: counts(plan, directory, kit, mode) for mode in _MODES}
    for line in text(by_mode, kit):
        print(line, flush=True)
    rows = []
    for name in steps_of(plan):
        for mode, taken in by_mode.items():
            by_operation, right = taken[name]
            total = _awaited(by_operation)
            rows.append(Figure(f"requests: {name} [{mode}]", total, "", "", None, (total, total), "kill", right))
    return rows


def _awaited(by_operation: Counter[str]) -> int:
    return sum(count for operation, count in by_operation.items() if operation not in _UNAWAITED)


def text(by_mode: dict[str, dict[str, tuple[Counter[str], bool]]], kit: Kit) -> list[str]:
    """Each step: requests that somebody waits for, for each file or transaction, and all by operation."""
    lines = [f"requests by operation ({kit.tree.files} files; in brackets: for each file or transaction)"]
    for name in next(iter(by_mode.values())):
        for mode, taken in by_mode.items():
            by_operation, right = taken[name]
            total = _awaited(by_operation)
            each = f" ({total / _PER[name](kit):.2f})" if name in _PER else ""
            listed = ", ".join(f"{operation} {count}" for operation, count in by_operation.most_common())
            wrong = "" if right else " WRONG"
            lines.append(f"{name:27}{mode:9}{total:>7}{each:10}{wrong} {listed}")
    return lines
