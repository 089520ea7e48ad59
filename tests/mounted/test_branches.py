"""Branches: made by mkdir and by xattr, nested, isolated, discarded; inode numbers across views."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore, fill, run, shell, signature, wait_errno
from tests.support.otherprocess import OtherProcess
from tests.support.versions import checkpoint, child, control, ctl, echo, snapshot, snapshots

pytestmark = pytest.mark.mounted
LOW = (1 << 32) - 1


@contextmanager
def bound(source: Path, target: Path) -> Iterator[Path]:
    """A bind mount, taken away however the block ends."""
    target.mkdir()
    run("mount", "--bind", source, target)
    try:
        yield target
    finally:
        run("umount", "-l", target)


def test_a_fork_holds_the_instant(branch: Path, other: Callable[..., OtherProcess]) -> None:
    """What was never checkpointed is in it; from then on each goes its own way."""
    fill(branch)
    before = signature(branch)
    child(branch, "exp").mkdir()
    assert signature(child(branch, "exp")) == before
    process = other(cwd=child(branch, "exp"))
    process.put("file1", b"theirs")
    process.unlink("file2")
    process.mkdir("only here")
    assert signature(branch) == before
    shell("rm -r dir0; echo ours > file1", branch)
    assert process.get("file1") == b"theirs"
    assert (child(branch, "exp") / "dir0/run.sh").exists()
    assert os.listdir(control(branch, "branches")) == ["exp"]


def test_from_a_snapshot(branch: Path) -> None:
    """By xattr on the snapshot's directory, and by ctl."""
    (branch / "f").write_bytes(b"one")
    checkpoint(branch, b"v1")
    (branch / "f").write_bytes(b"two")
    os.setxattr(snapshot(branch, "v1"), b"user.helios.branch", b"exp")
    assert (child(branch, "exp") / "f").read_bytes() == b"one"
    assert ctl(branch, b"branch exp2 --from v1")["ok"]
    assert (child(branch, "exp2") / "f").read_bytes() == b"one"
    (child(branch, "exp") / "f").write_bytes(b"three")
    assert (snapshot(branch, "v1") / "f").read_bytes() == b"one"
    assert (snapshot(child(branch, "exp"), "base") / "f").read_bytes() == b"one"
    with pytest.raises(FileExistsError):
        os.setxattr(snapshot(branch, "v1"), b"user.helios.branch", b"exp")


def test_nested(branch: Path) -> None:
    """Each with a .helios of its own."""
    at = branch
    for depth in range(5):
        (at / "depth").write_bytes(b"%d" % depth)
        child(at, f"b{depth}").mkdir()
        checkpoint(at, b"here%d" % depth)
        at = child(at, f"b{depth}")
    assert (at / "depth").read_bytes() == b"4"
    assert snapshots(at) == ["base"]
    echo(control(at, "restore"), b"base")
    assert (branch / "depth").read_bytes() == b"0"
    assert snapshots(branch) == ["base", "here0"]


def test_numbers_are_unique_across_views_and_equal_below(branch: Path) -> None:
    """Tools compare st_ino; git's index keeps its low 32 bits."""
    fill(branch)
    checkpoint(branch, b"v1")
    for name in ("a", "b"):
        child(branch, name).mkdir()
    roots = [branch, child(branch, "a"), child(branch, "b"), snapshot(branch, "v1")]
    all_numbers: set[int] = set()
    shared: list[dict[str, int]] = []
    for root in roots:
        numbers = {}
        for directory, names, files in os.walk(root):
            for name in ["", *names, *files]:
                path = os.path.join(directory, name) if name else directory
                numbers[os.path.relpath(path, root)] = os.lstat(path).st_ino
        distinct = set(numbers.values())
        assert not distinct & all_numbers
        all_numbers |= distinct
        shared.append({path: number & LOW for path, number in numbers.items()})
    assert all(found == shared[0] for found in shared)
    assert len({os.stat(root).st_dev for root in roots}) == 1


def test_two_branches_never_make_one_number(branch: Path) -> None:
    """New files in parent and fork."""
    child(branch, "exp").mkdir()
    numbers = []
    for number in range(100):
        for root in (branch, child(branch, "exp")):
            (root / f"f{number}").touch()
            numbers.append(os.stat(root / f"f{number}").st_ino & LOW)
    assert len(set(numbers)) == 200


def test_nothing_links_two_views(branch: Path) -> None:
    """Neither a rename nor a hard link goes from one branch to another."""
    (branch / "f").write_bytes(b"x")
    (branch / "d").mkdir()
    child(branch, "exp").mkdir()
    for action, source in ((os.rename, "f"), (os.link, "f"), (os.rename, "d")):
        with pytest.raises(OSError) as raised:
            action(branch / source, child(branch, "exp") / "there")
        assert raised.value.errno == errno.EXDEV
    run("mv", branch / "f", child(branch, "exp") / "moved")
    assert (child(branch, "exp") / "moved").read_bytes() == b"x" and not (branch / "f").exists()
    for path in (child(branch, "exp"), control(branch, "branches")):
        with pytest.raises(OSError):
            os.rename(path, branch / "x")


