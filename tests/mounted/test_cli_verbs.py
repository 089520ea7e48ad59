"""The command line on a live mount: by directory, by store, and on a store without a daemon."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import REPOSITORY, MountedStore, Mounts, fill, heliosfs, run, shell, signature, wait_until

pytestmark = pytest.mark.mounted
PROGRAM = f"{shlex.quote(sys.executable)} -m heliosfs"


def ask(*words: str | Path, cwd: Path | None = None, code: int = 0) -> dict[str, Any]:
    """Run with --json; the object, after checking that it is one line and the exit code the expected one."""
    done = heliosfs(*words, "--json", cwd=cwd, check=False)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.count("\n") == 1
    reply = json.loads(done.stdout)
    assert isinstance(reply, dict)
    assert reply["ok"] == (code == 0)
    assert {"ok", "verb", "id", "name", "errno", "error", "durable", "time_ns"} <= reply.keys()
    return reply


def names(reply: dict[str, Any], key: str) -> list[str]:
    return [row["name"] for row in reply[key]]


def test_a_day_in_a_branch(fresh: MountedStore) -> None:
    point = fresh.point
    (point / "sub").mkdir()
    (point / "sub" / "file").write_text("one")
    assert ask("checkpoint", "v1", cwd=point / "sub")["name"] == "v1"
    assert "checkpoint" in heliosfs("-C", point, "checkpoint").stdout
    (point / "sub" / "file").write_text("two")
    assert ask("branch", "exp", "-C", point)["ok"]
    assert (point / ".helios/branches/exp/sub/file").read_text() == "two"
    assert ask("branch", "old", "--from", "v1", "-C", point)["ok"]
    assert ask("branch", "older", "from", "v1", "-C", point)["ok"]
    assert (point / ".helios/branches/old/sub/file").read_text() == "one"

    listing = ask("ls", "-C", point)
    assert names(listing, "branches") == ["exp", "old", "older"]
    assert names(listing, "snapshots")[0] == "v1"
    text = heliosfs("ls", "-C", point).stdout
    assert text.splitlines()[0].split() == ["WHAT", "NAME", "TIME", "DURABLE", "SIZE", "KIND"]
    assert len(text.splitlines()) == 1 + 3 + len(listing["snapshots"])

    assert ask("restore", "v1", cwd=point / "sub")["ok"]
    assert (point / "sub" / "file").read_text() == "one"
    assert ask("snapshot", "mv", "v1", "first", "-C", point)["ok"]
    assert ask("snapshot", "rm", "first", "-C", point)["ok"]
    assert "v1" not in names(ask("ls", "-C", point), "snapshots")
    assert "first" not in names(ask("ls", "-C", point), "snapshots")
    assert ask("branch", "rm", "old", "-C", point)["ok"]
    assert names(ask("ls", "-C", point), "branches") == ["exp", "older"]

    verbs = [entry["verb"] for entry in ask("log", "-C", point)["entries"]]
    assert "restore" in verbs
    assert len(ask("log", "-n", "2", "-C", point)["entries"]) == 2
    assert heliosfs("log", "-C", point).stdout.splitlines()[0].startswith("TIME")
    assert ask("status", "-C", point)["branch"] == "main"
    assert "branch" in heliosfs("status", "-C", point).stdout
    assert ask("stats", "-C", point)["ok"]
    assert heliosfs("stats", "-C", point).stdout


def test_a_nested_branch_acts_on_itself(fresh: MountedStore) -> None:
    heliosfs("branch", "a", "-C", fresh.point)
    inner = fresh.point / ".helios/branches/a"
    (inner / "d").mkdir()
    assert ask("checkpoint", "mine", cwd=inner / "d")["name"] == "mine"
    assert ask("status", cwd=inner)["branch"] == "main/a"
    assert "mine" not in names(ask("ls", "-C", fresh.point), "snapshots")
    assert "mine" in names(ask("ls", "--store", fresh.store, "--branch", "main/a"), "snapshots")
    # In a snapshot's directory the branch is the one that it belongs to.
    assert ask("status", cwd=inner / ".helios/snapshots/mine/d")["branch"] == "main/a"


def test_restore_of_one_path_even_a_deleted_one(fresh: MountedStore) -> None:
    point = fresh.point
    (point / "a" / "b").mkdir(parents=True)
    (point / "a" / "b" / "gone").write_text("kept")
    (point / "a" / "stays").write_text("one")
    heliosfs("checkpoint", "v1", "-C", point)
    (point / "a" / "stays").write_text("two")
    shell("rm -r a/b", point)
    assert ask("restore", "v1", "b/gone", cwd=point / "a")["ok"]
    assert (point / "a" / "b" / "gone").read_text() == "kept"
    assert (point / "a" / "stays").read_text() == "two"
    (point / "a" / "b" / "gone").unlink()
    assert ask("restore", "v1", "a/b", "--store", fresh.store)["ok"]
    assert (point / "a" / "b" / "gone").read_text() == "kept"
    assert ask("restore", "v1", "/etc/passwd", cwd=point, code=2)["errno"] == "EINVAL"
    assert ask("restore", "v1", "no/such", cwd=point, code=1)["errno"] == "ENOENT"


@pytest.mark.parametrize("by_store", [False, True])
def test_refusals_have_documented_exit_codes(fresh: MountedStore, by_store: bool) -> None:
    where: list[str | Path] = ["--store", fresh.store] if by_store else ["-C", fresh.point]
    (fresh.point / "file").write_text("x")
    heliosfs("checkpoint", "v1", *where)
    heliosfs("branch", "exp", *where)
    shell("mkdir .helios/branches/exp/.helios/branches/child", fresh.point)
    before = signature(fresh.point)
    for words, code, errno in (
        (["checkpoint", "v1"], 3, "EEXIST"),
        (["checkpoint", ".."], 2, "EINVAL"),
        (["checkpoint", "a/b"], 2, "EINVAL"),
        (["checkpoint", "a\nb"], 2, "EINVAL"),
        (["checkpoint", ""], 2, "EINVAL"),
        (["checkpoint", "latest"], 2, "EINVAL"),
        (["checkpoint", "x" * 256], 2, "ENAMETOOLONG"),
        (["restore", "nothing"], 1, "ENOENT"),
        (["branch", "exp"], 3, "EEXIST"),
        (["branch", "other", "--from", "nothing"], 1, "ENOENT"),
        (["branch", "rm", "nothing"], 1, "ENOENT"),
        (["branch", "rm", "exp"], 3, "EBUSY"),
        (["snapshot", "rm", "nothing"], 1, "ENOENT"),
        (["snapshot", "mv", "v1", "v1"], 3, "EEXIST"),
    ):
        reply = ask(*words, *where, code=code)
        assert reply["errno"] == errno, words
        done = heliosfs(*words, *where, check=False)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith("heliosfs: ")
        assert done.stderr.count("\n") == 1
    assert signature(fresh.point) == before
    assert names(ask("ls", *where), "snapshots") == ["v1"]


def test_a_store_without_a_daemon(fresh: MountedStore) -> None:
    (fresh.point / "file").write_text("one")
    heliosfs("checkpoint", "v1", "-C", fresh.point)
    fresh.unmount()
    at = ["--store", fresh.store]
    assert ask("checkpoint", "v2", *at)["name"] == "v2"
    assert ask("branch", "exp", "--from", "v1", *at)["ok"]
    assert ask("status", *at)["branch"] == "main"
    assert ask("checkpoint", "v1", *at, code=3)["errno"] == "EEXIST"
    assert ask("ls", *at, "--branch", "main/none", code=1)["errno"] == "ENOENT"
    fresh.mount()
    assert names(ask("ls", *at), "snapshots") == ["v1", "v2"]
    assert (fresh.point / ".helios/branches/exp/file").read_text() == "one"
    fresh.unmount()
    assert fresh.check() == []


def test_a_second_mount_says_where_the_branch_is(mounts: Mounts, scratch: Path) -> None:
    """On pyfuse3, which has one mountpoint in a process."""
    with mounts.mounted("pyfuse3") as fresh:
        heliosfs("branch", "exp", "-C", fresh.point)
        reply = ask("mount", fresh.store, scratch, "-o", "branch=main/exp", code=11)
        assert reply["path"] == f"{fresh.point}/.helios/branches/exp"
        assert reply["mountpoint"] == str(fresh.point)
        assert os.path.isdir(reply["path"])
        done = heliosfs("mount", fresh.store, scratch, check=False)
        assert done.returncode == 11
        assert str(fresh.point) in done.stderr


def test_bad_mountpoints_and_stores(fresh: MountedStore, scratch: Path) -> None:
    fresh.unmount()
    store = fresh.store
    (scratch / "full").mkdir()
    (scratch / "full" / "file").touch()
    (scratch / "empty").mkdir()
    ask("mount", store, scratch / "absent", code=1)
    ask("mount", store, scratch / "full" / "file", code=1)
    ask("mount", store, scratch / "full", code=1)
    ask("mount", scratch / "absent", scratch / "empty", code=10)
    ask("mount", store, scratch / "empty", "-o", "branch=main/none", code=1)
    ask("init", store, code=3)
    ask("init", scratch / "full", code=3)
    ask("umount", scratch / "empty", code=1)
    text = (store / "format").read_text()
    (store / "format").write_text(text.replace("version 0", "version 7"))
    ask("mount", store, scratch / "empty", code=13)
    ask("ls", "--store", store, code=13)
    (store / "format").write_text("rubbish\n")
    ask("mount", store, scratch / "empty", code=12)
    ask("ls", "--store", store, code=12)
    (store / "format").write_text(text)
    assert os.listdir(scratch / "empty") == []
    fresh.mount()


def test_names_of_any_bytes(fresh: MountedStore) -> None:
    odd = Path(os.fsdecode(os.fsencode(fresh.point) + b"/\xff 'odd\" name"))
    odd.mkdir()
    (odd / "file").write_text("kept")
    heliosfs("checkpoint", "a 'quoted' \"name\"", cwd=odd)
    (odd / "file").unlink()
    heliosfs("restore", "a 'quoted' \"name\"", "file", cwd=odd)
    assert (odd / "file").read_text() == "kept"
    (odd / "file").unlink()
    inside = Path(os.fsdecode(b"\xff 'odd\" name/file"))
    heliosfs("restore", "latest", inside, "--store", fresh.store)
    assert (odd / "file").read_text() == "kept"


def test_completion_knows_the_snapshots(fresh: MountedStore) -> None:
    heliosfs("checkpoint", "before-lunch", "-C", fresh.point)
    heliosfs("checkpoint", "after", "-C", fresh.point)
    environment = "_HELIOSFS_COMPLETE=bash_complete COMP_WORDS='heliosfs restore bef' COMP_CWORD=2"
    out = shell(f"cd {fresh.point} && {environment} {PROGRAM}", fresh.base)
    assert out.split() == ["plain,before-lunch"]


def test_mount_in_the_foreground_ends_with_the_mount(mounts: Mounts, scratch: Path, transport: str) -> None:
    with mounts.mounted(transport) as mounted:
        mounted.unmount()
        process = subprocess.Popen(
            [sys.executable, "-m", "heliosfs", "mount", "-f", mounted.store, mounted.point],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(mounted.mounted, "the mount")
            (mounted.point / "file").write_text("x")
            process.terminate()
            assert process.wait(30) == 0
            assert not mounted.mounted()
        finally:
            process.kill()
            process.communicate(timeout=30)
        mounted.mount()
        assert (mounted.point / "file").read_text() == "x"


def test_what_is_imported_comes_out_the_same(fresh: MountedStore, scratch: Path) -> None:
    tree = scratch / "tree"
    tree.mkdir()
    fill(tree)
    reply = ask("import", fresh.store, tree)
    assert reply["files"] > 0
    wanted = signature(tree)
    assert signature(fresh.point) == wanted
    again = ask("import", fresh.store, tree)
    assert again["new_bytes"] == 0
    assert ask("export", fresh.store, "main", scratch / "out")["ok"]
    assert signature(scratch / "out") == wanted
    (fresh.point / "more").write_text("x")
    heliosfs("export", fresh.store, f"main@{reply['name']}", scratch / "out.tar")
    fresh.unmount()
    shell("mkdir t && tar -xf out.tar -C t", scratch)
    assert set(signature(scratch / "t")) == set(wanted)
    # Without a daemon it is the same.
    heliosfs("export", fresh.store, f"main@{reply['name']}", scratch / "out2")
    assert signature(scratch / "out2") == wanted
    (tree / "new").write_text("new")
    assert ask("import", fresh.store, tree)["ok"]
    fresh.mount()
    assert signature(fresh.point) == signature(tree)


def test_export_refuses_what_is_there(fresh: MountedStore, scratch: Path) -> None:
    (scratch / "full").mkdir()
    (scratch / "full" / "file").touch()
    ask("export", fresh.store, "main", scratch / "full", code=3)
    ask("export", fresh.store, "main@none", scratch / "new", code=1)
    ask("export", fresh.store, "main/none", scratch / "new", code=1)
    ask("export", fresh.store, "@", scratch / "new", code=2)
    ask("import", fresh.store, scratch / "absent", code=1)


def test_a_tar_goes_through_a_pipe(fresh: MountedStore, scratch: Path) -> None:
    (fresh.point / "file").write_text("content")
    assert shell(f"{PROGRAM} export {fresh.store} main - | tar -tf -", scratch).split()[-1].endswith("file")
    fresh.unmount()
    assert shell(f"{PROGRAM} export {fresh.store} main - | tar -xOf - file", scratch) == "content"


def test_mount_from_a_directory(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(scratch / "data"))
    project, point = scratch / "project", scratch / "work"
    project.mkdir()
    point.mkdir()
    (project / "file").write_text("one")
    try:
        first = ask("mount", "--from", project, point)
        assert first["imported"]["files"] >= 1
        assert Path(first["store"]).parent == scratch / "data" / "heliosfs"
        assert len(Path(first["store"]).name) == 16
        assert (point / "file").read_text() == "one"
        (point / "file").write_text("two")
        heliosfs("umount", point)
        (project / "file").write_text("three")
        said = heliosfs("mount", "--from", project, point).stdout
        assert "nothing imported" in said
        assert (point / "file").read_text() == "two"
    finally:
        heliosfs("umount", point, check=False)
    assert [path.name for path in (scratch / "data" / "heliosfs").iterdir()] == [Path(first["store"]).name]


def test_a_failed_import_leaves_no_store(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(scratch / "data"))
    (scratch / "work").mkdir()
    ask("mount", "--from", scratch / "absent", scratch / "work", code=1)
    assert not (scratch / "data").exists()


def test_mount_without_a_store_makes_one(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(scratch / "data"))
    point = scratch / "work"
    point.mkdir()
    try:
        assert ask("mount", point)["made"] is True
        (point / "file").write_text("x")
        heliosfs("umount", point)
        assert ask("mount", point)["made"] is False
        assert (point / "file").read_text() == "x"
    finally:
        heliosfs("umount", point, check=False)


def test_a_dead_mount_is_told_of_and_cleared_away(fresh: MountedStore) -> None:
    (fresh.point / "file").write_text("x")
    fresh.kill_daemon()
    done = heliosfs("ls", "-C", fresh.point, check=False)
    assert done.returncode == 1
    assert "its daemon is gone" in done.stderr
    report = json.loads(heliosfs("doctor", "--json", check=False).stdout)
    findings = {row["what"]: row for row in report["findings"]}
    assert not findings["mounts"]["ok"]
    assert str(fresh.point) in findings["mounts"]["found"]
    fresh.mount()
    assert (fresh.point / "file").read_text() == "x"
    fresh.kill_daemon()
    fresh.unmount(15)
    assert not fresh.mounted()
    assert os.listdir(fresh.point) == []


def alone(script: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A shell script that may mount what it likes: it has mounts of its own."""
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    return run(*namespace, "/bin/bash", "-c", script, "bash", sys.executable, *words, check=False, cwd=REPOSITORY)


