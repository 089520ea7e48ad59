"""The process that serves a mount dies, hangs or is replaced, and nobody who uses the mount notices."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL

import pytest

from heliosfs.daemon.supervisor import READ_ONLY
from tests.crash.programs import run_programs
from tests.crash.takeover import run_clients, soak
from tests.support import guard
from tests.support.mounts import (
    REPOSITORY,
    MountedStore,
    Mounts,
    heliosfs,
    run,
    shell,
    storage_processes,
    wait_until,
)

pytestmark = pytest.mark.mounted

HASTY = """
import sys
from heliosfs.daemon import supervisor
supervisor.HOPELESS = 2
from heliosfs.cli.main import main
sys.argv = ["heliosfs", "mount", "-f", *sys.argv[1:]]
sys.exit(main())
"""
"""A mount that gives up after the second crash; the usual number takes it 18 s."""


@pytest.fixture
def mount(mounts: Mounts) -> Iterator[MountedStore]:
    with mounts.mounted("kernel") as made:
        yield made


def kill(mount: MountedStore) -> int:
    """SIGKILL of the worker; its process id."""
    pid = mount.worker()
    os.kill(pid, signal.SIGKILL)
    return pid


def test_clients_see_nothing_of_many_deaths(mount: MountedStore) -> None:
    report = soak(mount, 8, seed=11, longest_s=0.3)
    assert report["errors"] == []
    assert report["restarts"] == report["kills"] == 8
    assert report["operations"] > 0
    mount.unmount()
    assert mount.check() == []


def test_what_is_open_stays_open(mount: MountedStore) -> None:
    point = mount.point
    (point / "d").mkdir()
    with open(point / "d/f", "w+b", buffering=0) as file, open(point / "gone", "w+b", buffering=0) as gone:
        (point / "gone").unlink()
        gone.write(b"no name")
        file.write(b"before")
        place = os.open(point / "d", os.O_RDONLY | os.O_DIRECTORY)
        kill(mount)
        file.write(b", after")
        assert os.pread(gone.fileno(), 99, 0) == b"no name"
        gone.write(b", still here")
        assert os.pread(gone.fileno(), 99, 0) == b"no name, still here"
        assert os.listdir(place) == ["f"]
        os.close(place)
        assert (point / "d/f").read_bytes() == b"before, after"
        assert mount.status()["unlinked_open_files"] == 1
    mount.unmount()
    assert mount.check() == []


def test_what_has_no_name_yet_gets_one(mount: MountedStore) -> None:
    """O_TMPFILE before a death, linkat(2) after it; and what may not be linked stays so."""
    point = mount.point
    unnamed = [os.open(point, os.O_TMPFILE | flag | os.O_RDWR, 0o640) for flag in (0, 0, os.O_EXCL)]
    for descriptor in unnamed:
        os.write(descriptor, b"before")
    for number in range(2):
        kill(mount)
        os.write(unnamed[number], b", after")
        assert os.fstat(unnamed[number]).st_nlink == 0
        os.link(f"/proc/self/fd/{unnamed[number]}", point / f"{number}", src_dir_fd=0, follow_symlinks=True)
        assert os.fstat(unnamed[number]).st_nlink == 1
        assert (point / f"{number}").read_bytes() == b"before, after"
    with pytest.raises(FileNotFoundError):
        os.link(f"/proc/self/fd/{unnamed[2]}", point / "never", src_dir_fd=0, follow_symlinks=True)
    assert os.pread(unnamed[2], 99, 0) == b"before"
    for descriptor in unnamed:
        os.close(descriptor)
    assert sorted(os.listdir(point)) == ["0", "1"]
    mount.unmount()
    assert mount.check() == []


def test_control_files_remember(mount: MountedStore) -> None:
    control = mount.point / ".helios"
    (mount.point / "f").write_bytes(b"1")
    with open(control / "ctl", "r+b", buffering=0) as ctl:
        ctl.write(b"checkpoint one")
        kill(mount)
        assert json.loads(ctl.read())["name"] == "one"
        (control / "snapshots/one/f").read_bytes()
        kill(mount)
        ctl.write(b"branch exp")
        reply = json.loads(os.pread(ctl.fileno(), 9999, 0))
        assert (reply["verb"], reply["name"]) == ("branch", "exp")
    assert json.loads((control / "ctl").read_bytes())["name"] == "exp"
    assert "one" in os.listdir(control / "snapshots")
    assert (control / "snapshots/one/f").read_bytes() == b"1"
    assert (control / "branches/exp/f").read_bytes() == b"1"


def test_a_restore_is_seen_by_everybody_after_a_death(mount: MountedStore) -> None:
    control = mount.point / ".helios"
    (mount.point / "f").write_bytes(b"one")
    (control / "checkpoint").write_bytes(b"one")
    (mount.point / "f").write_bytes(b"three")
    kill(mount)
    assert (mount.point / "f").read_bytes() == b"three"
    (control / "restore").write_bytes(b"one")
    assert shell("cat f; ls", mount.point) == "onef\n"


def test_who_goes_on_has_followed(mount: MountedStore) -> None:
    """Nearly all was replayed before the death, twins and versions included; and nothing is missing."""
    point = mount.point
    written = 0
    for _ in range(3):

        def followed() -> bool:
            nonlocal written
            for number in range(written, written + 50):
                (point / f"f{number}").write_bytes(b"%d" % number)
            written += 50
            (point / ".helios/checkpoint").write_bytes(b"at %d" % written)
            kill(mount)
            recovery = mount.status()["recovery"]
            return recovery["records"] > 0 and recovery["followed"] >= recovery["records"] - 100

        wait_until(followed, "somebody has followed")
    names = {name for name in os.listdir(point) if name.startswith("f")}
    assert names == {f"f{number}" for number in range(written)}
    assert all((point / name).read_bytes() == name[1:].encode() for name in names)
    assert f"at {written}" in os.listdir(point / ".helios/snapshots")
    mount.unmount()
    assert mount.check() == []


def test_nobody_has_to_follow(mounts: Mounts) -> None:
    with mounts.mounted("kernel", "follow=no") as mount:
        (mount.point / "f").write_bytes(b"1")
        kill(mount)
        assert (mount.point / "f").read_bytes() == b"1"
        recovery = mount.status()["recovery"]
        assert (recovery["followed"], recovery["records"] > 0) == (0, True)


def test_a_worker_that_hangs_is_replaced(mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSFS_PATIENCE_S", "3")
    with mounts.mounted("kernel") as mount:
        (mount.point / "f").write_bytes(b"content")
        hung = mount.worker()
        os.kill(hung, signal.SIGSTOP)
        os.statvfs(mount.point)
        assert mount.worker() != hung
        assert mount.status()["restarts"] == 1
        wait_until(lambda: not Path(f"/proc/{hung}").exists(), "it is reaped")


def test_a_worker_that_closes_for_long_does_not_hang(mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last cut waits for processes that get no turn: those of a busy host, here stopped."""
    # Of three beats: with one it would be killed whenever the machine is busy.
    patience_s = 3.0
    monkeypatch.setenv("HELIOSFS_PATIENCE_S", str(patience_s))
    with mounts.mounted("kernel") as mount:
        (mount.point / "f").write_bytes(bytes(range(256)) * 400)
        cutting = storage_processes(mount.worker())
        assert cutting
        for pid in cutting:
            os.kill(pid, signal.SIGSTOP)
        run("umount", mount.point)
        until = time.monotonic() + 1.5 * patience_s
        wait_until(lambda: time.monotonic() > until, "more than the supervisor's patience is over")
        for pid in cutting:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not guard.servers(os.fspath(mount.point)), "the daemon's end")
        assert "unmounted" in mount.said() and "killed" not in mount.said()
        assert mount.check() == []