def test_discard(branch: Path, other: Callable[..., OtherProcess]) -> None:
    """rmdir: gone by name at once; what was open in it, and who was in it, gets ESTALE."""
    child(branch, "exp").mkdir()
    (child(branch, "exp") / "f").write_bytes(b"content")
    (child(branch, "exp") / "d").mkdir()
    inside = other(cwd=child(branch, "exp") / "d")
    descriptor = inside.open("../f", os.O_RDWR)
    assert inside.pread(descriptor, 7, 0) == b"content"
    os.rmdir(child(branch, "exp"))
    assert os.listdir(control(branch, "branches")) == []
    for path in (child(branch, "exp"), child(branch, "exp") / "f"):
        with pytest.raises(FileNotFoundError):
            os.stat(path)
    for attempt in (
        lambda: inside.pread(descriptor, 7, 0),
        lambda: inside.pwrite(descriptor, b"x", 0),
        lambda: inside.stat(descriptor),
        lambda: inside.ftruncate(descriptor, 3),
        lambda: inside.listdir("."),
        lambda: inside.stat("../f"),
        lambda: inside.put("new", b"x"),
        lambda: inside.mkdir("new"),
    ):
        wait_errno(errno.ESTALE, attempt)
    child(branch, "exp").mkdir()
    assert os.listdir(child(branch, "exp")) == []


def test_discarding_what_has_children_or_is_mounted(shared: MountedStore, branch: Path) -> None:
    """EBUSY; the state is unchanged."""
    child(branch, "exp").mkdir()
    child(child(branch, "exp"), "inner").mkdir()
    with pytest.raises(OSError) as raised:
        os.rmdir(child(branch, "exp"))
    assert raised.value.errno == errno.EBUSY
    assert ctl(branch, b"branch rm exp")["errno"] == "EBUSY"
    os.rmdir(child(child(branch, "exp"), "inner"))
    os.rmdir(child(branch, "exp"))
    assert (branch / ".helios/status").exists()


def test_the_root_of_the_mount_cannot_be_discarded(fresh: MountedStore) -> None:
    """A branch that is mounted by itself: EBUSY from above, by the command line."""
    child(fresh.point, "exp").mkdir()
    fresh.unmount()
    fresh.mount("branch=main/exp")
    (fresh.point / "f").write_bytes(b"in exp")
    words = ("-m", "heliosfs", "branch", "rm", "exp", "--store", fresh.store, "--branch", "main", "--json")
    done = run(sys.executable, *words, check=False)
    assert done.returncode != 0 and "EBUSY" in done.stdout, (done.stdout, done.stderr)
    assert (fresh.point / "f").read_bytes() == b"in exp"


@pytest.mark.skipif(os.geteuid() != 0, reason="bind mounts take root")
def test_a_bound_view_cannot_reach_above_itself(
    branch: Path, scratch: Path, other: Callable[..., OtherProcess]
) -> None:
    """No path, name, `..` or command of a bound branch leads to its parent or its siblings."""
    (branch / "secret").write_bytes(b"parent's")
    for name in ("agent", "sibling"):
        child(branch, name).mkdir()
    os.unlink(child(branch, "agent") / "secret")
    with bound(child(branch, "agent"), scratch / "view") as view:
        process = other(cwd=view)
        assert process.listdir(".") == []
        assert process.stat("..")["st_ino"] == os.stat(scratch).st_ino
        assert process.listdir(".helios/branches") == []
        assert process.stat(".helios/..")["st_ino"] == process.stat(".")["st_ino"]
        assert process.stat(".helios/branches/..")["st_ino"] == process.stat(".helios")["st_ino"]
        for attempt in ("sibling", "../sibling", "main", "main/sibling", "/", ".."):
            with pytest.raises(OSError):
                process.stat(f".helios/branches/{attempt}/secret")
            reply = process.ask(".helios/ctl", b"branch rm '%s'\n" % attempt.encode())
            assert b'"ok":false' in reply, reply
        assert process.ask(".helios/ctl", b"restore ../v1\n").find(b'"ok":false') > 0
        process.put("made", b"in the view")
        process.touch(".helios/checkpoint")
        assert len(snapshots(child(branch, "agent"))) == 2
    assert (child(branch, "agent") / "made").read_bytes() == b"in the view"
    assert not (branch / "made").exists() and not (child(branch, "sibling") / "made").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="bind mounts take root")
def test_a_bound_branch_that_dies(branch: Path, scratch: Path) -> None:
    """Bind mounts don't block; they get ESTALE afterwards."""
    child(branch, "exp").mkdir()
    (child(branch, "exp") / "f").write_bytes(b"x")
    with bound(child(branch, "exp"), scratch / "view") as view:
        os.rmdir(child(branch, "exp"))
        for attempt in (lambda: os.stat(view / "f"), lambda: os.listdir(view), lambda: os.mkdir(view / "d")):
            wait_errno(errno.ESTALE, attempt)


def test_forks_beside_each_other(branch: Path, other: Callable[..., OtherProcess]) -> None:
    """Many, made at once by several processes: every name once, each with its own content."""
    (branch / "f").write_bytes(b"base")
    makers = [other() for _ in range(4)]
    for turn in range(10):
        for number, maker in enumerate(makers):
            maker.send("mkdir", child(branch, f"m{number}-{turn}"))
        for maker in makers:
            maker.result()
    names = sorted(os.listdir(control(branch, "branches")))
    assert len(names) == 40
    for name in names:
        (child(branch, name) / "f").write_bytes(name.encode())
    assert all((child(branch, name) / "f").read_bytes() == name.encode() for name in names)
    assert (branch / "f").read_bytes() == b"base"


def test_mount_of_a_nested_branch(fresh: MountedStore) -> None:
    """-o branch=main/a/b shows that tree, and nothing above it."""
    child(fresh.point, "a").mkdir()
    child(child(fresh.point, "a"), "b").mkdir()
    (child(child(fresh.point, "a"), "b") / "f").write_bytes(b"deep")
    fresh.unmount()
    fresh.mount("branch=main/a/b")
    assert os.listdir(fresh.point) == ["f"]
    assert snapshots(fresh.point) == ["base"]
    assert os.listdir(control(fresh.point, "branches")) == []
    fresh.unmount()
    fresh.mount()
    assert os.listdir(control(fresh.point, "branches")) == ["a"]
