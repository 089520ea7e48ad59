"""A real mount over the filesystem in memory: what the kernel makes of our replies and notifications."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import REPOSITORY, Guard, connection_of, mountpoints, wait_until
from tests.support.otherprocess import OtherProcess

pytestmark = pytest.mark.mounted

Other = Callable[..., OtherProcess]


class MemoryMount:
    """A daemon that serves a MemoryFilesystem at `point`."""

    def __init__(self, base: Path, guard: Guard, *flags: str) -> None:
        self.point = base / "mnt"
        self.point.mkdir()
        self._said = base / "said"
        self._guard = guard
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.memory_daemon", self.point, *flags],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: "ready" in self.said() or self.process.poll() is not None, "a mount")
        assert "ready" in self.said(), self.said()
        guard.say(f"hold {self.point} {connection_of(self.point)}")

    def said(self) -> str:
        return self._said.read_text()

    def mounted(self) -> bool:
        return any(found == os.fsencode(self.point) for found, _ in mountpoints())

    def counts(self) -> dict[str, int]:
        """Requests the filesystem has seen, by kind."""
        text = os.getxattr(self.point, "user.helios.counts").decode()
        return {key: int(value) for key, _, value in (pair.partition("=") for pair in text.split())}

    def freeze(self) -> None:
        os.setxattr(self.point, "user.helios.freeze", b"1")

    def command(self, word: str) -> None:
        (self.point / ".helios" / "ctl").write_text(word)

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait(10)
            if self.mounted():
                subprocess.run(["umount", "-l", self.point], timeout=10, check=False)
            self._guard.say(f"drop {self.point}")


@pytest.fixture
def mount(scratch: Path, guard: Guard) -> Iterator[MemoryMount]:
    made = MemoryMount(scratch, guard, "allow_other")
    try:
        yield made
    finally:
        made.close()


def test_sigterm_unmounts_in_order(mount: MemoryMount) -> None:
    (mount.point / "f").write_text("x")
    mount.process.send_signal(signal.SIGTERM)
    assert mount.process.wait(30) == 0
    assert not mount.mounted()
    assert "ended" in mount.said()


def test_umount_from_outside_ends_the_daemon(mount: MemoryMount) -> None:
    (mount.point / "f").write_text("x")
    subprocess.run(["umount", mount.point], timeout=20, check=True)
    assert mount.process.wait(30) == 0


def test_it_is_shown_as_what_it_is(mount: MemoryMount) -> None:
    (line,) = (
        line
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines()
        if os.fsencode(mount.point) == line.split(b" ")[4]
    )
    left, _, right = line.partition(b" - ")
    assert right.split(b" ")[:2] == [b"fuse.heliosfs", b"/a\\040store"]
    assert b"nosuid" not in left
    assert b"nodev" not in left
    minor = left.split(b" ")[2].decode()
    wait_until(
        lambda: Path(f"/sys/class/bdi/{minor}/read_ahead_kb").read_text().strip() == "1024", "a longer read-ahead"
    )


def test_a_plain_workload(mount: MemoryMount) -> None:
    point = mount.point
    (point / "d").mkdir()
    (point / "d" / "f").write_bytes(b"text")
    os.symlink("d/f", point / "l")
    os.link(point / "d" / "f", point / "h")
    os.mknod(point / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.rename(point / "h", point / "d" / "h")
    assert (point / "l").read_bytes() == b"text"
    assert (point / "d" / "h").stat().st_nlink == 2
    assert (point / "null").stat().st_rdev == os.makedev(1, 3)
    (point / "null").write_bytes(b"gone")
    os.truncate(point / "d" / "f", 2)
    assert (point / "d" / "h").read_bytes() == b"te"
    os.utime(point / "d" / "f", ns=(1, 2))
    assert (point / "d" / "f").stat().st_mtime_ns == 2
    assert sorted(os.listdir(point)) == ["d", "l", "null"]
    with pytest.raises(OSError) as caught:
        os.rmdir(point / "d")
    assert caught.value.errno == errno.ENOTEMPTY
    os.setxattr(point / "l", b"user.a", b"1")
    assert os.listxattr(point / "d" / "f") == ["user.a"]
    numbers = os.statvfs(point)
    assert (numbers.f_blocks, numbers.f_bavail, numbers.f_namemax) == (1000, 400, 255)


def test_large_directories_are_listed_whole_and_once(mount: MemoryMount) -> None:
    names = {f"a rather long name, so that fewer fit {number}" for number in range(1000)}
    for name in names:
        os.close(os.open(mount.point / name, os.O_CREAT | os.O_WRONLY))
    found = os.listdir(mount.point)
    assert len(found) == len(names)
    assert set(found) == names


def test_large_reads_and_writes_come_in_one_request(mount: MemoryMount) -> None:
    data = os.urandom(4 << 20)
    before = mount.counts().get("write", 0)
    (mount.point / "f").write_bytes(data)
    assert mount.counts()["write"] - before == 4
    assert (mount.point / "f").read_bytes() == data


def test_what_is_cached_is_not_asked_again(mount: MemoryMount) -> None:
    (mount.point / "f").write_bytes(b"text")
    for _ in range(2):
        assert (mount.point / "f").read_bytes() == b"text"
        assert not (mount.point / "absent").exists()
        os.stat(mount.point / "f")
    before = mount.counts()
    for _ in range(10):
        assert (mount.point / "f").read_bytes() == b"text"
        assert not (mount.point / "absent").exists()
        os.stat(mount.point / "f")
    after = mount.counts()
    assert after.get("lookup") == before.get("lookup")
    assert after.get("read") == before.get("read")


def test_another_process_sees_a_restore_at_once(mount: MemoryMount, other: Other) -> None:
    point = mount.point
    (point / "d").mkdir()
    (point / "d" / "kept").write_bytes(b"before" * 1000)
    (point / "lost").write_bytes(b"lost")
    mount.freeze()
    process = other()
    (point / "lost").unlink()
    (point / "new").write_bytes(b"new")
    (point / "d" / "kept").write_bytes(b"after!!" * 1000)
    opened = process.open(point / "d" / "kept", os.O_RDONLY)
    mapped = process.map(point / "d" / "kept", 6000)
    assert process.mread(mapped, 0, 6) == b"after!"
    assert process.get(point / "d" / "kept")[:6] == b"after!"
    assert process.stat(point / "new")["st_size"] == 3
    assert not process.access(point / "lost", os.F_OK)
    assert sorted(process.listdir(point)) == ["d", "new"]
    mount.command("swap")
    assert process.mread(mapped, 0, 6) == b"before"
    assert process.pread(opened, 6, 0) == b"before"
    assert process.stat(point / "d" / "kept")["st_size"] == 6000
    assert process.get(point / "lost") == b"lost"
    assert not process.access(point / "new", os.F_OK)
    assert sorted(process.listdir(point)) == ["d", "lost"]


def test_what_did_not_change_stays_cached(mount: MemoryMount) -> None:
    for number in range(20):
        (mount.point / f"f{number}").write_bytes(b"text")
    mount.freeze()
    (mount.point / "f0").write_bytes(b"changed")
    for number in range(20):
        (mount.point / f"f{number}").read_bytes()
    before = mount.counts()["read"]
    mount.command("swap")
    for number in range(20):
        assert (mount.point / f"f{number}").read_bytes() == b"text"
    assert mount.counts()["read"] == before + 1


def test_a_restore_by_attribute_on_the_root_does_not_deadlock(mount: MemoryMount) -> None:
    (mount.point / "f").write_bytes(b"before")
    mount.freeze()
    (mount.point / "f").unlink()
    assert not (mount.point / "f").exists()
    os.setxattr(mount.point, "user.helios.swap", b"1")
    wait_until(lambda: (mount.point / "f").exists(), "the restored name")
    assert (mount.point / "f").read_bytes() == b"before"


def test_a_hanging_notification_ends_the_connection_not_the_machine(mount: MemoryMount) -> None:
    mount.freeze()
    (mount.point / "f").write_bytes(b"x")
    with pytest.raises(OSError) as caught:
        os.setxattr(mount.point, "user.helios.deadlock", b"1")
    assert caught.value.errno in (errno.ECONNABORTED, errno.ENOTCONN)
    assert mount.process.wait(30) == 0
    assert "hangs" in mount.said()
    assert not mount.mounted()


def test_control_files_answer_each_caller(mount: MemoryMount, other: Other) -> None:
    ctl = mount.point / ".helios" / "ctl"
    assert ".helios" not in os.listdir(mount.point)
    first, second = os.open(ctl, os.O_RDWR), os.open(ctl, os.O_RDWR)
    try:
        os.write(first, b"one")
        os.write(second, b"two")
        assert os.pread(first, 100, 0) == b"0: one"
        assert os.pread(second, 100, 0) == b"0: two"
        with pytest.raises(FileExistsError):
            os.write(first, b"fail")
    finally:
        os.close(first)
        os.close(second)
    before = ctl.read_bytes()
    ctl.touch()
    assert ctl.read_bytes() != before
    with pytest.raises(PermissionError):
        other(uid=65534).get(ctl)
    assert ctl.stat().st_ino == ctl.stat().st_ino


def test_a_snapshot_is_read_only_and_seen_as_such(mount: MemoryMount) -> None:
    (mount.point / "f").write_bytes(b"frozen")
    mount.freeze()
    frozen = mount.point / ".helios" / "snapshots" / "frozen"
    assert (frozen / "f").read_bytes() == b"frozen"
    for action in (
        lambda: (frozen / "f").write_bytes(b"x"),
        lambda: (frozen / "g").write_bytes(b"x"),
        lambda: (frozen / "f").unlink(),
        lambda: os.chmod(frozen / "f", 0o600),
    ):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.EROFS
    assert (frozen / "f").stat().st_ino & 0xFFFFFFFF == (mount.point / "f").stat().st_ino & 0xFFFFFFFF
    assert (frozen / "f").stat().st_ino != (mount.point / "f").stat().st_ino


def test_an_unlinked_file_is_forgotten_only_when_closed(mount: MemoryMount, other: Other) -> None:
    (mount.point / "f").write_bytes(b"text")
    process = other()
    opened = process.open(mount.point / "f", os.O_RDWR)
    (mount.point / "f").unlink()
    assert process.pread(opened, 10, 0) == b"text"
    assert process.pwrite(opened, b"T", 0) == 1
    assert process.pread(opened, 10, 0) == b"Text"
    assert process.stat(opened)["st_nlink"] == 0
