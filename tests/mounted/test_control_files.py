"""The control files: what touch, echo, cat, ctl and setfattr do, and what they answer."""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore, Mounts, run, shell
from tests.support.versions import control, ctl, last, snapshots

pytestmark = pytest.mark.mounted


def test_a_touch_makes_exactly_one_snapshot(branch: Path) -> None:
    """touch(1), as a program."""
    before = snapshots(branch)
    run("touch", control(branch, "checkpoint"))
    (made,) = set(snapshots(branch)) - set(before)
    reply = last(branch)
    assert reply["ok"] and reply["verb"] == "checkpoint" and reply["name"] == made and reply["id"]
    assert reply["errno"] is None and reply["error"] is None and isinstance(reply["durable"], bool)
    assert made[8] == "T" and made.endswith("Z")


@pytest.mark.parametrize(
    "command",
    [
        "touch .helios/checkpoint",
        "touch -m .helios/checkpoint",
        "touch -d @100 .helios/checkpoint",
        "touch -c .helios/checkpoint",
        "echo > /dev/null; touch .helios/checkpoint; cat .helios/checkpoint > /dev/null",
        "echo named > .helios/checkpoint",
        "echo -n named > .helios/checkpoint",
        "printf named | dd of=.helios/checkpoint status=none",
        "printf named | tee .helios/checkpoint > /dev/null",
        "echo named >> .helios/checkpoint",
        "echo named 1<> .helios/checkpoint",
        "mkdir .helios/snapshots/named",
        "setfattr -n user.helios.checkpoint -v named .",
        "echo checkpoint named > .helios/ctl",
        "echo checkpoint > .helios/ctl",
        "setfattr -n user.helios.checkpoint .",
    ],
)
def test_each_way_makes_one_snapshot(branch: Path, command: str) -> None:
    """Every way that a program may take; named ones are called what they were called."""
    shell(command, branch)
    (made,) = set(snapshots(branch)) - {"base"}
    assert (made == "named") == ("named" in command)


@pytest.mark.parametrize(
    "command",
    [
        ": > .helios/checkpoint",
        "truncate -s 0 .helios/checkpoint",
        "truncate -s 10 .helios/checkpoint",
        "cat .helios/checkpoint",
        "stat .helios/checkpoint",
        "ls -la .helios .helios/snapshots .helios/branches",
        "touch -a .helios/checkpoint",
        "chmod 600 .helios/checkpoint || :",
        "touch .helios/status .helios/log || :",
        "find .helios -maxdepth 1 > /dev/null",
        "getfattr -d -m - . .helios > /dev/null",
        "test -w .helios/checkpoint",
        "cp .helios/checkpoint /dev/null",
    ],
)
def test_what_makes_none(branch: Path, command: str) -> None:
    """A truncate in any form, a look, a change of anything else."""
    shell(command, branch)
    assert snapshots(branch) == ["base"]


def test_each_write_is_a_command(branch: Path) -> None:
    """Two writes to one descriptor, at whatever offset."""
    descriptor = os.open(control(branch, "checkpoint"), os.O_WRONLY)
    os.write(descriptor, b"one\n")
    os.write(descriptor, b"two")
    os.pwrite(descriptor, b"three", 500)
    os.close(descriptor)
    assert snapshots(branch) == ["base", "one", "three", "two"]


def test_replies_by_cat_tail_head_and_python(branch: Path) -> None:
    """A branch's last result reads the same with any program."""
    shell("echo v1 > .helios/checkpoint", branch)
    expected = control(branch, "checkpoint").read_text()
    assert expected.endswith("\n") and expected.count("\n") == 1
    script = "import sys; print(open('.helios/checkpoint').read(), end='')"
    for words in (
        ("cat", ".helios/checkpoint"),
        ("tail", "-n", "1", ".helios/checkpoint"),
        ("head", "-c", "100000", ".helios/checkpoint"),
        ("dd", "if=.helios/checkpoint", "bs=7", "status=none"),
        (sys.executable, "-c", script),
        ("grep", "", ".helios/checkpoint"),
    ):
        assert run(*words, cwd=branch).stdout == expected, words
    assert os.stat(control(branch, "checkpoint")).st_size == len(expected)


