"""`-o debug=requests`: every request as a line, the counts at the end; and what a mount is not asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore, Mounts, run, wait_until

pytestmark = pytest.mark.mounted


def asked(mounted: MountedStore, act: Callable[[Path], object]) -> list[str]:
    """The requests behind `act`: operations, and names where there are any."""
    point = mounted.point
    assert not (point / ".begin").exists()
    act(point)
    assert not (point / ".end").exists()
    wait_until(lambda: 'LOOKUP 1 ".end" =' in mounted.said(), "the last request in the log")
    said = mounted.said().partition('LOOKUP 1 ".begin" =')[2].partition('LOOKUP 1 ".end" =')[0]
    lines = [line.partition("heliosfs.requests: ")[2] for line in said.splitlines()]
    found = [(line.partition(" ")[0], line.partition('"')[2].partition('"')[0]) for line in lines if line]
    return [f"{operation} {name}".strip() for operation, name in found if "FORGET" not in operation]


def made(path: Path) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(descriptor, b"x" * 4096)
    os.close(descriptor)


def test_a_new_file_is_four_requests(mounts: Mounts) -> None:
    """Create, write 4 KiB, close in a directory that was changed before; the mount's first file, too."""
    with mounts.mounted("kernel", "debug=requests") as mounted:
        (mounted.point / "d/e").mkdir(parents=True)
        assert asked(mounted, lambda point: made(point / "d/f")) == [*("GETATTR", "LOOKUP f", "CREATE f", "WRITE")]


def test_who_is_trusted_is_three(mounts: Mounts) -> None:
    with mounts.mounted("kernel", "debug=requests,permissions=trusted") as mounted:
        (mounted.point / "d/e").mkdir(parents=True)
        assert asked(mounted, lambda point: made(point / "d/f")) == [*("LOOKUP f", "CREATE f", "WRITE")]


def test_a_path_into_a_fork_is_three_names_and_one_directory(mounts: Mounts) -> None:
    """The fork's root is asked for but once, and `.helios` not while the kernel's clock stands still."""
    times = 20

    def looks(point: Path) -> None:
        for _ in range(times):
            (point / ".helios/branches/x/f").stat()

    with mounts.mounted("kernel", "debug=requests") as mounted:
        fork = mounted.point / ".helios/branches/x"
        fork.mkdir()
        (fork / "f").touch()
        taken = asked(mounted, looks)
    least = ["LOOKUP .helios", "LOOKUP branches", "GETATTR", "LOOKUP x"]
    assert len(taken) <= times * 5, taken
    assert any(taken[start : start + 5] == [*least, least[0]] for start in range(len(taken))), taken


def test_each_write_to_a_new_file_is_one_request(mounts: Mounts) -> None:
    """Of whatever size and place: the page cache would end a request at each page that it has in part."""

    def writes(point: Path) -> None:
        with open(point / "d/f", "wb", buffering=0) as file:
            for size in (9216, 10240, 10240, 1, 4095, 4097, 100_000):
                file.write(b"z" * size)

    with mounts.mounted("kernel", "debug=requests") as mounted:
        (mounted.point / "d/e").mkdir(parents=True)
        assert asked(mounted, writes) == ["GETATTR", "LOOKUP f", "CREATE f", *["WRITE"] * 7]
        assert (mounted.point / "d/f").read_bytes() == b"z" * 137_889


def test_names_of_attributes(mounts: Mounts) -> None:
    with mounts.mounted("kernel", "debug=requests") as mounted:
        found = asked(mounted, lambda point: os.setxattr(point, b"user.name", b"value"))
        assert [line for line in found if "XATTR" in line] == ["SETXATTR user.name"]
        mounted.unmount()
        assert [line.split()[-2:] for line in mounted.said().splitlines() if line.endswith(" SETXATTR")] == [
            ["1", "SETXATTR"]
        ]


def test_what_is_known_is_not_asked(mounts: Mounts) -> None:
    """Listed, opened and read once: nothing at all the second time."""
    with mounts.mounted("kernel", "debug=requests") as mounted:
        tree = mounted.point / "tree"
        (tree / "d").mkdir(parents=True)
        for number in range(10):
            (tree / f"d/{number}").write_bytes(b"y" * 5000)
        look = ("sh", "-c", "find . -ls; grep -r x .; test -e absent; ls -R; stat d/*")
        for _ in range(2):
            run(*look, cwd=tree, check=False)
        found = asked(mounted, lambda _: run(*look, cwd=tree, check=False))
    # find(1) and ls(1) ask what filesystem they are on.
    assert set(found) <= {"STATFS"}


def sizes_read(mounted: MountedStore) -> list[int]:
    """How much each READ so far has asked for."""
    lines = [line for line in mounted.said().splitlines() if " READ " in line]
    return [int(line.partition("+")[2].split()[0]) for line in lines]


def test_a_write_and_a_stat_leave_what_is_cached(mounts: Mounts) -> None:
    """EXPLICIT_INVAL_DATA: with the automatic kind the whole file would be read again."""

    def change(point: Path) -> None:
        with open(point / "f", "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"new", 5_000)
            os.fstat(file.fileno())
            assert file.read() == b"y" * 5_000 + b"new" + b"y" * 994_997

    with mounts.mounted("kernel", "debug=requests") as mounted:
        (mounted.point / "f").write_bytes(b"y" * 1_000_000)
        assert len((mounted.point / "f").read_bytes()) == 1_000_000
        found = asked(mounted, change)
        assert "WRITE" in found and "READ" not in found, found


@pytest.mark.skipif(os.geteuid() != 0, reason="read-ahead is root's to set")
def test_a_cold_file_is_read_a_mebibyte_at_a_time(mounts: Mounts) -> None:
    with mounts.mounted("kernel", "debug=requests") as mounted:
        data = os.urandom(1 << 20) * 8
        (mounted.point / "f").write_bytes(data)
        mounted.unmount()
        mounted.mount("debug=requests")
        before = len(sizes_read(mounted))
        assert run("sha256sum", mounted.point / "f").stdout
        assert not (mounted.point / ".end").exists()
        wait_until(lambda: 'LOOKUP 1 ".end" =' in mounted.said(), "the last request in the log")
        sizes = sizes_read(mounted)[before:]
        assert sum(sizes) >= len(data)
        assert max(sizes) == 1 << 20
        assert len(sizes) <= 12, sizes


def test_targets_of_links_are_kept_but_not_of_latest(mounts: Mounts) -> None:
    def follow(point: Path) -> None:
        for _ in range(3):
            assert os.readlink(point / "link") == "target"

    with mounts.mounted("kernel", "debug=requests") as mounted:
        (mounted.point / "link").symlink_to("target")
        assert asked(mounted, follow) == ["READLINK"]
        latest = mounted.point / ".helios/snapshots/latest"
        for name in ("one", "two", "three"):
            (mounted.point / ".helios/checkpoint").write_text(name)
            assert os.readlink(latest) == name
        (mounted.point / ".helios/restore").write_text("one")
        assert os.readlink(latest) == "one"