def test_upgrade(mount: MountedStore) -> None:
    with open(mount.point / "f", "w+b", buffering=0) as file:
        file.write(b"before")
        before = mount.worker()
        reply = json.loads(heliosfs("upgrade", mount.point, "--json").stdout)
        assert reply["before"] == before
        assert reply["worker_pid"] == mount.worker() != before
        file.write(b", after")
        assert os.pread(file.fileno(), 99, 0) == b"before, after"
        assert mount.status()["restarts"] == 0


def test_a_new_version_needs_no_cut(mount: MountedStore) -> None:
    """The former one would make one first, and can't write any more."""
    (mount.point / "f").write_bytes(b"content")
    _, most = resource.prlimit(mount.worker(), resource.RLIMIT_FSIZE)
    resource.prlimit(mount.worker(), resource.RLIMIT_FSIZE, (1, most))
    reply = json.loads(heliosfs("upgrade", mount.point, "--json").stdout)
    assert reply["worker_pid"] != reply["before"]
    assert mount.status()["restarts"] == 0
    assert (mount.point / "f").read_bytes() == b"content"
    (mount.point / "f").write_bytes(b"more")


def test_upgrades_under_load(mount: MountedStore) -> None:
    """Clients whose every operation is compared; each new process goes on in the middle of it."""
    stop = mount.base / "stop"
    clients = run_clients(mount, stop, 5)
    try:
        for _ in range(2):
            reply = json.loads(heliosfs("upgrade", mount.point, "--json").stdout)
            assert reply["worker_pid"] != reply["before"]
    finally:
        stop.touch()
        reports = [json.loads(process.communicate(timeout=60)[0]) for process in clients]
    assert [report["errors"] for report in reports] == [[]] * len(clients)
    assert sum(report["operations"] for report in reports) > 0
    assert mount.status()["restarts"] == 0
    mount.unmount()
    assert mount.check() == []


