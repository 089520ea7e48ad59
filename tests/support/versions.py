"""The control surface of a mounted branch, as an unmodified program uses it: plain files and directories."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any


def control(branch: Path, name: str = "") -> Path:
    """A path in the branch's `.helios`."""
    return branch / ".helios" / name


def echo(path: Path, line: bytes) -> None:
    """As the shell's `echo LINE > PATH`. Raises OSError as write(2) does."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        os.write(descriptor, line + b"\n")
    finally:
        os.close(descriptor)


def touch(path: Path) -> None:
    """As touch(1): the file is not opened but its times are set."""
    os.utime(path)


def ask(path: Path, line: bytes) -> dict[str, Any]:
    """Write a command and read its reply through the same descriptor, refused or not."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        try:
            os.write(descriptor, line + b"\n")
        except OSError as error:
            reply = json.loads(os.pread(descriptor, 1 << 20, 0))
            assert reply["errno"] == errno.errorcode[error.errno or 0], reply
            return dict(reply)
        return dict(json.loads(os.pread(descriptor, 1 << 20, 0)))
    finally:
        os.close(descriptor)


def ctl(branch: Path, line: bytes) -> dict[str, Any]:
    """A command line given to `ctl`."""
    return ask(control(branch, "ctl"), line)


def last(branch: Path, name: str = "checkpoint") -> dict[str, Any]:
    """The last result given through a control file: `cat F`."""
    return dict(json.loads(control(branch, name).read_bytes()))


def snapshots(branch: Path) -> list[str]:
    """Names of the branch's snapshots, sorted, without `latest`."""
    return sorted(name for name in os.listdir(control(branch, "snapshots")) if name != "latest")


def snapshot(branch: Path, name: str = "latest") -> Path:
    """A snapshot's directory."""
    return control(branch, "snapshots") / name


def child(branch: Path, name: str) -> Path:
    """A branch below."""
    return control(branch, "branches") / name


def checkpoint(branch: Path, name: bytes) -> None:
    """A named snapshot."""
    echo(control(branch, "checkpoint"), name)


def restore(branch: Path, name: bytes) -> None:
    """Roll the branch back; coherent when this returns."""
    echo(control(branch, "restore"), name)
