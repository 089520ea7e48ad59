"""What the figures were taken on: processor, memory, kernel, versions, filesystem."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

_PACKAGES = ("pyfuse3", "trio", "blake3", "lz4", "zstandard", "rocksdict", "immutables", "pyfastcdc")


def filesystem_of(path: Path) -> str:
    """Type of the filesystem that holds `path`, as the kernel names it; "unknown" if it does not say."""
    real = os.path.realpath(path)
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        at = left.split()[4]
        if (real == at or real.startswith(at.rstrip("/") + "/")) and len(at) >= len(best):
            best, kind = at, right.split()[0]
    return kind


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "absent"
    return (done.stdout or done.stderr).strip().splitlines()[0] if done.stdout or done.stderr else "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def describe(directory: Path) -> dict[str, object]:
    """The machine as it is now, for the head of a report."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystem": filesystem_of(directory),
        "libfuse": _said("fusermount3", "--version"),
        "git": _said("git", "--version"),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def text(machine: dict[str, object]) -> str:
    """The description, two lines."""
    packages = machine["packages"]
    assert isinstance(packages, dict)
    head = ", ".join(f"{key} {value}" for key, value in machine.items() if key != "packages")
    return f"{head}\npackages: " + ", ".join(f"{name} {version}" for name, version in packages.items())
