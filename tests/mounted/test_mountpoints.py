"""Several mountpoints of one daemon, which the kernel transport has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import Guard, MountedStore, Mounts, connection_of, heliosfs, wait_until

pytestmark = pytest.mark.mounted


@contextmanager
def further(mounted: MountedStore, guard: Guard, name: str, *options: str) -> Iterator[Path]:
    """One more mountpoint of a mounted store; unmounted at the end, if it still is mounted."""
    point = mounted.base / name
    point.mkdir()
    heliosfs("mount", mounted.store, point, *(["-o", ",".join(options)] if options else []))
    guard.say(f"hold {point} {connection_of(point)}")
    try:
        yield point
    finally:
        heliosfs("umount", point, check=False)
        guard.say(f"drop {point}")


@pytest.fixture
def kernel(mounts: Mounts) -> Iterator[MountedStore]:
    with mounts.mounted("kernel") as mounted:
        yield mounted


def daemon_of(point: Path) -> int:
    pid: int = json.loads((point / ".helios/status").read_bytes())["worker_pid"]
    return pid


def alive(pid: int) -> bool:
    """Whether a process runs: it may be dead and nobody have asked for its end yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_one_daemon_serves_them_and_ends_with_the_last(kernel: MountedStore, guard: Guard) -> None:
    (kernel.point / ".helios/branches/exp").mkdir()
    with further(kernel, guard, "exp", "branch=main/exp") as exp, further(kernel, guard, "again") as again:
        pid = daemon_of(kernel.point)
        assert daemon_of(exp) == daemon_of(again) == pid
        (exp / "f").write_bytes(b"of exp")
        assert (kernel.point / ".helios/branches/exp/f").read_bytes() == b"of exp"
        assert os.listdir(kernel.point) == os.listdir(again) == []
        with pytest.raises(OSError):
            (kernel.point / ".helios/branches/exp").rmdir()
        kernel.unmount()
        (again / "g").write_bytes(b"one is left")
        heliosfs("umount", exp)
        assert (again / "g").read_bytes() == b"one is left"
        heliosfs("umount", again)
        assert not alive(pid)
    assert kernel.check() == []


DAEMONS = ("pid", "worker_pid", "restarts", "supervised", "transport", "mountpoint", "mountpoints")


def test_status_says_the_same_on_each_way(kernel: MountedStore, guard: Guard) -> None:
    """What is the daemon's own as well; but where else a store is mounted is not for who sees a branch of it."""
    (kernel.point / ".helios/branches/exp").mkdir()
    with further(kernel, guard, "again") as again:
        ways = [
            json.loads(heliosfs("status", "--store", kernel.store, "--json").stdout),
            json.loads(heliosfs("status", "-C", again, "--json").stdout),
            kernel.status(),
        ]
        told = [{key: way[key] for key in DAEMONS} for way in ways]
        assert told[0] == told[1] == told[2]
        assert told[0]["worker_pid"] == kernel.worker() and told[0]["pid"] == kernel.daemon()
        assert told[0]["mountpoints"] == [str(kernel.point), str(again)]
        assert told[0]["transport"] == "kernel" and told[0]["restarts"] == 0
        nested = json.loads((kernel.point / ".helios/branches/exp/.helios/status").read_bytes())
        assert nested["pid"] == kernel.daemon() and not {"mountpoint", "mountpoints"} & nested.keys()
    kernel.unmount()
    offline = json.loads(heliosfs("status", "--store", kernel.store, "--json").stdout)
    assert {offline[key] for key in DAEMONS} == {None}


def test_two_views_of_one_branch_agree(kernel: MountedStore, guard: Guard) -> None:
    """What one of them changes, the other one sees a moment later: names, attributes and content."""
    one = kernel.point
    with further(kernel, guard, "two") as two:
        (one / "f").write_bytes(b"first")
        assert (two / "f").read_bytes() == b"first"
        assert not (two / "d").exists()
        with open(one / "f", "ab") as file:
            file.write(b", second")
        wait_until(lambda: (two / "f").read_bytes() == b"first, second", "the content")
        (one / "d").mkdir()
        wait_until((two / "d").is_dir, "a name that was known not to be there")
        (two / "f").chmod(0o600)
        wait_until(lambda: (one / "f").stat().st_mode & 0o777 == 0o600, "attributes")
        (two / "f").rename(two / "d/g")
        wait_until(lambda: not (one / "f").exists() and (one / "d/g").exists(), "a rename")
        held = os.open(one / "d/g", os.O_RDONLY)
        (two / "d/g").unlink()
        wait_until(lambda: os.listdir(one / "d") == [], "an unlink")
        assert os.read(held, 100) == b"first, second", "an unlinked file stays while one of the kernels knows it"
        os.close(held)
        (two / "x").write_bytes(b"1")
        (two / ".helios/snapshots/v1").mkdir()
        (two / "x").write_bytes(b"2")
        wait_until(lambda: (one / "x").read_bytes() == b"2", "x")
        (one / ".helios/restore").write_bytes(b"v1")
        assert (two / "x").read_bytes() == b"1", "a restore has told both before it returned"


def test_what_is_refused(kernel: MountedStore, guard: Guard) -> None:
    for number, (options, code) in enumerate(
        (("branch=main/none", 1), ("memory=64M", 3), ("transport=pyfuse3", 3), ("commit=2s", 3))
    ):
        point = kernel.base / f"no{number}"
        point.mkdir()
        done = heliosfs("mount", kernel.store, point, "-o", options, check=False)
        assert done.returncode == code, done
        assert done.stderr.count("\n") == 1
    assert heliosfs("mount", kernel.store, kernel.point, check=False).returncode == 1
