"""A command and its reply by one ioctl; where the transport has none, the command line does without."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from heliosfs.control import ioctl
from tests.support.mounts import NOBODY, MountedStore, Mounts, heliosfs, run, wait_until
from tests.support.otherprocess import OtherProcess
from tests.support.versions import control, ctl, last, snapshots

pytestmark = pytest.mark.mounted


@pytest.fixture(scope="module")
def kernel(mounts: Mounts) -> Iterator[MountedStore]:
    with mounts.mounted("kernel") as mounted:
        yield mounted


@pytest.fixture
def tree(kernel: MountedStore, request: pytest.FixtureRequest) -> Path:
    """The root of a new branch on the transport that has ioctls."""
    made = kernel.point / ".helios/branches" / f"t{hash(request.node.name) & 0xFFFFFFFF:08x}"
    made.mkdir()
    return made


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def call(descriptor: int, line: bytes) -> tuple[int, dict[str, Any], int]:
    """The call's errno, its JSON line, and the length of the whole reply."""
    structure = ioctl.request(line)
    refused = 0
    try:
        fcntl.ioctl(descriptor, ioctl.NUMBER, structure, True)
    except OSError as error:
        refused = error.errno or 0
    reply, whole = ioctl.reply_in(structure)
    return refused, json.loads(reply), whole


def test_every_front_end_answers_the_same(tree: Path) -> None:
    """The directory, `ctl`, and the file of one verb."""
    (tree / "f").write_bytes(b"1")
    with opened(control(tree)) as directory:
        refused, reply, whole = call(directory, b"checkpoint v1\n")
        assert (refused, reply["ok"], reply["verb"], reply["name"]) == (0, True, "checkpoint", "v1")
        assert whole == len(json.dumps(reply, separators=(",", ":"))) + 1
        assert last(tree, "ctl") == reply
        (tree / "f").write_bytes(b"22")
        assert call(directory, b"restore v1")[1]["changed"] == 1
    assert (tree / "f").read_bytes() == b"1"
    with opened(control(tree, "ctl")) as file:
        assert call(file, b"branch exp from v1")[1]["branch"].endswith("/exp")
    with opened(control(tree, "checkpoint")) as file:
        assert call(file, b"v2")[1]["name"] == "v2"
        assert call(file, b"v2")[0] == errno.EEXIST
    assert {"v1", "v2"} <= set(snapshots(tree))
    assert last(tree, "checkpoint")["errno"] == "EEXIST"


def test_a_refusal_is_an_errno_and_a_reason(tree: Path) -> None:
    with opened(control(tree)) as directory:
        for line, expected in (
            (b"restore nothing", errno.ENOENT),
            (b"checkpoint base", errno.EINVAL),
            (b"dance", errno.EINVAL),
            (b"", errno.EINVAL),
            (b"checkpoint a\ncheckpoint b", errno.EINVAL),
            (b"checkpoint " + b"x" * 300, errno.ENAMETOOLONG),
            (b"checkpoint " + b"x" * 9000, errno.E2BIG),
        ):
            refused, reply, _ = call(directory, line)
            assert refused == expected, line
            assert (reply["ok"], reply["errno"]) == (False, errno.errorcode[expected])
            assert reply["error"] == ctl(tree, line)["error"] or b"\n" in line
    assert snapshots(tree) == ["base"]


def test_what_is_no_command(tree: Path) -> None:
    """Another number, another node, a structure that contradicts itself."""
    (tree / "f").touch()
    command = bytes(ioctl.request(b"checkpoint"))
    for path in (tree, tree / "f", control(tree, "status"), control(tree, "snapshots"), control(tree, "branches")):
        with opened(path) as descriptor, pytest.raises(OSError) as raised:
            fcntl.ioctl(descriptor, ioctl.NUMBER, bytearray(command), True)
        assert raised.value.errno == errno.ENOTTY, path
    with opened(control(tree)) as directory:
        for number, data, expected in (
            (ioctl.NUMBER + 1, command, errno.ENOTTY),
            (ioctl.NUMBER ^ 1 << 16, command, errno.ENOTTY),
            (0x80086601, bytes(8), errno.ENOTTY),
            (ioctl.NUMBER, b"\xff\xff\0\0" + command[4:], errno.EINVAL),
            (ioctl.NUMBER, command[:4] + b"\1\0\0\0" + command[8:], errno.EINVAL),
        ):
            with pytest.raises(OSError) as raised:
                fcntl.ioctl(directory, number, bytearray(data), True)
            assert raised.value.errno == expected, (hex(number), data[:8])
    assert snapshots(tree) == ["base"]


