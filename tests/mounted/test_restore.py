"""Restore is coherent: when it returns, every process sees the restored tree, whatever it had open or cached."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore, fill, run, shell, signature
from tests.support.otherprocess import OtherProcess
from tests.support.versions import checkpoint, child, control, ctl, echo, last, restore, snapshot, snapshots

pytestmark = pytest.mark.mounted
Starter = Callable[..., OtherProcess]


def look_at_all(process: OtherProcess, root: Path) -> list[int]:
    """Have everything in a tree cached: names, attributes, contents, link targets, absent names."""
    numbers = []
    for name in process.walk(root):
        path = root / name
        found = process.stat(path, follow_symlinks=False)
        numbers.append(found["st_ino"])
        if found["st_mode"] >> 12 == 0o10:
            process.get(path)
        elif found["st_mode"] >> 12 == 0o12:
            process.readlink(path)
        with pytest.raises(OSError):
            process.stat(f"{path}.absent")
    return numbers


@pytest.mark.timeout(90)
def test_a_wrecked_tree_comes_back(fresh: MountedStore, other: Starter) -> None:
    """rm -rf M/*, then `echo latest > restore`: byte for byte, modes, times, links; another process sees it."""
    point = fresh.point
    fill(point, files=120)
    before = signature(point)
    checkpoint(point, b"good")
    reader = other()
    look_at_all(reader, point)
    mapped = reader.map(point / "sparse", (1 << 20) + 3)
    held = reader.open(point / "dir0/run.sh", os.O_RDONLY)
    assert reader.mread(mapped, 1 << 20, 3) == b"end"
    shell("rm -rf ./*", point)
    assert os.listdir(point) == [] and reader.listdir(point) == []
    shell("echo latest > .helios/restore", point)
    assert signature(point) == before
    assert sorted(reader.walk(point)) == sorted(os.fsdecode(path) for path in before if path)
    assert reader.get(point / "dir0/run.sh") == b"#!/bin/sh\necho ran\n"
    assert reader.mread(mapped, 1 << 20, 3) == b"end"
    assert reader.pread(held, 9, 0) == b"#!/bin/sh"
    assert reader.get(point / "sparse")[1 << 20 : (1 << 20) + 3] == b"end"
    assert run(point / "dir0/run.sh").stdout == "ran\n"


def test_the_same_in_a_branch_below(branch: Path, other: Starter) -> None:
    """The same where the branch's root is not the mount's."""
    fill(branch)
    before = signature(branch)
    checkpoint(branch, b"good")
    reader = other(cwd=branch)
    look_at_all(reader, branch)
    shell("rm -rf ./*; mkdir dir0 new; echo other > file1; ln -s x link; touch dir0/run.sh", branch)
    look_at_all(reader, branch)
    restore(branch, b"good")
    assert reader.get("file1") == (branch / "file1").read_bytes()
    assert sorted(reader.walk(".")) == sorted(os.fsdecode(path) for path in before if path)
    assert signature(branch) == before


def test_everything_about_a_file_changes_back(branch: Path, other: Starter) -> None:
    """Content, size, mode, owner, times, xattrs, links: nothing stale in the other process."""
    (branch / "f").write_bytes(b"one" * 5000)
    os.symlink("f", branch / "l")
    os.chmod(branch / "f", 0o640)
    os.utime(branch / "f", ns=(10**18, 10**18 + 1))
    os.setxattr(branch / "f", b"user.a", b"one")
    checkpoint(branch, b"v1")
    reader = other()
    descriptor = reader.open(branch / "f", os.O_RDWR)
    mapped = reader.map(branch / "f", 15000, writable=True)
    private = reader.map(branch / "f", 15000, private=True)
    (branch / "f").write_bytes(b"two" * 10)
    os.chmod(branch / "f", 0o600)
    os.setxattr(branch / "f", b"user.a", b"two")
    os.link(branch / "f", branch / "g")
    os.unlink(branch / "l")
    os.symlink("elsewhere", branch / "l")
    assert reader.get(branch / "f") == b"two" * 10 and reader.readlink(branch / "l") == "elsewhere"
    assert reader.stat(branch / "f")["st_nlink"] == 2 and reader.stat(branch / "g")["st_size"] == 30
    restore(branch, b"v1")
    found = reader.stat(branch / "f")
    assert (found["st_size"], found["st_mode"], found["st_nlink"]) == (15000, 0o100640, 1)
    assert found["st_mtime_ns"] == 10**18 + 1
    assert reader.get(branch / "f") == b"one" * 5000
    assert reader.pread(descriptor, 6, 14997) == b"one" and reader.stat(descriptor)["st_size"] == 15000
    assert reader.mread(mapped, 0, 6) == b"oneone" and reader.mread(private, 14997, 3) == b"one"
    assert reader.getxattr(branch / "f", b"user.a") == b"one"
    assert reader.readlink(branch / "l") == "f"
    with pytest.raises(FileNotFoundError):
        reader.stat(branch / "g")
    reader.mwrite(mapped, 0, b"new")
    reader.msync(mapped)
    reader.pwrite(descriptor, b"!", 14999)
    assert (branch / "f").read_bytes() == b"new" + b"one" * 4998 + b"on!"
    assert (snapshot(branch, "v1") / "f").read_bytes() == b"one" * 5000


def test_negative_entries(branch: Path, other: Starter) -> None:
    """A name that was looked up and absent appears; one that was there goes."""
    (branch / "d").mkdir()
    (branch / "d/there").write_bytes(b"x")
    checkpoint(branch, b"v1")
    os.unlink(branch / "d/there")
    (branch / "d/new").write_bytes(b"y")
    reader = other()
    for path in ("d/there", "there", "d/x"):
        with pytest.raises(FileNotFoundError):
            reader.stat(branch / path)
    assert reader.get(branch / "d/new") == b"y"
    restore(branch, b"v1")
    assert reader.get(branch / "d/there") == b"x"
    with pytest.raises(FileNotFoundError):
        reader.stat(branch / "d/new")
    assert reader.listdir(branch / "d") == ["there"]
    reader.put(branch / "d/new", b"made again")
    assert (branch / "d/new").read_bytes() == b"made again"


def test_a_removed_directory_comes_back_with_a_file_below_it_open(branch: Path, other: Starter) -> None:
    """The kernel's dead directory inode must not stay dead for everybody: it comes with another generation."""
    (branch / "d/e/f").mkdir(parents=True)
    (branch / "d/e/f/file").write_bytes(b"content")
    (branch / "d/e/file").write_bytes(b"content")
    checkpoint(branch, b"v1")
    holder, reader = other(), other()
    held = holder.open(branch / "d/e/f/file", os.O_RDWR)
    directory = holder.open(branch / "d/e", os.O_RDONLY)
    for turn in range(3):
        shell("rm -r d", branch)
        with pytest.raises(FileNotFoundError):
            reader.stat(branch / "d/e/f/file")
        restore(branch, b"v1")
        for process in (reader, holder):
            assert process.get(branch / "d/e/f/file") == b"content"
            assert {"f", "file"} <= set(process.listdir(branch / "d/e"))
            process.put(branch / f"d/e/f/new{turn}{process.pid}", b"made")
            process.mkdir(branch / f"d/e/sub{turn}{process.pid}")
            process.rename(branch / "d/e/file", branch / "d/e/renamed")
            process.rename(branch / "d/e/renamed", branch / "d/e/file")
        assert holder.pread(held, 7, 0) == b"content"
    with pytest.raises(OSError) as raised:
        holder.stat(directory)
    # The kernel's own answer for a handle of a directory that was removed and is there again.
    assert raised.value.errno == errno.EIO
    restore(branch, b"v1")
    assert sorted(reader.walk(branch)) == ["d", "d/e", "d/e/f", "d/e/f/file", "d/e/file"]


def test_a_directory_replaced_by_rename_comes_back(branch: Path, other: Starter) -> None:
    """Rename over an empty directory kills it, too."""
    (branch / "d").mkdir()
    (branch / "e").mkdir()
    (branch / "e/f").write_bytes(b"x")
    checkpoint(branch, b"v1")
    reader = other(cwd=branch / "d")
    os.rename(branch / "e", branch / "d")
    assert os.listdir(branch / "d") == ["f"]
    restore(branch, b"v1")
    assert reader.listdir(branch / "d") == [] and reader.listdir(branch / "e") == ["f"]
    reader.put(branch / "d/made", b"y")
    assert os.listdir(branch / "d") == ["made"]


def test_a_file_where_a_directory_was(branch: Path, other: Starter) -> None:
    """Kinds change back."""
    (branch / "a/b").mkdir(parents=True)
    (branch / "c").write_bytes(b"file")
    checkpoint(branch, b"v1")
    reader = other()
    look_at_all(reader, branch)
    shell("rm -r a c; echo file > a; mkdir c; touch c/x", branch)
    look_at_all(reader, branch)
    restore(branch, b"v1")
    assert reader.listdir(branch / "a/b") == [] and reader.get(branch / "c") == b"file"


def test_a_restore_can_be_undone(branch: Path) -> None:
    """The state before is checkpointed first; the reply names it."""
    (branch / "f").write_bytes(b"one")
    checkpoint(branch, b"v1")
    (branch / "f").write_bytes(b"two")
    (branch / "g").write_bytes(b"three")
    restore(branch, b"v1")
    reply = last(branch, "restore")
    assert reply["ok"] and reply["changed"] >= 1 and reply["safety"] in snapshots(branch)
    assert os.readlink(snapshot(branch)) == "v1"
    restore(branch, reply["safety"].encode())
    assert (branch / "f").read_bytes() == b"two" and (branch / "g").read_bytes() == b"three"


def test_numbers_stay(branch: Path) -> None:
    """While mounted a file's inode number never changes, restores included."""
    fill(branch)
    numbers = {path: os.lstat(path).st_ino for path in branch.rglob("*")}
    checkpoint(branch, b"v1")
    shell("rm -rf ./*; touch file1 a b c", branch)
    restore(branch, b"v1")
    assert {path: os.lstat(path).st_ino for path in branch.rglob("*")} == numbers


def test_numbers_are_not_reused(branch: Path) -> None:
    """What was made after the snapshot had numbers that nothing gets again."""
    checkpoint(branch, b"v1")
    seen: set[int] = set()
    for _ in range(5):
        for number in range(20):
            (branch / f"f{number}").touch()
            inode = os.stat(branch / f"f{number}").st_ino
            assert inode not in seen
            seen.add(inode)
        restore(branch, b"v1")


def test_while_others_work(branch: Path, other: Starter) -> None:
    """Restores among writers and readers: no deadlock, no error but ESTALE and ENOENT; it ends as the snapshot."""
    fill(branch)
    before = signature(branch)
    checkpoint(branch, b"v1")
    flag = control(branch, "branches") / "stop"
    writers = [other() for _ in range(3)]
    for number, writer in enumerate(writers):
        writer.send("writes", branch / f"log{number}", b"w", 100_000, flag)
    walker = other()
    for _ in range(15):
        restore(branch, b"v1")
        walker.walk(branch)
    flag.mkdir()
    for writer in writers:
        try:
            writer.result()
        except OSError as error:
            assert error.errno in (errno.ESTALE, errno.ENOENT)
    restore(branch, b"v1")
    assert signature(branch) == before


@pytest.mark.parametrize("where", ["root", "subdirectory", "file"])
def test_by_xattr(branch: Path, other: Starter, where: str) -> None:
    """On the root the whole branch, elsewhere that path alone; no deadlock."""
    (branch / "d/e").mkdir(parents=True)
    (branch / "d/e/f").write_bytes(b"one")
    (branch / "g").write_bytes(b"one")
    checkpoint(branch, b"v1")
    reader = other()
    (branch / "d/e/f").write_bytes(b"two")
    (branch / "d/e/new").write_bytes(b"two")
    (branch / "g").write_bytes(b"two")
    look_at_all(reader, branch)
    path = {"root": branch, "subdirectory": branch / "d", "file": branch / "d/e/f"}[where]
    run("setfattr", "-n", "user.helios.restore", "-v", "v1", path, timeout_s=20)
    assert reader.get(branch / "d/e/f") == b"one"
    assert sorted(reader.listdir(branch / "d/e")) == (["f"] if where != "file" else ["f", "new"])
    assert reader.get(branch / "g") == (b"one" if where == "root" else b"two")
    assert json.loads(os.getxattr(branch, b"user.helios.restore"))["ok"]


def test_by_xattr_on_the_mounts_root(fresh: MountedStore, other: Starter) -> None:
    """The directory whose lock setxattr holds is the one in which names go: answered all the same."""
    point = fresh.point
    fill(point)
    before = signature(point)
    checkpoint(point, b"v1")
    reader = other()
    look_at_all(reader, point)
    shell("rm -rf ./*; mkdir x y z", point)
    reader.listdir(point)
    run("setfattr", "-n", "user.helios.restore", "-v", "v1", point, timeout_s=20)
    assert sorted(reader.listdir(point)) == sorted(os.listdir(point))
    assert signature(point) == before


def test_by_xattr_is_seen_when_the_call_returns(branch: Path, other: Starter) -> None:
    """Names that came, went and lead elsewhere, in the directory whose lock the caller held and below it.

    Looked at by another process as its first act, and by the caller, who has no time to lose.
    """
    (branch / "d/sub").mkdir(parents=True)
    for name in ("gone", "d/gone", "d/sub/gone"):
        (branch / name).write_bytes(b"back")
    (branch / "swapped").write_bytes(b"was here")
    (branch / "d/held").write_bytes(b"was there")
    checkpoint(branch, b"v1")
    reader = other()
    gone = [branch / name for name in ("gone", "d/gone", "d/sub/gone")]
    new = [branch / name for name in ("new", "d/new", "d/sub/new")]
    for turn in range(40):
        for path in gone:
            path.unlink()
        for path in new:
            path.write_bytes(b"new")
        (branch / "swapped").rename(branch / "aside")
        (branch / "d/held").rename(branch / "swapped")
        for look in (reader.exists, os.path.exists):
            assert not any(map(look, gone)) and all(map(look, new))
        assert reader.get(branch / "swapped") == b"was there"
        assert "new" in reader.listdir(branch) and "new" in reader.listdir(branch / "d/sub")
        os.setxattr(branch, b"user.helios.restore", b"v1")
        look, get = (reader.exists, reader.get) if turn % 2 else (os.path.exists, Path.read_bytes)
        assert [path for path in gone if not look(path)] == []
        assert [path for path in new if look(path)] == []
        assert get(branch / "swapped") == b"was here" and get(branch / "d/held") == b"was there"
        assert reader.listdir(branch / "d/sub") == ["gone"]


def test_by_xattr_while_others_are_at_work_there(branch: Path) -> None:
    """They hold the directory's lock, and ask for what is held back: nobody waits for ever, nothing is lost."""
    (branch / "keep").write_bytes(b"one")
    checkpoint(branch, b"v1")
    script = "for n in $(seq 100); do : > $0$n; done; rm -f $0*"
    workers = [
        subprocess.Popen(["/bin/bash", "-c", script, name], cwd=branch, stderr=subprocess.DEVNULL) for name in "ab"
    ]
    restored = 0
    while any(worker.poll() is None for worker in workers):
        (branch / "keep").write_bytes(b"two")
        os.setxattr(branch, b"user.helios.restore", b"v1")
        assert (branch / "keep").read_bytes() == b"one"
        restored += 1
    os.setxattr(branch, b"user.helios.restore", b"v1")
    assert os.listdir(branch) == ["keep"]
    assert restored


def test_a_mount_below_outlives_a_restore(fresh: MountedStore) -> None:
    """A restore does not throw all names away, and what is mounted on them: INC_EPOCH would."""
    point = fresh.point
    (point / "a/b").mkdir(parents=True)
    (point / "f").write_bytes(b"one")
    checkpoint(point, b"v1")
    inner = fresh.base / "inner"
    inner.mkdir()
    (inner / "there").write_bytes(b"1")
    run("mount", "--bind", inner, point / "a/b")
    try:
        (point / "f").unlink()
        (point / "a/new").write_bytes(b"two")
        os.setxattr(point, b"user.helios.restore", b"v1")
        assert (point / "f").read_bytes() == b"one"
        assert os.listdir(point / "a") == ["b"]
        assert os.listdir(point / "a/b") == ["there"]
    finally:
        run("umount", point / "a/b")


def test_a_single_path(branch: Path, other: Starter) -> None:
    """By ctl: a file, a directory, a deleted path whose parents are gone; the rest stays as it is."""
    (branch / "d/e").mkdir(parents=True)
    (branch / "d/e/f").write_bytes(b"one")
    os.link(branch / "d/e/f", branch / "hard")
    (branch / "keep").write_bytes(b"one")
    checkpoint(branch, b"v1")
    reader = other()
    (branch / "keep").write_bytes(b"two")
    (branch / "d/e/f").write_bytes(b"two")
    assert ctl(branch, b"restore v1 d/e/f")["ok"]
    assert reader.get(branch / "d/e/f") == b"one" and reader.get(branch / "keep") == b"two"
    shell("rm -r d", branch)
    assert ctl(branch, b"restore v1 d/e/f")["ok"]
    assert reader.get(branch / "d/e/f") == b"one"
    (branch / "d/extra").write_bytes(b"x")
    assert ctl(branch, b"restore v1 d")["ok"]
    assert reader.walk(branch / "d") == ["e", "e/f"]
    assert reader.get(branch / "keep") == b"two"
    assert ctl(branch, b"restore v1 .")["ok"] and reader.get(branch / "keep") == b"one"


def test_forks_of_a_branch_are_left_alone(branch: Path) -> None:
    """Children stay as they are, snapshots stay."""
    (branch / "f").write_bytes(b"one")
    checkpoint(branch, b"v1")
    (branch / "f").write_bytes(b"two")
    child(branch, "exp").mkdir()
    checkpoint(branch, b"v2")
    restore(branch, b"v1")
    assert (child(branch, "exp") / "f").read_bytes() == b"two"
    assert {"base", "v1", "v2"} <= set(snapshots(branch))
    assert (snapshot(branch, "v2") / "f").read_bytes() == b"two"


def test_executables_and_scripts(branch: Path) -> None:
    """A program that was replaced runs as it was."""
    script = branch / "tool"
    script.write_bytes(b"#!/bin/sh\necho one\n")
    script.chmod(0o755)
    checkpoint(branch, b"v1")
    assert run(script).stdout == "one\n"
    script.write_bytes(b"#!/bin/sh\necho two\n")
    assert run(script).stdout == "two\n"
    restore(branch, b"v1")
    assert run(script).stdout == "one\n"


def test_many_changes(branch: Path, other: Starter) -> None:
    """Thousands of names that differ."""
    shell("mkdir d; cd d; for i in $(seq 2000); do : > $i; done", branch)
    checkpoint(branch, b"v1")
    reader = other()
    assert len(reader.listdir(branch / "d")) == 2000
    shell("rm -r d; mkdir d; for i in $(seq 500); do : > d/n$i; done", branch)
    assert len(reader.listdir(branch / "d")) == 500
    restore(branch, b"v1")
    assert sorted(map(int, reader.listdir(branch / "d"))) == list(range(1, 2001))
    echo(control(branch, "restore"), last(branch, "restore")["safety"].encode())
    assert len(reader.listdir(branch / "d")) == 500
