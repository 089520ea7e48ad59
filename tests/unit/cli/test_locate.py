"""Finding the branch that a path lies in, without a mount: an xattr stands for the filesystem's answer."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from heliosfs.cli import locate as module
from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.locate import Place, locate, relative_to
from heliosfs.transport import mounts
from heliosfs.transport.mounts import FILESYSTEM_TYPE, Mount


@pytest.fixture
def branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A directory that looks like a branch's root, with a nested branch and a snapshot below."""
    root = tmp_path / "m"
    nested = root / ".helios" / "branches" / "exp"
    for directory in (root, nested):
        (directory / ".helios" / "snapshots" / "v1" / "sub").mkdir(parents=True)
        (directory / ".helios" / "ctl").touch()
        (directory / "a" / "b").mkdir(parents=True)
    inside = os.fsencode(root)

    def getxattr(path: bytes, name: bytes, **_: object) -> bytes:
        if name == b"user.helios.id" and path.startswith(inside):
            return b"main@now:1"
        raise OSError(errno.ENOTSUP, "no such thing here", path)

    monkeypatch.setattr(module.os, "getxattr", getxattr)
    return inside


@pytest.mark.parametrize("inside", [b"", b"a", b"a/b", b"not/there", b".helios/snapshots/v1/sub"])
def test_the_branch_is_found_from_anywhere_in_it(branch: bytes, inside: bytes) -> None:
    place = locate(os.path.join(branch, inside))
    assert place == Place(branch, inside)
    assert place.ctl == branch + b"/.helios/ctl"


def test_a_nested_branch_is_found_before_its_parent(branch: bytes) -> None:
    nested = branch + b"/.helios/branches/exp"
    assert locate(nested + b"/a") == Place(nested, b"a")


def test_a_symbolic_link_into_the_branch_is_followed(branch: bytes, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(os.fsdecode(branch + b"/a"))
    assert locate(os.fsencode(tmp_path / "link")) == Place(branch, b"a")


def test_outside_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="is not in a HeliosFS branch") as caught:
        locate(os.fsencode(tmp_path))
    assert "-C PATH" in caught.value.remedy


def test_a_directory_that_merely_has_such_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / ".helios").mkdir()
    (tmp_path / ".helios" / "ctl").touch()
    with pytest.raises(CliError, match="is not in a HeliosFS branch"):
        locate(os.fsencode(tmp_path))


def test_a_mount_whose_daemon_has_given_up_says_so(branch: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers EIO to everything: that is no reason to say that nothing of ours is there."""
    lstat = os.lstat

    def answer(path: bytes) -> os.stat_result:
        if path.startswith(branch):
            raise OSError(errno.EIO, "Input/output error", path)
        return lstat(path)

    monkeypatch.setattr(module.os, "lstat", answer)
    with pytest.raises(CliError, match="is not in a HeliosFS branch"):
        locate(branch + b"/a")
    mount = Mount(0, 53, b"/", branch, b"rw", FILESYSTEM_TYPE, b"/a%20store")
    monkeypatch.setattr(mounts, "mounts", lambda: [mount])
    with pytest.raises(CliError, match=r"m: Input/output error") as caught:
        locate(branch + b"/a")
    assert "/a store" in caught.value.remedy and "umount" in caught.value.remedy
    assert (caught.value.code, caught.value.errno_name) == (Exit.ERROR, "EIO")


@pytest.mark.parametrize(
    ("base", "path", "inside"),
    [
        (b"", b"a/b", b"a/b"),
        (b"a", b"b", b"a/b"),
        (b"a", b"../gone", b"gone"),
        (b"a", b"..", b"."),
        (b"a", b"deleted/deep", b"a/deleted/deep"),
    ],
)
def test_paths_are_made_relative_to_the_branch(branch: bytes, base: bytes, path: bytes, inside: bytes) -> None:
    start = os.path.normpath(os.path.join(branch, base))
    assert relative_to(locate(start), start, path) == inside


def test_a_link_is_named_not_followed(branch: bytes) -> None:
    os.symlink(b"/etc/passwd", branch + b"/a/link")
    assert relative_to(locate(branch), branch, b"a/link") == b"a/link"
    assert relative_to(locate(branch), branch, branch + b"/a/link") == b"a/link"


@pytest.mark.parametrize("path", [b"..", b"../x", b"/etc/passwd"])
def test_a_path_that_leads_out_is_refused(branch: bytes, path: bytes) -> None:
    with pytest.raises(CliError, match="outside the branch") as caught:
        relative_to(locate(branch), branch, path)
    assert caught.value.code == Exit.USAGE