def test_cat_before_any_command_is_empty(branch: Path) -> None:
    """Nothing has been given: nothing is shown."""
    for name in ("checkpoint", "restore", "ctl"):
        assert control(branch, name).read_bytes() == b""


def test_a_failure_is_the_last_result(branch: Path) -> None:
    """The reason in words is read back."""
    shell("echo v1 > .helios/checkpoint", branch)
    with pytest.raises(FileExistsError):
        control(branch, "checkpoint").write_bytes(b"v1\n")
    reply = last(branch)
    assert not reply["ok"] and reply["errno"] == "EEXIST" and reply["error"]


def test_ctl_takes_every_verb(branch: Path) -> None:
    """Words as a shell splits them, one line, one JSON reply."""
    assert ctl(branch, b"checkpoint 'a b'")["name"] == "a b"
    assert ctl(branch, b"branch exp from 'a b'")["ok"]
    assert ctl(branch, b'branch "exp 2" --from "a b"')["ok"]
    assert sorted(os.listdir(control(branch, "branches"))) == ["exp", "exp 2"]
    assert ctl(branch, b"snapshot mv 'a b' c")["ok"]
    assert snapshots(branch) == ["base", "c"]
    listed = ctl(branch, b"ls")
    assert [row["name"] for row in listed["snapshots"]] == ["base", "c"]
    assert [row["name"] for row in listed["branches"]] == ["exp", "exp 2"]
    assert ctl(branch, b"restore c")["ok"]
    assert ctl(branch, b"branch rm exp")["ok"]
    assert ctl(branch, b"snapshot rm c")["ok"]
    for verb in (b"status", b"stats", b"log", b"log -n 2"):
        assert ctl(branch, verb)["ok"], verb
    assert len(ctl(branch, b"log -n 2")["entries"]) == 2
    for verb in (
        b"commit",
        b"abort",
        b"undo",
        b"diff a b",
        b"gc everything",
        b"nonsense",
        b"",
        b"'",
        b"checkpoint a b",
    ):
        assert ctl(branch, verb)["errno"] == "EINVAL", verb


def test_files_that_do_not_exist_yet(branch: Path) -> None:
    """Later issues bring them; today they are absent, and nothing can be made under their names."""
    for name in ("commit", "abort", "undo", "diff", "history", "metrics", "anything"):
        with pytest.raises(FileNotFoundError):
            os.stat(control(branch, name))
        with pytest.raises(OSError):
            control(branch, name).write_bytes(b"x")
        with pytest.raises(OSError):
            control(branch, name).mkdir()


def test_reports(branch: Path) -> None:
    """status and stats are one JSON line, log is many."""
    shell("echo v1 > .helios/checkpoint; mkdir .helios/branches/exp", branch)
    for name in ("status", "stats"):
        text = control(branch, name).read_text()
        assert isinstance(json.loads(text), dict) and text.count("\n") == 1
    lines = [json.loads(line) for line in control(branch, "log").read_text().splitlines()]
    assert [line["verb"] for line in lines][-2:] == ["checkpoint", "branch"]
    assert all(line["lsn"] and line["time_ns"] for line in lines)
    assert [line["lsn"] for line in lines] == sorted(line["lsn"] for line in lines)
    for name in ("status", "stats", "log"):
        with pytest.raises(OSError):
            control(branch, name).write_bytes(b"x")


def test_hidden_from_listings_but_found_by_name(branch: Path) -> None:
    """find, tar, git add and rm -rf * do not walk into it."""
    (branch / "file").write_bytes(b"x")
    assert os.listdir(branch) == ["file"]
    assert run("find", ".", cwd=branch).stdout.split() == [".", "./file"]
    assert shell("echo .[!.]* *", branch).split() == [".[!.]*", "file"]
    assert "helios" not in run("tar", "-c", ".", cwd=branch).stdout
    assert sorted(os.listdir(control(branch))) == sorted(
        ["checkpoint", "restore", "ctl", "status", "stats", "log", "snapshots", "branches"]
    )


