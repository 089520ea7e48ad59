"""mount_scripts: the helper of mount(8), the demonstration, and what the set-up takes for a working environment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guard import servers
from tests.support.mounts import (
    REPOSITORY,
    MountedStore,
    fill,
    heliosfs,
    mountpoints,
    run,
    signature,
    wait_until,
)

pytestmark = pytest.mark.mounted
SCRIPTS = REPOSITORY / "mount_scripts"
HELPER = SCRIPTS / "mount.fuse.heliosfs"
UNMOUNTER = SCRIPTS / "umount.fuse.heliosfs"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for everything that a program puts into TMPDIR."""
    directory = Path(tempfile.mkdtemp(dir=tempfile.gettempdir()))
    monkeypatch.setenv("TMPDIR", str(directory))
    yield directory
    shutil.rmtree(directory)


def mounted_below(directory: Path) -> list[bytes]:
    return [point for point, _ in mountpoints() if point.startswith(os.fsencode(directory) + b"/")]


def test_the_helper_mounts_as_mount_asks(fresh: MountedStore) -> None:
    heliosfs("branch", "exp", "-C", fresh.point)
    fresh.unmount()
    words = ["-o", "rw,nosuid,nodev,branch=main/exp", "-t", "fuse.heliosfs"]
    run(HELPER, fresh.store, fresh.point, "-f", *words)
    assert not fresh.mounted()
    assert "mounted on" in run(HELPER, fresh.store, fresh.point, "-v", *words).stdout
    assert fresh.mounted()
    found = run("findmnt", "-n", "-o", "FSTYPE,SOURCE,OPTIONS", "--target", fresh.point).stdout.split()
    assert found[:2] == ["fuse.heliosfs", str(fresh.store)]
    assert {"nosuid", "nodev"} <= set(found[2].split(","))
    assert json.loads((fresh.point / ".helios/status").read_bytes())["branch"] == "main/exp"
    run("umount", fresh.point)
    assert not fresh.mounted()


def test_a_mount_is_made_read_only_and_writable_again(fresh: MountedStore) -> None:
    """As mount(8) asks for `mount -o remount,ro MOUNTPOINT`: with all the options that the kernel shows."""
    file = fresh.point / "f"
    shown = "user_id=0,group_id=0,default_permissions"
    file.write_text("kept")
    with file.open("ab"):
        busy = run(HELPER, fresh.store, fresh.point, "-o", f"remount,ro,{shown}", check=False)
        assert busy.returncode == 32
        assert "open for writing" in busy.stderr
    assert "remounted" in run(HELPER, fresh.store, fresh.point, "-v", "-o", f"remount,ro,nosuid,{shown}").stdout
    options = run("findmnt", "-n", "-o", "OPTIONS", "--mountpoint", fresh.point).stdout.strip().split(",")
    assert {"ro", "nosuid"} <= set(options)
    with pytest.raises(OSError, match="Read-only"):
        file.write_text("lost")
    assert file.read_text() == "kept"
    run(HELPER, fresh.store, fresh.point, "-f", "-o", f"remount,rw,{shown}")
    with pytest.raises(OSError, match="Read-only"):
        file.unlink()
    run(HELPER, fresh.store, fresh.point, "-o", f"remount,rw,{shown}")
    options = run("findmnt", "-n", "-o", "OPTIONS", "--mountpoint", fresh.point).stdout.strip().split(",")
    assert "rw" in options
    assert "nosuid" not in options
    file.unlink()


def test_the_helper_gives_the_codes_of_mount(fresh: MountedStore) -> None:
    fresh.unmount()
    for words, code in (
        ([fresh.store], 1),
        ([fresh.store, fresh.point, "-o", "strange"], 1),
        ([fresh.base / "absent", fresh.point], 32),
        ([fresh.store, fresh.base / "absent"], 32),
        ([fresh.store, fresh.point, "-o", "branch=main/none"], 32),
    ):
        done = run(HELPER, *words, check=False)
        assert done.returncode == code, words
        assert done.stderr.startswith("mount.fuse.heliosfs: ")
    assert not fresh.mounted()


def test_umount_waits_where_it_has_a_helper(fresh: MountedStore) -> None:
    """So that the store can be removed, or its disk unmounted, by the next command."""
    (fresh.point / "f").write_bytes(os.urandom(3_000_000))
    assert "unmounted" in run(UNMOUNTER, fresh.point, "-v", "-t", "fuse.heliosfs").stdout
    assert not fresh.mounted()
    assert servers(os.fspath(fresh.point)) == []
    shutil.rmtree(fresh.store)
    heliosfs("init", fresh.store)
    fresh.mount()


def test_a_mount_is_ended_without_the_checkout(fresh: MountedStore) -> None:
    alone = fresh.base / "umount.fuse.heliosfs"
    shutil.copy(UNMOUNTER, alone)
    run(alone, fresh.point, "-n")
    assert not fresh.mounted()


def test_umount_by_force_ends_a_mount_that_hangs(fresh: MountedStore) -> None:
    worker = fresh.daemon() if fresh.status()["options"]["transport"] == "pyfuse3" else fresh.worker()
    os.kill(worker, signal.SIGSTOP)
    try:
        run(UNMOUNTER, fresh.point, "-f", timeout_s=20)
        assert not fresh.mounted()
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_until(lambda: servers(os.fspath(fresh.point)) == [], "its end")


