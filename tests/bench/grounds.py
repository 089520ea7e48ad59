"""Filesystems to compare: each gives an empty directory to work in and is gone afterwards.

The directory's own filesystem is always there; overlayfs, btrfs and tmpfs where this machine mounts them (root);
other FUSE filesystems where their programs are installed. Must not know: what is done in them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.machine import filesystem_of
from tests.bench.mounts import mounted

OURS = "heliosfs"
PORTABLE = "pyfuse3"
"""Ours on the portable transport."""
NATIVE = "native"
PASS_THROUGH = "pass-through"
"""libfuse's pass-through example over a tmpfs."""
IN_MEMORY = "memfs_ll"
"""libfuse's in-memory example."""
_BTRFS_BYTES = 6 << 30
_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Ground:
    """A filesystem under test.

    Attributes:
        name: Column of the table.
        kind: Type as the kernel names it.
        directory: Empty at the start.
        survives: What an acknowledged write without fsync outlives: "kill" of the serving process, or "none".
        rest: Waits until nothing goes on in the background.
    """

    name: str
    kind: str
    directory: Path
    survives: str
    rest: Callable[[], None]


_Maker = Callable[[Path], AbstractContextManager[Ground]]


def _nothing() -> None:
    pass


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, timeout=120, capture_output=True)


def _unmount(point: Path) -> None:
    for words in (("umount", point), ("umount", "-l", point)):
        if subprocess.run(words, timeout=60, check=False, capture_output=True).returncode == 0:
            return


@contextmanager
def _native(directory: Path) -> Iterator[Ground]:
    place = directory / NATIVE
    place.mkdir()
    yield Ground(NATIVE, filesystem_of(directory), place, "kill", _nothing)


def _ours(name: str, transport: str) -> _Maker:
    @contextmanager
    def make(directory: Path) -> Iterator[Ground]:
        with mounted(directory / name, f"transport={transport}") as mount:
            yield Ground(name, filesystem_of(mount.point), mount.point, "kill", mount.idle)

    return make


@contextmanager
def _overlay(directory: Path) -> Iterator[Ground]:
    place = directory / "overlay"
    for name in ("lower", "upper", "work", "mnt"):
        (place / name).mkdir(parents=True)
    point = place / "mnt"
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    _run("mount", "-t", "overlay", "-o", options, "heliosfs-bench", point)
    try:
        yield Ground("overlayfs", filesystem_of(point), point, "kill", _nothing)
    finally:
        _unmount(point)


@contextmanager
def _btrfs(directory: Path) -> Iterator[Ground]:
    point = directory / "btrfs"
    point.mkdir()
    image = directory / "btrfs.img"
    with image.open("wb") as file:
        file.truncate(_BTRFS_BYTES)
    _run("mkfs.btrfs", "-q", image)
    _run("mount", "-t", "btrfs", "-o", "loop", image, point)
    try:
        yield Ground("btrfs", filesystem_of(point), point, "kill", _nothing)
    finally:
        _unmount(point)


@contextmanager
def _tmpfs(directory: Path) -> Iterator[Ground]:
    point = directory / "tmpfs"
    point.mkdir()
    _run("mount", "-t", "tmpfs", "heliosfs-bench", point)
    try:
        yield Ground("tmpfs", filesystem_of(point), point, "none", _nothing)
    finally:
        _unmount(point)