def test_visible_by_option(mounts: Mounts, transport: str) -> None:
    """-o control=visible lists it, in every branch."""
    with mounts.mounted(transport, "control=visible") as mounted:
        assert os.listdir(mounted.point) == [".helios"]
        (mounted.point / ".helios/branches/b").mkdir()
        assert os.listdir(mounted.point / ".helios/branches/b") == [".helios"]
        assert sorted(os.listdir(mounted.point / ".helios/branches")) == ["b"]
        (mounted.point / "f").write_bytes(b"")
        assert sorted(os.listdir(mounted.point)) == [".helios", "f"]


def test_only_at_the_root_of_a_branch(branch: Path) -> None:
    """Not in a subdirectory, not in a snapshot; there the name is a name like others."""
    (branch / "sub").mkdir()
    assert not (branch / "sub/.helios").exists()
    (branch / "sub/.helios").mkdir()
    (branch / "sub/.helios/file").write_bytes(b"mine")
    shell("echo v1 > .helios/checkpoint", branch)
    assert not (control(branch, "snapshots") / "v1/.helios").exists()
    assert (control(branch, "snapshots") / "v1/sub/.helios/file").read_bytes() == b"mine"


def test_the_control_tree_cannot_be_changed(branch: Path) -> None:
    """Neither removed, nor renamed, nor added to, nor linked; the tree goes on working."""
    (branch / "file").write_bytes(b"x")
    helios = control(branch)
    attempts: list[Callable[[], object]] = [
        lambda: os.rmdir(helios),
        lambda: os.unlink(helios),
        lambda: os.rename(helios, branch / "moved"),
        lambda: os.rename(branch / "file", helios),
        lambda: os.mkdir(helios),
        lambda: os.symlink("x", helios),
        lambda: os.link(branch / "file", helios),
        lambda: os.open(helios, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        lambda: os.unlink(helios / "checkpoint"),
        lambda: os.rename(helios / "checkpoint", branch / "c"),
        lambda: os.rename(branch / "file", helios / "file"),
        lambda: os.link(helios / "checkpoint", branch / "c"),
        lambda: os.link(branch / "file", helios / "file"),
        lambda: os.rmdir(helios / "snapshots"),
        lambda: os.rmdir(helios / "branches"),
        lambda: os.mkdir(helios / "directory"),
        lambda: os.mkfifo(helios / "fifo"),
        lambda: os.symlink("x", helios / "snapshots/link"),
        lambda: os.close(os.open(helios / "snapshots/file", os.O_CREAT | os.O_WRONLY)),
        lambda: os.unlink(helios / "snapshots/base"),
        lambda: os.setxattr(helios / "checkpoint", b"user.a", b"x"),
        lambda: os.truncate(helios / "status", 0),
    ]
    for number, attempt in enumerate(attempts):
        with pytest.raises(OSError) as raised:
            attempt()
        assert raised.value.errno not in (5, 2, 38), (number, raised.value)
    assert os.listdir(branch) == ["file"]
    assert snapshots(branch) == ["base"]


def test_modes_and_owners(branch: Path) -> None:
    """0600 and 0700, of the branch root's owner."""
    for name, mode in (("", 0o40700), ("snapshots", 0o40700), ("branches", 0o40700), ("checkpoint", 0o100600)):
        found = os.stat(control(branch, name))
        assert (oct(found.st_mode), found.st_uid) == (oct(mode), os.geteuid())
    for name in ("status", "stats", "log"):
        assert stat.S_IMODE(os.stat(control(branch, name)).st_mode) == 0o400


def test_st_ino_is_constant(branch: Path) -> None:
    """Every lookup gives another node; programs see one inode number."""
    for name in ("", "checkpoint", "ctl", "status", "snapshots", "branches"):
        numbers = set()
        for _ in range(5):
            numbers.add(os.stat(control(branch, name)).st_ino)
            if name:
                (branch / "x").touch()
        assert len(numbers) == 1


def test_xattrs_do_and_tell(branch: Path) -> None:
    """set = do, get = last result; never listed, never copied."""
    (branch / "file").write_bytes(b"content")
    os.setxattr(branch, b"user.helios.checkpoint", b"v1")
    assert json.loads(os.getxattr(branch, b"user.helios.checkpoint"))["name"] == "v1"
    os.setxattr(branch / "file", b"user.helios.checkpoint", b"v2")
    assert snapshots(branch) == ["base", "v1", "v2"]
    os.setxattr(branch, b"user.helios.branch", b"exp")
    assert os.listdir(control(branch, "branches")) == ["exp"]
    assert os.listxattr(branch) == [] and os.listxattr(branch / "file") == []
    run("cp", "-a", "file", "copy", cwd=branch)
    with pytest.raises(OSError):
        os.getxattr(branch / "file", b"user.helios.nonsense")
    with pytest.raises(OSError):
        os.setxattr(branch, b"user.helios.nonsense", b"x")
    for name in (b"root", b"hash", b"durable", b"id"):
        with pytest.raises(OSError) as raised:
            os.setxattr(branch, b"user.helios." + name, b"x")
        assert raised.value.errno in (1, 22)


def test_root_hash_durable_and_id(branch: Path) -> None:
    """What can be asked: equal trees have equal roots, equal contents equal hashes."""
    from blake3 import blake3

    (branch / "file").write_bytes(b"content" * 1000)
    (branch / "sub").mkdir()
    digest = blake3(b"content" * 1000).hexdigest()
    assert os.getxattr(branch / "file", b"user.helios.hash") == f"blake3:{digest}".encode()
    shell("echo v1 > .helios/checkpoint; echo v2 > .helios/checkpoint", branch)
    root = os.getxattr(branch, b"user.helios.root")
    assert root.startswith(b"blake3:") and len(root) == 71
    for name in ("v1", "v2"):
        assert os.getxattr(control(branch, "snapshots") / name, b"user.helios.root") == root
    (branch / "file").write_bytes(b"another")
    assert os.getxattr(branch, b"user.helios.root") != root
    for path in (branch / "file", branch / "sub"):
        with pytest.raises(OSError) as raised:
            os.getxattr(path, b"user.helios.root")
        assert raised.value.errno == 61
    with pytest.raises(OSError):
        os.getxattr(branch / "sub", b"user.helios.hash")
    ids = {os.getxattr(path, b"user.helios.id") for path in (branch, branch / "file", branch / "sub")}
    assert len(ids) == 3
    assert os.getxattr(control(branch, "snapshots") / "v1", b"user.helios.durable") in (b"0", b"1")


def test_an_unchanged_tree_makes_a_new_name_for_the_same_root(shared: MountedStore, branch: Path) -> None:
    """At no cost."""
    (branch / "f").write_bytes(b"x" * 100_000)
    control(branch, "checkpoint").write_bytes(b"a")
    control(branch, "checkpoint").write_bytes(b"b")
    roots = {os.getxattr(control(branch, "snapshots") / name, b"user.helios.root") for name in "ab"}
    assert len(roots) == 1


def test_ls_cd_cp_of_control_directories(branch: Path, scratch: Path) -> None:
    """Stock programs walk it by name."""
    shell("echo v1 > .helios/checkpoint; cd .helios/snapshots; test -d v1; ls -l > /dev/null", branch)
    shell(f"cp -r .helios/snapshots/v1 {scratch}/copy", branch)
    names = shell("ls -1 .helios/snapshots", branch).split()
    assert names == ["base", "latest", "v1"]
    assert shell("ls -lai .helios .helios/snapshots .helios/branches", branch)
    with tempfile.TemporaryDirectory(dir=branch) as inside:
        assert os.listdir(branch) == [os.path.basename(inside)]