def test_crash_upon_crash_leaves_what_can_be_read(mount: MountedStore) -> None:
    point = mount.point
    (point / "f").write_bytes(b"kept")
    for number in range(READ_ONLY):
        assert mount.status()["restarts"] == number
        os.kill(mount.worker(), signal.SIGABRT)
    status = mount.status()
    assert (status["state"], status["mending"]) == ("read-only", False)
    assert "died again and again" in status["error"]
    with pytest.raises(OSError) as raised:
        (point / "g").touch()
    assert raised.value.errno == errno.EROFS
    assert (point / "f").read_bytes() == b"kept"
    assert "not stored yet" in mount.unmount(15)
    mount.mount()
    assert os.listdir(point) == ["f"]
    (point / "f").write_bytes(b"kept, and changed")


def test_who_has_given_up_says_so_everywhere(mount: MountedStore) -> None:
    """Errors, at once, and words that say what is wrong; nothing is lost, nor said to be stored."""
    point = mount.point
    mount.unmount()
    words = [sys.executable, "-c", HASTY, mount.store, point, "-o", "transport=kernel"]
    with subprocess.Popen(words, cwd=REPOSITORY, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as daemon:
        try:
            wait_until((point / ".helios/status").exists, "the mount")
            for number in range(2):
                (point / f"f{number}").write_bytes(b"kept")
                os.kill(mount.worker(), signal.SIGABRT)
            with pytest.raises(OSError) as raised:
                os.listdir(point)
            assert raised.value.errno == errno.EIO
            for done in (
                heliosfs("status", "-C", point, check=False),
                heliosfs("checkpoint", "-C", point, check=False),
                heliosfs("mount", mount.store, point, check=False),
            ):
                assert done.returncode == 1 and "mount it" in done.stderr
            told = mount.unmount(15)
            assert "not stored yet" in told and "nothing acknowledged is lost" in told and told.count("\n") == 1
            assert not mount.mounted()
            assert daemon.wait(20) == 1
        finally:
            daemon.kill()
    mount.mount()
    assert sorted(os.listdir(point)) == ["f0", "f1"]
    assert (point / "f1").read_bytes() == b"kept"
    mount.unmount()
    assert mount.check() == []


def test_every_mountpoint_of_a_daemon_goes_on(mount: MountedStore) -> None:
    (mount.point / ".helios/branches/exp").mkdir()
    other = mount.base / "other"
    other.mkdir()
    heliosfs("mount", mount.store, other, "-o", "branch=main/exp,transport=kernel")
    try:
        (other / "there").write_bytes(b"1")
        kill(mount)
        (other / "there").write_bytes(b"22")
        assert (mount.point / ".helios/branches/exp/there").read_bytes() == b"22"
        (mount.point / "here").write_bytes(b"3")
        assert sorted(os.listdir(other)) == ["there"]
    finally:
        heliosfs("umount", other)
    assert (mount.point / "here").read_bytes() == b"3"


def test_a_mountpoint_made_after_a_death_gets_its_policy(mount: MountedStore) -> None:
    """And one that goes on keeps what was set since, whatever it was mounted with."""
    (mount.point / ".helios/branches/exp").mkdir()
    other = mount.base / "other"
    other.mkdir()
    kill(mount)
    options = "branch=main/exp,transport=kernel,retention=last:3"
    heliosfs("mount", mount.store, other, "-o", options)
    try:
        assert "keep last 3" in heliosfs("-C", other, "retention").stdout
        heliosfs("-C", other, "retention", "--keep-last", "5")
        kill(mount)
        assert "keep last 5" in heliosfs("-C", other, "retention").stdout
    finally:
        heliosfs("umount", other)


def test_programs_finish_while_workers_die(mount: MountedStore) -> None:
    """A compile, git and SQLite, each with checks of its own, through several deaths."""
    report = run_programs(mount, 2.0, every_s=0.4)
    assert report["errors"] == []
    assert report["kills"] == report["restarts"] > 1
    mount.unmount()
    assert mount.check() == []


@pytest.mark.parametrize("transport", ["kernel", "pyfuse3"])
def test_a_service_manager_is_told(mounts: Mounts, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{directory}/notify")
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{directory}/notify")
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        with mounts.mounted(transport) as mount:
            said = manager.recv(4096).decode().splitlines()
            assert said[:2] == ["READY=1", f"MAINPID={mount.daemon()}"]
            assert manager.recv(4096) == b"WATCHDOG=1"


def test_without_a_supervisor_a_death_is_the_end(mounts: Mounts) -> None:
    with mounts.mounted("kernel", "supervised=no") as mount:
        pid = kill(mount)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its end")
        with pytest.raises(OSError, match="not connected"):
            os.statvfs(mount.point)
        run("umount", mount.point)
