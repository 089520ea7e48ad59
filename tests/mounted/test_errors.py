"""Bad input: every refusal has its errno, its reason in words, and changes nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import NOBODY, MountedStore, Mounts, run
from tests.support.otherprocess import OtherProcess
from tests.support.versions import ask, checkpoint, child, control, ctl, echo, last, snapshot, snapshots

pytestmark = pytest.mark.mounted

BAD_NAMES = {
    "empty": b"",
    "dot": b".",
    "dot dot": b"..",
    "dots inside": b"a..b",
    "slash": b"a/b",
    "newline": b"a\nb",
    "nul": b"a\0b",
    "not utf-8": b"\xff\xfe",
    "latest": b"latest",
    "now": b"now",
    "parent": b"parent",
    "base": b"base",
    "helios": b".helios",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_malformed_names(branch: Path, name: bytes) -> None:
    """By checkpoint, ctl, mkdir and xattr: EINVAL (or what the kernel says first), nothing made."""
    if name:
        with pytest.raises(OSError) as raised:
            echo(control(branch, "checkpoint"), name)
        assert raised.value.errno == errno.EINVAL
        reply = last(branch)
        assert not reply["ok"] and reply["errno"] == "EINVAL" and reply["error"]
    for attribute in (b"user.helios.checkpoint", b"user.helios.branch"):
        if name or attribute.endswith(b"branch"):
            with pytest.raises(OSError) as raised:
                os.setxattr(branch, attribute, name)
            assert raised.value.errno == errno.EINVAL
    for directory in ("snapshots", "branches"):
        path = os.fsencode(control(branch, directory)) + b"/" + name
        with pytest.raises((OSError, ValueError)) as refused:
            os.mkdir(path)
        if isinstance(refused.value, OSError):
            assert refused.value.errno in (errno.EINVAL, errno.EEXIST, errno.ENOENT), refused.value
    assert snapshots(branch) == ["base"]
    assert os.listdir(control(branch, "branches")) == []


def test_an_empty_name_by_echo_is_refused(branch: Path) -> None:
    """`echo > checkpoint` names nothing: a touch is a touch."""
    with pytest.raises(OSError) as raised:
        echo(control(branch, "checkpoint"), b"")
    assert raised.value.errno == errno.EINVAL
    assert snapshots(branch) == ["base"]


@pytest.mark.parametrize("length", [255, 256, 1000, 5000, 100_000])
def test_length_of_names(branch: Path, length: int) -> None:
    """255 bytes and no more."""
    name = b"n" * length
    if length == 255:
        echo(control(branch, "checkpoint"), name)
        os.mkdir(os.fsencode(control(branch, "branches")) + b"/" + name)
        assert snapshots(branch) == ["base", name.decode()]
        assert (snapshot(branch, name.decode())).is_dir()
        return
    with pytest.raises(OSError) as raised:
        echo(control(branch, "checkpoint"), name)
    assert raised.value.errno == errno.ENAMETOOLONG
    for directory in ("snapshots", "branches"):
        with pytest.raises(OSError) as raised:
            os.mkdir(os.fsencode(control(branch, directory)) + b"/" + name)
        assert raised.value.errno == errno.ENAMETOOLONG
    assert snapshots(branch) == ["base"]


def test_duplicates(branch: Path) -> None:
    """EEXIST."""
    checkpoint(branch, b"v1")
    child(branch, "exp").mkdir()
    for attempt in (
        lambda: checkpoint(branch, b"v1"),
        lambda: os.mkdir(snapshot(branch, "v1")),
        lambda: os.mkdir(child(branch, "exp")),
        lambda: os.setxattr(branch, b"user.helios.branch", b"exp"),
        lambda: os.setxattr(branch, b"user.helios.checkpoint", b"v1"),
        lambda: os.mkdir(snapshot(branch, "latest")),
    ):
        with pytest.raises(OSError) as raised:
            attempt()
        assert raised.value.errno in (errno.EEXIST, errno.EINVAL)
    assert ctl(branch, b"checkpoint v1")["errno"] == "EEXIST"
    assert ctl(branch, b"branch exp")["errno"] == "EEXIST"
    assert snapshots(branch) == ["base", "v1"]


def test_unknown(branch: Path) -> None:
    """ENOENT, for every verb that takes a name of what exists."""
    (branch / "f").write_bytes(b"x")
    for line in (b"restore absent", b"snapshot rm absent", b"snapshot mv absent x", b"branch rm absent"):
        reply = ctl(branch, line)
        assert reply["errno"] == "ENOENT" and reply["error"], line
    assert ctl(branch, b"branch x from absent")["errno"] == "ENOENT"
    with pytest.raises(FileNotFoundError):
        echo(control(branch, "restore"), b"absent")
    assert not last(branch, "restore")["ok"]
    with pytest.raises(FileNotFoundError):
        os.setxattr(branch / "f", b"user.helios.restore", b"absent")
    for path in (snapshot(branch, "absent"), child(branch, "absent")):
        for act in (os.stat, os.rmdir, os.listdir):
            with pytest.raises(FileNotFoundError):
                act(path)
    with pytest.raises(FileNotFoundError):
        os.rename(snapshot(branch, "absent"), snapshot(branch, "x"))
    assert (branch / "f").read_bytes() == b"x"
    assert snapshots(branch) == ["base"]


def test_a_path_that_the_snapshot_lacks(branch: Path) -> None:
    """Restoring it is ENOENT and removes nothing."""
    checkpoint(branch, b"v1")
    (branch / "new").write_bytes(b"x")
    assert ctl(branch, b"restore v1 nothing/here")["errno"] == "ENOENT"
    assert (branch / "new").read_bytes() == b"x"


def test_touching_restore_says_nothing(branch: Path) -> None:
    """There is no snapshot in it."""
    (branch / "f").write_bytes(b"x")
    try:
        os.utime(control(branch, "restore"))
    except OSError as error:
        assert error.errno in (errno.EINVAL, errno.EPERM)
    assert (branch / "f").read_bytes() == b"x"
    assert snapshots(branch) == ["base"]


def test_commands_of_several_lines_and_odd_quotes(branch: Path) -> None:
    """EINVAL, one reply, nothing done."""
    for line in (
        b"checkpoint a\ncheckpoint b",
        b"checkpoint 'a",
        b'checkpoint "',
        b"checkpoint a\\",
        b"\0",
        b"\xff",
    ):
        assert ctl(branch, line)["errno"] == "EINVAL", line
    assert ask(control(branch, "checkpoint"), b"a\nb")["errno"] == "EINVAL"
    assert ask(control(branch, "ctl"), b"x" * 100_000)["ok"] is False
    assert snapshots(branch) == ["base"]


def test_not_renamed(branch: Path) -> None:
    """A branch keeps its name; a snapshot stays among snapshots; base stays."""
    child(branch, "exp").mkdir()
    checkpoint(branch, b"v1")
    for old, new in (
        (child(branch, "exp"), child(branch, "exp2")),
        (snapshot(branch, "v1"), child(branch, "v1")),
        (child(branch, "exp"), snapshot(branch, "exp")),
        (snapshot(branch, "v1"), branch / "v1"),
        (snapshot(branch, "v1"), snapshot(branch, "a..b")),
        (snapshot(branch, "latest"), snapshot(branch, "x")),
        (snapshot(branch, "v1"), snapshot(branch, "latest")),
    ):
        with pytest.raises(OSError) as raised:
            os.rename(old, new)
        assert raised.value.errno not in (errno.EIO, errno.ENOSYS), (old, new)
    assert snapshots(branch) == ["base", "v1"]
    assert os.listdir(control(branch, "branches")) == ["exp"]


@pytest.fixture(scope="module")
def strangers(mounts: Mounts, transport: str) -> Iterator[MountedStore]:
    """A mount whose root belongs to root and is open to everybody."""
    with mounts.mounted(transport) as mounted:
        mounted.point.chmod(0o777)
        yield mounted


@pytest.mark.skipif(os.geteuid() != 0, reason="acting as another user takes root")
def test_another_user_may_not(strangers: MountedStore, other: Callable[..., OtherProcess]) -> None:
    """EACCES for the whole control surface; work in the tree goes on."""
    point = strangers.point
    checkpoint(point, b"v1")
    (point / "mine").write_bytes(b"root's")
    stranger = other(uid=NOBODY)
    for attempt in (
        lambda: stranger.touch(control(point, "checkpoint")),
        lambda: stranger.utime(control(point, "checkpoint")),
        lambda: stranger.put(control(point, "checkpoint"), b"x"),
        lambda: stranger.get(control(point, "status")),
        lambda: stranger.get(control(point, "ctl")),
        lambda: stranger.listdir(control(point)),
        lambda: stranger.listdir(control(point, "snapshots")),
        lambda: stranger.mkdir(child(point, "x")),
        lambda: stranger.mkdir(snapshot(point, "x")),
        lambda: stranger.rmdir(snapshot(point, "v1")),
        lambda: stranger.get(snapshot(point, "v1") / "mine"),
        lambda: stranger.put(control(point, "restore"), b"v1"),
        lambda: stranger.setxattr(point, b"user.helios.restore", b"v1"),
        lambda: stranger.setxattr(point, b"user.helios.checkpoint", b"x"),
        lambda: stranger.setxattr(point, b"user.helios.branch", b"x"),
    ):
        with pytest.raises(PermissionError) as raised:
            attempt()
        assert raised.value.errno == errno.EACCES
    assert snapshots(point) == ["v1"]
    assert (point / "mine").read_bytes() == b"root's"
    stranger.put(point / "theirs", b"stranger's")
    assert os.stat(point / "theirs").st_uid == NOBODY
    with pytest.raises(PermissionError):
        stranger.put(point / "mine", b"x")
    with pytest.raises(PermissionError):
        stranger.setxattr(point / "theirs", b"user.helios.checkpoint", b"x")


@pytest.mark.skipif(os.geteuid() != 0, reason="acting as another user takes root")
def test_a_users_own_branch(strangers: MountedStore, other: Callable[..., OtherProcess], scratch: Path) -> None:
    """A branch root that belongs to a user gives him the control surface, from where he can reach it."""
    child(strangers.point, "his").mkdir()
    root = child(strangers.point, "his")
    os.chown(root, NOBODY, NOBODY)
    view = scratch / "view"
    view.mkdir()
    run("mount", "--bind", root, view)
    try:
        user = other(uid=NOBODY, cwd=view)
        user.put("f", b"one")
        user.put(".helios/checkpoint", b"v1\n")
        assert user.stat(".helios/checkpoint")["st_uid"] == NOBODY
        user.put("f", b"two")
        user.put(".helios/restore", b"v1\n")
        assert user.get("f") == b"one"
        user.mkdir(".helios/branches/inner")
        assert user.stat(".helios/branches/inner/.helios")["st_uid"] == NOBODY
        user.put(".helios/branches/inner/f", b"three")
        user.put(".helios/branches/inner/.helios/checkpoint", b"w1\n")
        user.rmdir(".helios/branches/inner")
        assert user.get(".helios/snapshots/v1/f") == b"one"
    finally:
        run("umount", "-l", view)


@pytest.mark.skipif(os.geteuid() != 0, reason="set-id and device options are root's")
def test_mount_options_hold(mounts: Mounts, transport: str) -> None:
    """ro refuses to write; findmnt shows type and source."""
    with mounts.mounted(transport, "ro") as mounted:
        with pytest.raises(OSError) as raised:
            (mounted.point / "f").write_bytes(b"x")
        assert raised.value.errno == errno.EROFS
        shown = run("findmnt", "-no", "FSTYPE,SOURCE,OPTIONS", mounted.point).stdout.split()
        assert shown[0] == "fuse.heliosfs" and shown[1] == str(mounted.store) and "ro" in shown[2].split(",")
