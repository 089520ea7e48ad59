"""The time of birth that statx(2) shows: when the inode was made, whatever has become of it since."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.mounts import Mounts, run
from tests.support.versions import child, restore, snapshot

pytestmark = pytest.mark.mounted


def born(path: Path) -> str:
    """Seconds with all their digits; "0" where nobody knows."""
    return run("stat", "-c", "%.9W", path).stdout.strip()


def test_it_stays(mounts: Mounts) -> None:
    with mounts.mounted("kernel") as mount:
        point = mount.point
        before = time.time()
        (point / "f").write_bytes(b"1")
        (point / "d").mkdir()
        (point / "l").symlink_to("f")
        when = {name: born(point / name) for name in ("f", "d", "l")}
        assert all(before - 0.1 <= float(moment) <= time.time() for moment in when.values())
        snapshot(point, "v1").mkdir()
        child(point, "exp").mkdir()
        (point / "f").write_bytes(b"2")
        (point / "f").chmod(0o600)
        os.utime(point / "f", (1, 1))
        (point / "f").rename(point / "d/g")
        assert born(point / "d/g") == when["f"]
        assert born(child(point, "exp") / "f") == when["f"] == born(snapshot(point, "v1") / "f")
        restore(point, b"v1")
        assert {name: born(point / name) for name in when} == when
        os.kill(mount.worker(), signal.SIGKILL)
        assert {name: born(point / name) for name in when} == when
        mount.unmount()
        mount.mount()
        assert {name: born(point / name) for name in when} == when
        assert born(point / ".helios/status") != ""


def test_pyfuse3_knows_none(mounts: Mounts) -> None:
    with mounts.mounted("pyfuse3") as mount:
        (mount.point / "f").write_bytes(b"1")
        assert float(born(mount.point / "f").replace("-", "0")) == 0
