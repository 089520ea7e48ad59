"""A lossy filesystem of one's own: started as a process, spoken to, unmounted.

Must not know: what is stored on it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.lossy.images import How

_REPOSITORY = Path(__file__).resolve().parents[3]
_PATIENCE_S = 30.0


class Lossy:
    """The handle of a mounted lossy filesystem.

    Attributes:
        point: The mountpoint. root: the present epoch's directory.
    """

    def __init__(self, point: Path, connection: socket.socket) -> None:
        self.point = point
        self._connection = connection
        self._file = connection.makefile("rb")
        self.root = point / self._ask(do="epoch")["epoch"]

    def _ask(self, **command: Any) -> dict[str, Any]:
        self._connection.sendall(json.dumps(command).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._file.readline())
        return answer

    def renew(self) -> None:
        """A new, empty epoch."""
        self.root = self.point / self._ask(do="renew")["epoch"]

    def cut(self, how: How, seed: int) -> dict[str, int]:
        """The power goes: `root` is what is found afterwards. What was lost: writes, names, torn."""
        answer = self._ask(do="cut", how=how, seed=seed)
        self.root = self.point / answer.pop("epoch")
        return answer

    def rules(self, *rules: dict[str, Any]) -> None:
        """Replace the rules for failing operations; fields as in faults.Rule."""
        self._ask(do="rules", rules=list(rules))

    def capacity(self, size_bytes: int | None = None) -> None:
        """How much there is room for from now on; None: as much as anybody wants."""
        self._ask(do="capacity", **({} if size_bytes is None else {"bytes": size_bytes}))

    def state(self) -> dict[str, Any]:
        """off, used, counts; hit: operations that a rule or the capacity has stopped since it was set."""
        return self._ask(do="state")

    def close(self) -> None:
        """Let go of the connection."""
        self._file.close()
        self._connection.close()


@contextmanager
def mounted_lossy(directory: Path) -> Iterator[Lossy]:
    """A lossy filesystem at `directory`/lossy, unmounted at the end whatever happens."""
    point = directory / "lossy"
    point.mkdir()
    address = directory / "lossy.socket"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.lossy", os.fspath(point), os.fspath(address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_REPOSITORY,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n", "the lossy filesystem did not start"
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_PATIENCE_S)
        connection.connect(os.fspath(address))
        lossy = Lossy(point, connection)
        try:
            yield lossy
        finally:
            lossy.close()
    finally:
        process.stdin.close()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            subprocess.run(["umount", "-l", os.fspath(point)], check=False, timeout=_PATIENCE_S)
        process.stdout.close()
        address.unlink(missing_ok=True)
        point.rmdir()