def _fuse_peer(
    name: str, command: Callable[[Path, Path], list[list[str | Path]]], *, backed: bool = True
) -> _Maker:
    """A FUSE filesystem of somebody else's: the commands that mount `backing` at `point`; the last may stay.

    Args:
        backed: Make the directory `backing`; else the commands know theirs.
    """

    @contextmanager
    def make(directory: Path) -> Iterator[Ground]:
        point = directory / name
        backing = directory / f"{name}.backing"
        point.mkdir(parents=True)
        if backed:
            backing.mkdir()
        *before, last = command(backing, point)
        for words in before:
            _run(*words)
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(last, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            try:
                end = time.monotonic() + _WAIT_S
                while not os.path.ismount(point):
                    if time.monotonic() > end:
                        raise OSError(f"{name} did not mount")
                    time.sleep(0.02)
                yield Ground(name, filesystem_of(point), point, "none", _nothing)
            finally:
                _unmount(point)
                try:
                    process.wait(_WAIT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    return make


@contextmanager
def _pass_through(directory: Path) -> Iterator[Ground]:
    """libfuse's pass-through over a tmpfs: what a FUSE filesystem in C++ that keeps nothing takes."""
    backing = directory / f"{PASS_THROUGH}.backing"
    backing.mkdir(parents=True)
    _run("mount", "-t", "tmpfs", "heliosfs-bench", backing)
    try:
        make = _fuse_peer(
            PASS_THROUGH, lambda _, point: [["passthrough_hp", "--foreground", backing, point]], backed=False
        )
        with make(directory) as ground:
            yield ground
    finally:
        _unmount(backing)


@contextmanager
def _fuse_overlayfs(directory: Path) -> Iterator[Ground]:
    place = directory / "fuse-overlayfs.dirs"
    for name in ("lower", "upper", "work"):
        (place / name).mkdir(parents=True)
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    make = _fuse_peer(
        "fuse-overlayfs", lambda _, point: [["fuse-overlayfs", "-f", "-o", options, point]], backed=False
    )
    with make(directory) as ground:
        yield ground


_S3QL_LOGIN = ("--authfile", "/dev/null")
_PEERS: dict[str, tuple[tuple[str, ...], _Maker]] = {
    "overlayfs": (("mount",), _overlay),
    "btrfs": (("mount", "mkfs.btrfs"), _btrfs),
    "tmpfs": (("mount",), _tmpfs),
    "passthrough_ll": (
        ("passthrough_ll",),
        _fuse_peer(
            "passthrough_ll",
            lambda backing, point: [["passthrough_ll", "-f", "-o", f"source={backing},cache=always", point]],
        ),
    ),
    PASS_THROUGH: (("mount", "passthrough_hp"), _pass_through),
    "fuse-overlayfs": (("fuse-overlayfs",), _fuse_overlayfs),
    "passthrough_hp": (
        ("passthrough_hp",),
        _fuse_peer("passthrough_hp", lambda backing, point: [["passthrough_hp", "--foreground", backing, point]]),
    ),
    IN_MEMORY: (("memfs_ll",), _fuse_peer(IN_MEMORY, lambda _, point: [[IN_MEMORY, "-f", point]])),
    "s3ql": (
        ("mkfs.s3ql", "mount.s3ql"),
        _fuse_peer(
            "s3ql",
            lambda backing, point: [
                ["mkfs.s3ql", "--plain", *_S3QL_LOGIN, "--cachedir", f"{backing}.cache", f"local://{backing}"],
                [
                    *("mount.s3ql", "--fg", *_S3QL_LOGIN, "--cachedir", f"{backing}.cache"),
                    *(f"local://{backing}", point),
                ],
            ],
        ),
    ),
}
PEERS = tuple(_PEERS)
_OURS = (_ours(OURS, "kernel"), _ours(PORTABLE, "pyfuse3"))


def _possible(name: str) -> bool:
    programs = _PEERS[name][0]
    return all(shutil.which(program) for program in programs) and (programs[0] != "mount" or os.geteuid() == 0)


@contextmanager
def grounds(directory: Path, wanted: tuple[str, ...] | None) -> Iterator[list[Ground]]:
    """The filesystems that can be had here, ours and the native one first; all are gone at the end.

    Args:
        wanted: Names of peers; None for whatever this machine can mount.
    """
    names = [name for name in PEERS if _possible(name) and (wanted is None or name in wanted)]
    makers: list[_Maker] = [_native, *_OURS, *(_PEERS[name][1] for name in names)]
    entered: list[AbstractContextManager[Ground]] = []
    ready: list[Ground] = []
    failure: BaseException | None = None
    try:
        for maker in makers:
            manager = maker(directory)
            try:
                ready.append(manager.__enter__())
            except (OSError, subprocess.SubprocessError):
                if maker is _native or maker in _OURS:
                    raise
                continue
            entered.append(manager)
        yield ready
    except BaseException as error:
        failure = error
        raise
    finally:
        for manager in reversed(entered):
            try:
                manager.__exit__(type(failure) if failure else None, failure, None)
            except (OSError, subprocess.SubprocessError):
                if failure is None:
                    raise