WITHOUT_FUSE = """
    set -eu
    mount -t tmpfs none "$2"
    for name in null zero urandom; do touch "$2/$name"; mount --bind "/dev/$name" "$2/$name"; done
    mount --rbind "$2" /dev
"""


def test_without_the_device_mount_exits_14(fresh: MountedStore, scratch: Path) -> None:
    fresh.unmount()
    script = WITHOUT_FUSE + 'exec "$1" -m heliosfs mount --json "$3" "$4"'
    done = alone(script, scratch, fresh.store, fresh.point)
    assert done.returncode == 14, done.stdout + done.stderr
    assert json.loads(done.stdout)["exit"] == 14
    done = alone(WITHOUT_FUSE + 'exec "$1" -m heliosfs doctor', scratch)
    assert done.returncode == 14
    assert "BAD  /dev/fuse: missing" in done.stdout


def test_a_full_disk_ends_an_import_and_changes_nothing(scratch: Path) -> None:
    tree, small = scratch / "tree", scratch / "small"
    tree.mkdir()
    small.mkdir()
    for number in range(12):
        (tree / f"file{number}").write_bytes(os.urandom(16 << 20))
    script = """
        set -u
        mount -t tmpfs -o size=96M none "$3"
        "$1" -m heliosfs init "$3/store" && "$1" -m heliosfs checkpoint v1 --store "$3/store" || exit 90
        "$1" -m heliosfs import "$3/store" "$2"
        echo "import $?"
        "$1" -m heliosfs ls --store "$3/store" --json
    """
    done = alone(script, tree, small)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-2] == "import 1"
    assert "no space left" in done.stderr.lower()
    assert done.stderr.count("\n") == 1
    listing = json.loads(lines[-1])
    assert names(listing, "snapshots") == ["v1"]
