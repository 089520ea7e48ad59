"""Snapshots as directories: browsed, compared, copied, made, renamed, forgotten; never written."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import fill, run, shell, signature, wait_errno
from tests.support.otherprocess import OtherProcess
from tests.support.versions import checkpoint, control, snapshot, snapshots

pytestmark = pytest.mark.mounted


def test_compare_and_copy(branch: Path, scratch: Path) -> None:
    """diff -r and cp -a, with everything that a tree can hold."""
    fill(branch)
    expected = signature(branch)
    checkpoint(branch, b"v1")
    shell("echo changed > sparse; rm -r dir0; chmod 777 file1; mv file2 file3", branch)
    assert signature(snapshot(branch, "v1")) == expected
    run("cp", "-a", "--sparse=always", f"{snapshot(branch, 'v1')}/.", scratch)
    copied = signature(scratch)
    assert {path: found for path, found in copied.items() if path} == {p: f for p, f in expected.items() if p}
    run("diff", "-r", "--no-dereference", "--exclude=null", "--exclude=fifo", snapshot(branch, "v1"), scratch)
    assert signature(branch) != expected


def test_latest(branch: Path) -> None:
    """Absent before a snapshot was asked for; then a link to the newest; after a restore, the restored one."""
    link = snapshot(branch, "latest")
    target = os.readlink(link)
    assert target == "base"
    for name in ("v1", "v2", "v3"):
        checkpoint(branch, name.encode())
        assert os.readlink(link) == name
        assert os.stat(link).st_ino == os.stat(snapshot(branch, name)).st_ino
        assert os.lstat(link).st_size == len(name)
    (control(branch, "restore")).write_bytes(b"v2\n")
    assert os.readlink(link) == "v2"
    os.rmdir(snapshot(branch, "v2"))
    assert os.readlink(link) in snapshots(branch)
    checkpoint(branch, b"v4")
    assert run("readlink", ".helios/snapshots/latest", cwd=branch).stdout.strip() == "v4"
    assert run("ls", ".helios/snapshots/latest/", cwd=branch).stdout == ""


def test_another_process_sees_latest_move(branch: Path, other: Callable[..., OtherProcess]) -> None:
    """The kernel keeps a link's target for ever: the name leads to a new node when it changes."""
    reader = other()
    for number in range(20):
        (branch / "f").write_bytes(b"%d" % number)
        checkpoint(branch, b"v%d" % number)
        assert reader.readlink(snapshot(branch)) == f"v{number}"
        assert reader.get(snapshot(branch) / "f") == b"%d" % number


def test_mkdir_rename_rmdir(branch: Path, other: Callable[..., OtherProcess]) -> None:
    """Directories made, renamed and removed are snapshots made, renamed and forgotten; others see it at once."""
    reader = other()
    (branch / "f").write_bytes(b"one")
    snapshot(branch, "a").mkdir()
    assert reader.get(snapshot(branch, "a") / "f") == b"one"
    number = os.stat(snapshot(branch, "a")).st_ino
    os.rename(snapshot(branch, "a"), snapshot(branch, "b"))
    with pytest.raises(FileNotFoundError):
        reader.stat(snapshot(branch, "a"))
    assert reader.get(snapshot(branch, "b") / "f") == b"one"
    assert os.stat(snapshot(branch, "b")).st_ino == number
    snapshot(branch, "c").mkdir()
    for flags in ("-n", "-T"):
        run("mv", flags, snapshot(branch, "b"), snapshot(branch, "c"), check=False)
    assert "b" in snapshots(branch)
    with pytest.raises(FileExistsError):
        os.rename(snapshot(branch, "b"), snapshot(branch, "c"))
    shell("mv .helios/snapshots/b .helios/snapshots/d; rmdir .helios/snapshots/c", branch)
    assert snapshots(branch) == ["base", "d"]
    os.rmdir(snapshot(branch, "d"))
    assert reader.listdir(control(branch, "snapshots")) in (["base", "latest"], ["latest", "base"], ["base"])
    with pytest.raises(FileNotFoundError):
        reader.stat(snapshot(branch, "d"))
    with pytest.raises(FileNotFoundError):
        os.rmdir(snapshot(branch, "d"))
    assert (branch / "f").read_bytes() == b"one"


def test_what_was_open_in_a_forgotten_snapshot_is_stale(branch: Path, other: Callable[..., OtherProcess]) -> None:
    """Its files answer ESTALE, nothing else does."""
    (branch / "f").write_bytes(b"one")
    checkpoint(branch, b"v1")
    reader = other()
    descriptor = reader.open(snapshot(branch, "v1") / "f", os.O_RDONLY)
    assert reader.pread(descriptor, 3, 0) == b"one"
    os.rmdir(snapshot(branch, "v1"))
    wait_errno(errno.ESTALE, lambda: reader.pread(descriptor, 3, 0))
    assert (branch / "f").read_bytes() == b"one"