def test_a_linked_helper_finds_its_checkout(fresh: MountedStore) -> None:
    fresh.unmount()
    link = fresh.base / "mount.fuse.heliosfs"
    link.symlink_to(HELPER)
    assert run(link, fresh.base / "absent", fresh.point, check=False).returncode == 32


@pytest.mark.timeout(300)
def test_the_demonstration_shows_everything_and_leaves_nothing(scratch: Path, temporary: Path) -> None:
    tree = scratch / "tree"
    tree.mkdir()
    fill(tree)
    before = signature(tree)
    done = run(sys.executable, "-m", "heliosfs", "demo", tree, timeout_s=240)
    lines = done.stdout.splitlines()
    assert lines[-1] == "All shown, all verified; nothing left behind."
    assert len(lines) <= 25
    for words in ("touch .helios/checkpoint", "bwrap", "rm -rf", "echo latest > .helios/restore", "all equal"):
        assert words in done.stdout
    assert os.listdir(temporary) == []
    assert mounted_below(temporary) == []
    assert signature(tree) == before


@pytest.mark.timeout(300)
def test_keep_leaves_a_mount_to_try(scratch: Path, temporary: Path) -> None:
    (scratch / "tree").mkdir()
    (scratch / "tree" / "file").write_text("x")
    done = run(sys.executable, "-m", "heliosfs", "demo", scratch / "tree", "--keep", "--json", timeout_s=240)
    reply = json.loads(done.stdout)
    point = Path(reply["mountpoint"])
    try:
        assert mounted_below(temporary) == [os.fsencode(point)]
        assert (point / "edited.txt").exists()
        assert reply["left_out"] == []
        assert all(step["seconds"] > 0 for step in reply["steps"])
    finally:
        heliosfs("umount", point)


@pytest.mark.timeout(300)
def test_a_failing_demonstration_cleans_up(scratch: Path, temporary: Path) -> None:
    tree = scratch / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    programs = scratch / "bin"
    programs.mkdir()
    (programs / "rm").write_text("#!/bin/sh\nexit 7\n")
    (programs / "rm").chmod(0o755)
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = run(sys.executable, "-m", "heliosfs", "demo", tree, timeout_s=240, check=False, env=path)
    assert done.returncode == 1
    assert "exit 7" in done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir(temporary) == []
    assert mounted_below(temporary) == []


def test_a_demonstration_needs_a_directory(scratch: Path) -> None:
    assert heliosfs("demo", scratch / "absent", check=False).returncode == 2


def setup_says(checkout: Path, call: str) -> int:
    """Source a checkout's setup.sh and call one of its functions; the exit code."""
    script = f'source "$1/mount_scripts/setup.sh"; {call}'
    done = subprocess.run(
        ["/bin/bash", "-c", script, "bash", checkout], capture_output=True, timeout=60, check=False
    )
    return done.returncode


@pytest.fixture
def checkout(scratch: Path) -> Path:
    """A checkout that has nothing but what setup.sh reads, and an environment without packages."""
    directory = scratch / "a checkout"
    (directory / "mount_scripts").mkdir(parents=True)
    for name in ("setup.sh", "constraints.txt", "build-constraints.txt"):
        shutil.copy(SCRIPTS / name, directory / "mount_scripts" / name)
    shutil.copy(REPOSITORY / "pyproject.toml", directory)
    run("/usr/bin/python3", "-m", "venv", "--without-pip", directory / ".venv")
    pip = directory / ".venv" / "bin" / "pip"
    pip.write_text(f"#!{directory}/.venv/bin/python\n")
    pip.chmod(0o755)
    return directory


def test_an_environment_is_known_to_work_only_where_it_was_made(checkout: Path) -> None:
    assert setup_says(checkout, "venv_works") == 0
    moved = checkout.rename(checkout.with_name("moved"))
    assert setup_says(moved, "venv_works") != 0


def test_an_environment_without_its_interpreter_does_not_work(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/usr/bin/python-that-was-upgraded-away")
    assert setup_says(checkout, "venv_works") != 0


@pytest.mark.parametrize("name", ["constraints.txt", "build-constraints.txt"])
def test_the_stamp_follows_the_constraints(checkout: Path, name: str) -> None:
    fresh = '[[ $(wanted_stamp) == "$(cat "$root/.venv/heliosfs.stamp")" ]]'
    assert setup_says(checkout, 'wanted_stamp > "$root/.venv/heliosfs.stamp"') == 0
    assert setup_says(checkout, fresh) == 0
    with (checkout / "mount_scripts" / name).open("a") as file:
        file.write("something==1\n")
    assert setup_says(checkout, fresh) != 0


def test_a_finished_set_up_takes_no_time_and_says_nothing(checkout: Path) -> None:
    assert setup_says(checkout, 'wanted_stamp > "$root/.venv/heliosfs.stamp"') == 0
    done = run(
        "/bin/bash", "-euo", "pipefail", "-c", 'source "$1/mount_scripts/setup.sh"; set_up; echo "$python"',
        "bash", checkout, timeout_s=10,
    )  # fmt: skip
    assert done.stdout == f"{checkout}/.venv/bin/python\n"
    assert done.stderr == ""


def test_scripts_are_well_formed_and_constraints_are_pins() -> None:
    for path in (*SCRIPTS.iterdir(), REPOSITORY / ".ci" / "run"):
        if path.suffix == ".sh" or path.name in ("quickstart", "run_tests", "run"):
            run("/bin/bash", "-n", path)
    for name in ("constraints.txt", "build-constraints.txt"):
        lines = (SCRIPTS / name).read_text().split()
        assert lines
        assert all(line.count("==") == 1 for line in lines)
