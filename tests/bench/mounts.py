"""A store and its mount for a benchmark: made by the command line, as a user would, and always ended.

Invariants: whatever happens, `close` leaves no mount; `abort_all` frees a run that hangs on one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TIMEOUT_S = 600
_LIVE: list[Path] = []
_TRANSPORT = ["kernel"]


def transport() -> str:
    """What mounts are served by that don't say."""
    return _TRANSPORT[0]


def use_transport(name: str) -> None:
    """Serve mounts that don't say by this one: "kernel" or "pyfuse3"."""
    _TRANSPORT[0] = name


def heliosfs(*words: str | Path, check: bool = True) -> dict[str, object]:
    """Run a verb of the command line; its JSON reply."""
    command = [sys.executable, "-m", "heliosfs", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if check and done.returncode:
        raise OSError(f"{' '.join(command)}: exit {done.returncode}: {done.stdout}{done.stderr}")
    lines = done.stdout.strip().splitlines()
    reply: dict[str, object] = json.loads(lines[-1]) if lines else {}
    return reply


class Mount:
    """One store, mounted at one directory.

    Attributes:
        point: The mountpoint.
        store: The store's directory.
    """

    def __init__(self, directory: Path, options: str = "") -> None:
        self.store = directory / "store"
        self.point = directory / "mnt"
        self.options = options
        directory.mkdir(parents=True, exist_ok=True)
        self.point.mkdir(exist_ok=True)
        if not self.store.exists():
            heliosfs("init", self.store)

    def start(self) -> None:
        """Mount; returns when live."""
        given = self.options.split(",") if self.options else []
        if not any(option.startswith("transport=") for option in given):
            given.append(f"transport={transport()}")
        _LIVE.append(self.point)
        heliosfs("mount", "-o", ",".join(given), self.store, self.point)

    def close(self) -> None:
        """Unmount; by force if it must be."""
        try:
            if os.path.ismount(self.point):
                heliosfs("umount", self.point)
        except (OSError, subprocess.SubprocessError):
            abort(self.point)
            raise
        finally:
            if self.point in _LIVE:
                _LIVE.remove(self.point)

    def control(self, name: str) -> Path:
        """A path in the root branch's control directory."""
        return self.point / ".helios" / name

    def status(self) -> dict[str, object]:
        """What `.helios/status` says."""
        found: dict[str, object] = json.loads(self.control("status").read_bytes())
        return found

    def settle(self) -> str:
        """Return when everything is in the page store; the Merkle root of the root branch."""
        return os.getxattr(self.point, "user.helios.root").decode()

    def idle(self, limit_s: float = 120.0) -> None:
        """Return when nothing waits to be stored. Raises TimeoutError."""
        end = time.monotonic() + limit_s
        while not self.status()["persisted"]:
            if time.monotonic() > end:
                raise TimeoutError("the store does not come to rest")
            self.settle()

    def processes(self) -> list[int]:
        """Process ids of the daemon and its workers."""
        pid = self.status()["worker_pid"]
        assert isinstance(pid, int)
        found = [pid]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                if parent == pid:
                    found.append(int(entry.name))
        return found


def abort(point: Path) -> None:
    """End a mount by force: requests that hang fail, the mountpoint is freed."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == os.fspath(point):
            connection = Path("/sys/fs/fuse/connections") / fields[2].partition(":")[2] / "abort"
            try:
                connection.write_text("1")
            except OSError:
                pass
    subprocess.run(["fusermount3", "-u", "-z", "-q", point], timeout=60, check=False, capture_output=True)


def abort_all() -> None:
    """End every mount of this process by force."""
    for point in list(_LIVE):
        abort(point)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """After `seconds` every mount is aborted, so that whatever hangs in one fails instead."""
    timer = threading.Timer(seconds, abort_all)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def mounted(directory: Path, options: str = "") -> Iterator[Mount]:
    """A new store's mount below `directory`, unmounted at the end."""
    mount = Mount(directory, options)
    try:
        mount.start()
        yield mount
    finally:
        mount.close()