def written(path: Path, flags: int) -> None:
    """Open and write: where the kernel does not ask at open(2), the write is what is refused."""
    descriptor = os.open(path, flags)
    try:
        os.write(descriptor, b"x")
    finally:
        os.close(descriptor)


def test_read_only(branch: Path) -> None:
    """Every change in a snapshot is EROFS, whatever it is and whoever asks; nothing moves."""
    (branch / "f").write_bytes(b"one")
    (branch / "d").mkdir()
    (branch / "d/e").mkdir()
    os.symlink("f", branch / "l")
    os.setxattr(branch / "f", b"user.a", b"x")
    checkpoint(branch, b"v1")
    held = snapshot(branch, "v1")
    before = signature(held)
    attempts: list[Callable[[], object]] = [
        lambda: written(held / "f", os.O_WRONLY),
        lambda: written(held / "f", os.O_RDWR),
        lambda: os.open(held / "f", os.O_RDONLY | os.O_TRUNC),
        lambda: written(held / "f", os.O_WRONLY | os.O_APPEND),
        lambda: os.open(held / "new", os.O_CREAT | os.O_WRONLY),
        lambda: os.truncate(held / "f", 0),
        lambda: os.unlink(held / "f"),
        lambda: os.mkdir(held / "x"),
        lambda: os.rmdir(held / "d/e"),
        lambda: os.rename(held / "f", held / "g"),
        lambda: os.rename(held / "f", held / "l"),
        lambda: os.link(held / "f", held / "g"),
        lambda: os.symlink("x", held / "g"),
        lambda: os.mkfifo(held / "p"),
        lambda: os.chmod(held / "f", 0o777),
        lambda: os.chown(held / "f", 1, 1),
        lambda: os.utime(held / "f"),
        lambda: os.setxattr(held / "f", b"user.a", b"y"),
        lambda: os.removexattr(held / "f", b"user.a"),
        lambda: os.chmod(held, 0o777),
        lambda: os.mkdir(held / ".helios"),
    ]
    for number, attempt in enumerate(attempts):
        with pytest.raises(OSError) as raised:
            attempt()
        assert raised.value.errno == errno.EROFS, (number, raised.value)
    assert signature(held) == before
    descriptor = os.open(held / "f", os.O_RDONLY)
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, 3)
    os.close(descriptor)
    for path, target in ((branch / "f", held / "g"), (held / "f", branch / "g"), (held, branch / "moved")):
        with pytest.raises(OSError) as raised:
            os.rename(path, target)
        assert raised.value.errno in (errno.EXDEV, errno.EROFS, errno.EPERM, errno.EINVAL)
    with pytest.raises(OSError) as raised:
        os.link(held / "f", branch / "g")
    assert raised.value.errno in (errno.EXDEV, errno.EROFS)


def test_base_is_what_a_branch_was_forked_from(branch: Path) -> None:
    """A fork starts with it."""
    (branch / "f").write_bytes(b"one")
    (control(branch, "branches") / "exp").mkdir()
    exp = control(branch, "branches") / "exp"
    (exp / "f").write_bytes(b"two")
    assert snapshots(exp) == ["base"]
    assert (snapshot(exp, "base") / "f").read_bytes() == b"one"


def test_all_are_listed_once_each_while_others_come_and_go(branch: Path) -> None:
    """A listing in progress misses nothing that stays and shows nothing twice."""
    for number in range(600):
        checkpoint(branch, b"stay%04d" % number)
    with os.scandir(control(branch, "snapshots")) as entries:
        seen = [next(entries).name for _ in range(20)]
        for number in range(100):
            checkpoint(branch, b"new%d" % number)
        seen += [entry.name for entry in entries]
    staying = [name for name in seen if name.startswith("stay")]
    assert sorted(staying) == [f"stay{number:04d}" for number in range(600)]
    assert len(seen) == len(set(seen))


def test_snapshot_of_a_large_directory_and_file(branch: Path) -> None:
    """Many names and a file of several MiB, changed after the snapshot."""
    (branch / "d").mkdir()
    for number in range(1500):
        (branch / "d" / f"name{number:05d}").touch()
    data = os.urandom(5 << 20)
    (branch / "large").write_bytes(data)
    checkpoint(branch, b"v1")
    with open(branch / "large", "r+b") as file:
        file.seek(3 << 20)
        file.write(b"changed")
    for number in range(0, 1500, 2):
        (branch / "d" / f"name{number:05d}").unlink()
    held = snapshot(branch, "v1")
    assert len(os.listdir(held / "d")) == 1500
    assert (held / "large").read_bytes() == data
    assert len(os.listdir(branch / "d")) == 750
    assert (branch / "large").read_bytes() == data[: 3 << 20] + b"changed" + data[(3 << 20) + 7 :]
