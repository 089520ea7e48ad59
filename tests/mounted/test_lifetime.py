"""What is there after an unmount, and after the daemon was killed: everything; and check() is clean."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest

from tests.support.mounts import (
    REPOSITORY,
    MountedStore,
    fill,
    heliosfs,
    run,
    shell,
    signature,
    storage_processes,
    wait_until,
)
from tests.support.otherprocess import OtherProcess
from tests.support.versions import checkpoint, child, control, ctl, restore, snapshot, snapshots

pytestmark = pytest.mark.mounted


def work(point: Path) -> None:
    """A history with everything in it."""
    fill(point)
    checkpoint(point, b"v1")
    shell("rm -r dir0; echo changed > file1; mv file2 moved; ln file3 file3.hard; mkdir -p a/b/c", point)
    child(point, "exp").mkdir()
    (child(point, "exp") / "only in exp").write_bytes(os.urandom(300_000))
    checkpoint(child(point, "exp"), b"w1")
    (child(point, "exp") / "only in exp").write_bytes(b"later")
    child(child(point, "exp"), "inner").mkdir()
    (child(child(point, "exp"), "inner") / "deep").write_bytes(b"deep")
    assert ctl(point, b"branch old from v1")["ok"]
    checkpoint(point, b"v2")
    restore(point, b"v1")
    assert ctl(point, b"restore v2 file1")["ok"]
    os.rename(snapshot(point, "v2"), snapshot(point, "renamed"))
    checkpoint(point, b"forgotten")
    os.rmdir(snapshot(point, "forgotten"))
    child(point, "dropped").mkdir()
    os.rmdir(child(point, "dropped"))
    (point / "last").write_bytes(b"last write")


def everything(point: Path) -> dict[str, object]:
    """All branches and snapshots, as they look."""
    found: dict[str, object] = {}
    waiting = [(point, "main")]
    while waiting:
        root, name = waiting.pop()
        found[name] = signature(root)
        found[f"{name} latest"] = os.readlink(snapshot(root)) if snapshots(root) else None
        for held in snapshots(root):
            found[f"{name}@{held}"] = signature(snapshot(root, held))
        waiting += [(child(root, inner), f"{name}/{inner}") for inner in os.listdir(control(root, "branches"))]
    return found


def test_unmount_and_mount(fresh: MountedStore) -> None:
    """Twice; the first listing at once; offline every invariant holds."""
    work(fresh.point)
    before = everything(fresh.point)
    numbers = {path: os.lstat(path).st_ino & (1 << 32) - 1 for path in fresh.point.rglob("*")}
    assert len(before) > 8
    for _ in range(2):
        fresh.unmount()
        assert not fresh.mounted() and os.listdir(fresh.point) == []
        assert fresh.check() == []
        fresh.mount()
        assert everything(fresh.point) == before
    assert {path: os.lstat(path).st_ino & (1 << 32) - 1 for path in fresh.point.rglob("*")} == numbers
    (fresh.point / "more").write_bytes(b"work goes on")
    restore(fresh.point, b"renamed")


def test_a_mount_waits_for_the_daemon_that_closes_the_store(fresh: MountedStore) -> None:
    """umount(8) returns before everything is stored; on a busy host long before: here its processes are stopped."""
    (fresh.point / "file").write_bytes(bytes(range(256)) * 400)
    storing = storage_processes(fresh.worker())
    assert storing
    for pid in storing:
        os.kill(pid, signal.SIGSTOP)
    run("umount", fresh.point)
    words = [sys.executable, "-m", "heliosfs", "mount", fresh.store, fresh.point]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(words, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, env=environment) as mounting:
        try:
            assert mounting.stderr is not None
            assert b"waiting for the process that is closing it" in mounting.stderr.readline()
        finally:
            for pid in storing:
                os.kill(pid, signal.SIGCONT)
        assert mounting.wait(60) == 0
    assert (fresh.point / "file").read_bytes() == bytes(range(256)) * 400
    fresh.unmount()
    assert fresh.check() == []


def test_after_a_kill(fresh: MountedStore) -> None:
    """SIGKILL, mount again: all that was acknowledged is there, fsync or not."""
    work(fresh.point)
    before = everything(fresh.point)
    for _ in range(3):
        fresh.kill_daemon()
        fresh.mount()
        assert everything(fresh.point) == before
    fresh.unmount()
    assert fresh.check() == []
    fresh.mount()
    assert everything(fresh.point) == before


def test_killed_again_and_again_under_writers(fresh: MountedStore, other: Callable[..., OtherProcess]) -> None:
    """What a writer's write(2) had returned for is there; what comes after the kill is an error at the writer."""
    point = fresh.point
    flag = fresh.base / "stop"
    for turn in range(3):
        writers = [other() for _ in range(2)]
        for number, writer in enumerate(writers):
            writer.send("counted", point / f"log{turn}-{number}", fresh.base / f"count{turn}-{number}", flag)
        wait_until(lambda t=turn: all((fresh.base / f"count{t}-{n}").exists() for n in range(2)), "writers at work")
        until = time.monotonic() + 0.2
        wait_until(lambda u=until: time.monotonic() > u, "some work")
        checkpoint(point, b"c%d" % turn)
        fresh.kill_daemon()
        for writer in writers:
            with pytest.raises(OSError) as raised:
                writer.result()
            assert raised.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        fresh.mount()
        for number in range(2):
            acknowledged = int((fresh.base / f"count{turn}-{number}").read_bytes())
            content = (point / f"log{turn}-{number}").read_bytes()
            # The kernel divides a write(2) where a page ends: one that had not returned may be there in part.
            assert len(content) >= 9 * acknowledged
            expected = b"".join(b"%08d\n" % line for line in range(len(content) // 9 + 1))
            assert expected.startswith(content)
        assert f"c{turn}" in snapshots(point)
    fresh.unmount()
    assert fresh.check() == []


def test_a_dead_mount_is_recovered(fresh: MountedStore) -> None:
    """The mountpoint answers ENOTCONN; a new mount at the same place takes it over."""
    (fresh.point / "f").write_bytes(b"x")
    fresh.kill_daemon()
    with pytest.raises(OSError) as raised:
        os.listdir(fresh.point)
    # The second while the dead process is still being taken apart.
    assert raised.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    fresh.mount()
    assert (fresh.point / "f").read_bytes() == b"x"
    fresh.kill_daemon()
    done = heliosfs("umount", fresh.point, "--json", check=False)
    assert done.returncode == 15 and "is unmounted, but" in json.loads(done.stdout)["error"]
    assert not fresh.mounted()
    fresh.mount()
    assert (fresh.point / "f").read_bytes() == b"x"


def test_open_files_survive_a_persist(fresh: MountedStore, other: Callable[..., OtherProcess]) -> None:
    """When what was in the log has become chunks, readers and mappings see the same bytes."""
    point = fresh.point
    data = os.urandom(3 << 20)
    (point / "f").write_bytes(data)
    reader = other()
    descriptor = reader.open(point / "f", os.O_RDONLY)
    mapped = reader.map(point / "f", len(data))
    os.getxattr(point, b"user.helios.root")
    assert reader.pread(descriptor, len(data), 0) == data
    assert reader.mread(mapped, 0, len(data)) == data
    assert (point / "f").read_bytes() == data


def test_unlinked_open_files_end_with_the_mount(fresh: MountedStore) -> None:
    """They are not there after a remount, and nothing is left of them."""
    descriptor = os.open(fresh.point / "f", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"x" * 100_000)
    os.unlink(fresh.point / "f")
    assert os.pread(descriptor, 1, 99_999) == b"x"
    fresh.kill_daemon()
    with pytest.raises(OSError) as raised:
        os.pwrite(descriptor, b"y", 0)
    assert raised.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    with contextlib.suppress(OSError):
        # Where FLUSH is sent it has nobody to go to; the descriptor is closed all the same.
        os.close(descriptor)
    fresh.mount()
    assert os.listdir(fresh.point) == []
    fresh.unmount()
    assert fresh.check() == []


def test_unmounting_a_busy_mount_is_refused(fresh: MountedStore, other: Callable[..., OtherProcess]) -> None:
    """Exit 3, the mount goes on."""
    process = other(cwd=fresh.point)
    process.listdir(".")  # It answers, so it is there.
    done = heliosfs("umount", fresh.point, check=False)
    assert done.returncode == 3, done
    process.put("f", b"still here")
    process.close()
    fresh.unmount()


def test_durable_tells(fresh: MountedStore) -> None:
    """status says so within the commit interval, without anybody's fsync."""
    (fresh.point / "f").write_bytes(b"x")
    checkpoint(fresh.point, b"v1")
    fresh.wait_durable()
    wait_until(
        lambda: os.getxattr(snapshot(fresh.point, "v1"), b"user.helios.durable") == b"1", "a durable snapshot"
    )


def test_a_memory_budget_smaller_than_the_tree(fresh: MountedStore) -> None:
    """A tree of which only a part fits into memory works all the same."""
    fresh.unmount()
    fresh.mount("memory=4M")
    shell("for d in $(seq 20); do mkdir $d; for f in $(seq 100); do echo $d $f > $d/$f; done; done", fresh.point)
    os.getxattr(fresh.point, b"user.helios.root")
    fresh.unmount()
    fresh.mount("memory=4M")
    for directory in range(1, 21):
        for file in range(1, 101, 7):
            assert (fresh.point / f"{directory}/{file}").read_text() == f"{directory} {file}\n"
    assert len(shell("find . -type f", fresh.point).splitlines()) == 2000
