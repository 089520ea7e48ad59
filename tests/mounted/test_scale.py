"""Much of something through a mount: a deep path, a huge sparse file, many files open, many versions."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from tests.support.versions import child, control, ctl, restore, snapshot, snapshots

pytestmark = pytest.mark.mounted
GIB = 1 << 30


def test_a_path_of_200_levels(branch: Path) -> None:
    path = branch / "/".join(f"level{number:03}" for number in range(200))
    path.mkdir(parents=True)
    (path / "bottom").write_bytes(b"deep")
    control(branch, "checkpoint").write_bytes(b"deep")
    (branch / "level000").rename(branch / "away")
    restore(branch, b"deep")
    assert (path / "bottom").read_bytes() == b"deep"
    assert not (branch / "away").exists()
    (branch / "level000").rename(branch / "away")
    assert ctl(branch, b"restore deep level000")["ok"]
    assert (path / "bottom").read_bytes() == b"deep"
    assert sum(1 for _ in os.walk(branch)) == 401


def test_a_sparse_file_of_50_gib(branch: Path) -> None:
    path = branch / "sparse"
    with open(path, "wb") as file:
        file.truncate(50 * GIB)
        for at in range(0, 50 * GIB, 10 * GIB):
            os.pwrite(file.fileno(), b"%020d" % at, at)
    control(branch, "checkpoint").write_bytes(b"v")
    os.truncate(path, 20 * GIB)
    with open(path, "r+b") as file:
        file.truncate(50 * GIB)
        assert os.pread(file.fileno(), 20, 40 * GIB) == bytes(20)
        assert os.pread(file.fileno(), 20, 10 * GIB) == b"%020d" % (10 * GIB)
    restore(branch, b"v")
    with open(path, "rb") as file:
        assert os.pread(file.fileno(), 20, 40 * GIB) == b"%020d" % (40 * GIB)
    assert os.stat(path).st_size == 50 * GIB
    assert os.stat(path).st_blocks * 512 < 1 << 20
    assert os.getxattr(branch, "user.helios.root").startswith(b"blake3:")


def test_hundreds_of_open_files(branch: Path) -> None:
    """Unlinked, too: each keeps what it has."""
    count = 600
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 500)), hard))
    held = []
    try:
        for number in range(count):
            descriptor = os.open(branch / f"f{number}", os.O_CREAT | os.O_RDWR)
            os.write(descriptor, b"%d" % number)
            held.append(descriptor)
        for number in range(0, count, 2):
            os.unlink(branch / f"f{number}")
        assert [int(os.pread(descriptor, 10, 0)) for descriptor in held] == list(range(count))
        assert len(os.listdir(branch)) == count // 2
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_hundreds_of_snapshots_and_branches(branch: Path) -> None:
    """Listed whole, found by name, each its own."""
    path = branch / "f"
    descriptor = os.open(control(branch, "checkpoint"), os.O_WRONLY)
    for number in range(300):
        path.write_bytes(b"%d" % number)
        os.write(descriptor, b"s%03d" % number)
    os.close(descriptor)
    assert snapshots(branch) == ["base", *(f"s{number:03}" for number in range(300))]
    for number in (0, 150, 299):
        assert (snapshot(branch, f"s{number:03}") / "f").read_bytes() == b"%d" % number
    for number in range(100):
        child(branch, f"b{number:02}").mkdir()
    names = os.listdir(control(branch, "branches"))
    assert sorted(names) == [f"b{number:02}" for number in range(100)]
    (child(branch, "b42") / "f").write_bytes(b"own")
    assert {(child(branch, name) / "f").read_bytes() for name in names} == {b"own", b"299"}