def test_a_reply_that_does_not_fit(tree: Path) -> None:
    """It is cut to what every reply has; of a file, the whole one is read from the same descriptor."""
    for number in range(120):
        control(tree, f"snapshots/{number:0200d}").mkdir()
    with opened(control(tree, "ctl"), os.O_RDWR) as file:
        os.pread(file, 4096, 0)
        refused, reply, whole = call(file, b"ls")
        assert (refused, reply["ok"], reply["verb"]) == (0, True, "ls")
        assert "snapshots" not in reply and whole > ioctl.TEXT_MAX
        text = os.pread(file, 1 << 20, 0)
        assert len(text) == whole and len(json.loads(text)["snapshots"]) == 121
        assert call(file, b"status")[1]["verb"] == "status"
        assert json.loads(os.pread(file, 1 << 20, 0))["verb"] == "status"
    with opened(control(tree)) as directory:
        assert call(directory, b"ls")[2] == whole
    assert len(last(tree, "ctl")["snapshots"]) == 121


def test_who_may(mounts: Mounts, other: Callable[..., OtherProcess]) -> None:
    """The owner of the branch, and root: by the mode at open(2), and by who calls after that."""
    stranger = other(uid=NOBODY)
    with mounts.mounted("kernel") as mounted:
        root = mounted.point
        root.chmod(0o755)
        for name in ("", "ctl"):
            with pytest.raises(OSError) as raised:
                stranger.open(os.fspath(control(root, name)), os.O_RDONLY)
            assert raised.value.errno == errno.EACCES
        os.chown(root, NOBODY, NOBODY)
        mine = stranger.open(os.fspath(control(root)), os.O_RDONLY)
        refused, structure = stranger.ioctl(mine, ioctl.NUMBER, bytes(ioctl.request(b"checkpoint mine")))
        assert refused == 0 and json.loads(ioctl.reply_in(structure)[0])["name"] == "mine"
        os.chown(root, 0, 0)
        refused, structure = stranger.ioctl(mine, ioctl.NUMBER, bytes(ioctl.request(b"checkpoint stolen")))
        assert refused == errno.EACCES and json.loads(ioctl.reply_in(structure)[0])["errno"] == "EACCES"
        stranger.close_fd(mine)
        assert snapshots(root) == ["mine"]


def test_a_branch_that_is_gone(tree: Path) -> None:
    control(tree, "branches/b").mkdir()
    with opened(control(tree, "branches/b/.helios")) as directory:
        control(tree, "branches/b").rmdir()
        with pytest.raises(OSError) as raised:
            fcntl.ioctl(directory, ioctl.NUMBER, ioctl.request(b"checkpoint"), True)
    assert raised.value.errno == errno.ESTALE


def test_a_restore_is_seen_by_others_when_the_call_returns(tree: Path, other: Callable[..., OtherProcess]) -> None:
    watcher = other()
    (tree / "d").mkdir()
    (tree / "d/f").write_bytes(b"one")
    with opened(control(tree)) as directory:
        call(directory, b"checkpoint one")
        for _ in range(50):
            (tree / "d/f").write_bytes(b"other")
            (tree / "d/g").write_bytes(b"new")
            assert watcher.get(f"{tree}/d/f") == b"other" and len(watcher.listdir(f"{tree}/d")) == 2
            call(directory, b"restore one")
            assert watcher.get(f"{tree}/d/f") == b"one"
            assert watcher.listdir(f"{tree}/d") == ["f"]


def test_the_command_line(branch: Path) -> None:
    """By the call where there is one, by the file elsewhere; a reply too long for the call is whole."""
    assert json.loads(heliosfs("checkpoint", "v1", "-C", branch, "--json").stdout)["name"] == "v1"
    for number in range(120):
        control(branch, f"snapshots/{number:0200d}").mkdir()
    assert len(json.loads(heliosfs("ls", "-C", branch, "--json").stdout)["snapshots"]) == 122
    again = heliosfs("checkpoint", "v1", "-C", branch, check=False)
    assert again.returncode == 3 and "v1" in again.stderr
    assert last(branch, "ctl")["errno"] == "EEXIST"


def test_one_request(mounts: Mounts) -> None:
    """What the command costs beside looking `.helios` up: a single IOCTL. And the command line has no WRITE."""
    with mounts.mounted("kernel", "debug=requests") as mounted:
        with opened(control(mounted.point)) as directory:
            call(directory, b"checkpoint v1")
            call(directory, b"checkpoint v2")
        heliosfs("checkpoint", "v3", "-C", mounted.point)
        (mounted.point / "end").mkdir()
        wait_until(lambda: any("MKDIR" in line for line in _requests(mounted)), "the last request in the log")
        asked = [line.split()[0] for line in _requests(mounted)]
    first = asked.index("IOCTL")
    assert asked[first : first + 2] == ["IOCTL", "IOCTL"]
    assert asked.count("IOCTL") == 3
    assert not {"WRITE", "READ"} & set(asked)


def _requests(mounted: MountedStore) -> list[str]:
    found = [line.partition("heliosfs.requests: ")[2] for line in mounted.said().splitlines()]
    return [line for line in found if line]


def test_plain_files_have_no_flags(tree: Path) -> None:
    """lsattr(1) asks by ioctl, too."""
    (tree / "f").touch()
    assert run("lsattr", tree / "f", check=False).returncode == 1
