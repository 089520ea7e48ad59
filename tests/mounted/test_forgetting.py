"""FORGET and BATCH_FORGET: what the kernel knows is counted exactly, so that all is let go in the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import REPOSITORY, Guard, connection_of, fill, wait_until
from tests.support.remount import forget_all
from tests.support.versions import child, restore, snapshot

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="to have one mount forgotten takes root"),
]


class Counting:
    """A mounted store that says how many inodes the kernel knows."""

    def __init__(self, base: Path, guard: Guard) -> None:
        self.point = base / "mnt"
        self.point.mkdir()
        self._guard = guard
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kernel_daemon", base / "store", self.point],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"
        guard.say(f"hold {self.point} {connection_of(self.point)}")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def known(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def close(self) -> None:
        self._process.communicate(timeout=30)
        self._guard.say(f"drop {self.point}")


@pytest.fixture
def mount(scratch: Path, guard: Guard) -> Iterator[Counting]:
    made = Counting(scratch, guard)
    yield made
    made.close()


def numbers(*trees: Path) -> set[int]:
    """The inodes below these, listed by readdir(3) with all their attributes."""
    return {path.lstat().st_ino for tree in trees for path in tree.rglob("*")}


def test_each_is_counted_once_and_all_are_let_go(mount: Counting) -> None:
    point = mount.point
    assert mount.known() == 0
    fill(point, files=60)
    for _ in range(3):
        for held in (numbers(point), numbers(point)):
            assert mount.known() == len(held)
        forget_all(point)
        wait_until(lambda: mount.known() == 0, "the kernel has given all back")


def test_whatever_is_done_with_names(mount: Counting) -> None:
    """Made, found, linked, renamed over one another, removed, without a name, restored; in branches, by tickets."""
    point = mount.point
    fill(point)
    snapshot(point, "v1").mkdir()
    child(point, "exp").mkdir()
    numbers(point, child(point, "exp"), snapshot(point, "v1"))
    with open(point / "held", "w+b") as held:
        (point / "held").unlink()
        unnamed = os.open(point, os.O_TMPFILE | os.O_RDWR)
        os.link(f"/proc/self/fd/{unnamed}", point / "named", src_dir_fd=unnamed, follow_symlinks=True)
        os.close(unnamed)
        for number in range(300):
            (point / f"n{number}").symlink_to("x")
            os.rename(point / f"n{number}", point / "over")
            assert not (point / "absent").exists()
        (point / "over").unlink()
        for name in ("ctl", "status", "log", "checkpoint"):
            (point / ".helios" / name).read_bytes()
        os.listdir(point / ".helios")
        restore(point, b"v1")
        numbers(point)
        forget_all(point)
        wait_until(lambda: mount.known() == 1, "all is given back but what is open")
        held.write(b"still there")
        held.seek(0)
        assert held.read() == b"still there"
    forget_all(point)
    wait_until(lambda: mount.known() == 0, "the kernel has given all back")
