"""What is chosen for a mount where memory is short, and how much of it there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliosfs.daemon.options import MountOptions
from heliosfs.daemon.room import AMPLE, fitted, memory_limit

MB = 1 << 20


def test_with_enough_nothing_is_left_out() -> None:
    assert fitted(MountOptions(), AMPLE) == MountOptions(follow=True)


def test_with_little_nobody_follows_and_caches_are_small() -> None:
    assert fitted(MountOptions(), AMPLE - 1) == MountOptions(follow=False, memory_bytes=32 * MB)


@pytest.mark.parametrize("limit", [200 * MB, 10 * AMPLE])
def test_what_was_asked_for_counts(limit: int) -> None:
    for follow in (True, False):
        asked = MountOptions(follow=follow, memory_bytes=64 * MB)
        assert fitted(asked, limit) == asked


def machine(top: Path, cgroup: str, **limits: str) -> tuple[Path, Path]:
    """A machine of 1 GiB: what /proc/self/cgroup says, and limits by the path of their file, with __ for /."""
    proc, cgroups = top / "proc", top / "cgroups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:        1048576 kB\nMemFree:            1 kB\n")
    (proc / "self/cgroup").write_text(cgroup)
    for path, limit in limits.items():
        file = cgroups / path.replace("__", "/").replace("LIMIT", "memory.limit_in_bytes").replace(
            "MAX", "memory.max"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit + "\n")
    return proc, cgroups


def test_a_machine_without_groups_has_what_it_has(tmp_path: Path) -> None:
    assert memory_limit(*machine(tmp_path, "")) == 1024 * MB
    (tmp_path / "proc/self/cgroup").unlink()
    assert memory_limit(tmp_path / "proc", tmp_path / "cgroups") == 1024 * MB


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({"a__b__MAX": "max", "a__MAX": "max"}, 1024 * MB),
        ({"a__b__MAX": "209715200", "a__MAX": "max"}, 200 * MB),
        ({"a__b__MAX": "209715200", "a__MAX": "104857600"}, 100 * MB),
        ({"MAX": "104857600"}, 100 * MB),
        ({}, 1024 * MB),
    ],
)
def test_the_least_limit_of_the_groups_counts(tmp_path: Path, limits: dict[str, str], found: int) -> None:
    assert memory_limit(*machine(tmp_path, "0::/a/b\n", **limits)) == found


def test_groups_of_the_first_version(tmp_path: Path) -> None:
    listed = "9:name=systemd:/x\n4:cpu,memory:/a/b\n3:cpuset:/c\n0::/\n"
    limits = {
        "memory__a__b__LIMIT": "9223372036854771712",
        "memory__a__LIMIT": "209715200",
        "cpuset__c__LIMIT": "1",
    }
    assert memory_limit(*machine(tmp_path, listed, **limits)) == 200 * MB
