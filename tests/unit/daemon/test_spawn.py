"""Starting the daemon's process: exit codes of what can't be mounted, and a mount's whole life."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from heliosfs.daemon import mountpoint as mountpoints
from heliosfs.daemon import spawn
from heliosfs.daemon.address import socket_address
from heliosfs.daemon.errors import DaemonError
from heliosfs.daemon.options import MountOptions
from heliosfs.storage.layout import StoreLayout
from heliosfs.transport.mounts import mount_at
from tests.support.mounts import Guard, connection_of, wait_until

pytestmark = pytest.mark.mounted


@pytest.fixture
def store(scratch: Path) -> Path:
    StoreLayout.create(scratch / "store").close()
    return scratch / "store"


@pytest.fixture
def point(scratch: Path) -> Path:
    (scratch / "mnt").mkdir()
    return scratch / "mnt"


def ask(store: Path, *words: str) -> dict[str, object]:
    """One request over the store's socket."""
    with socket_address(store) as address, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(address)
        connection.sendall(json.dumps({"argv": words, "branch": "main", "cwd_path": None}).encode() + b"\n")
        with connection.makefile("rb") as replies:
            reply = json.loads(replies.readline())
    assert isinstance(reply, dict)
    return reply


def refused(store: Path, point: Path, options: MountOptions | None = None) -> DaemonError:
    with pytest.raises(DaemonError) as caught:
        spawn.start(store, point, options or MountOptions())
    assert mount_at(point) is None
    return caught.value


def test_no_store(scratch: Path, point: Path) -> None:
    assert refused(scratch / "absent", point).exit_code == 10
    assert refused(scratch, point).exit_code == 10


def test_a_locked_store(store: Path, point: Path) -> None:
    layout = StoreLayout.open(store)
    try:
        assert refused(store, point).exit_code == 11
    finally:
        layout.close()


def test_a_newer_store(store: Path, point: Path) -> None:
    text = (store / "format").read_text()
    (store / "format").write_text(text.replace("version 0", "version 99"))
    assert refused(store, point).exit_code == 13


def test_no_such_branch(store: Path, point: Path) -> None:
    refusal = refused(store, point, MountOptions(branch="main/absent"))
    assert refusal.exit_code == 1
    assert "main/absent" in refusal.message


def test_an_unknown_flag(store: Path, point: Path) -> None:
    assert "frobnicate" in refused(store, point, MountOptions(flags=("frobnicate",))).message


def test_a_mountpoint_that_is_none(store: Path, scratch: Path) -> None:
    assert "No such file" in refused(store, scratch / "absent").message


def test_a_daemon_that_dies_leaves_its_last_words(
    store: Path, point: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "died (status 1)" in refused(store, point).message


def test_a_mounts_life(store: Path, point: Path, guard: Guard) -> None:
    assert spawn.start(store, point, MountOptions()) == point
    guard.say(f"hold {point} {connection_of(point)}")
    try:
        (point / "f").write_text("kept")
        assert refused_while_mounted(store, point.parent / "other").exit_code == 11
        reply = ask(store, "ping")
        assert (reply["ok"], reply["mountpoint"]) == (True, str(point))
        pid = reply["pid"]
        assert isinstance(pid, int)
        assert os.path.samefile(f"/proc/{pid}/cwd", "/")
        inherited = {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)}
        assert inherited == {"/dev/null", str(store / "daemon.log")}
        named = ask(store, "checkpoint", "v1")
        assert (named["ok"], named["name"]) == (True, "v1")
        assert ask(store, "checkpoint", "v1")["errno"] == "EEXIST"
        assert ask(store, "frobnicate")["errno"] == "EINVAL"
        assert ask(store, "status")["mountpoint"] == str(point)
        with pytest.raises(DaemonError, match="in use by"), open(point / "f"):
            mountpoints.unmount(point)
        mountpoints.unmount(point)
        wait_gone(pid)
    finally:
        close(point, guard)
    assert not (store / "socket").exists()
    spawn.start(store, point, MountOptions(flags=("ro",)))
    guard.say(f"hold {point} {connection_of(point)}")
    try:
        assert (point / "f").read_text() == "kept"
        with pytest.raises(OSError):
            (point / "f").write_text("x")
    finally:
        close(point, guard)


def refused_while_mounted(store: Path, other: Path) -> DaemonError:
    other.mkdir()
    return refused(store, other)


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def wait_gone(pid: object) -> None:
    """Until a daemon and all that belongs to it have ended: then nobody touches the store any more."""
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or is_zombie(int(str(pid))), "the supervisor's end")


def close(point: Path, guard: Guard) -> None:
    if mount_at(point) is not None:
        mountpoints.unmount(point)
    guard.say(f"drop {point}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(store: Path, point: Path, guard: Guard, number: int) -> None:
    spawn.start(store, point, MountOptions())
    guard.say(f"hold {point} {connection_of(point)}")
    try:
        pid = ask(store, "ping")["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGHUP)
        assert ask(store, "ping")["ok"]
        os.kill(pid, number)
        wait_until(lambda: mount_at(point) is None, "unmounted")
        wait_gone(pid)
        assert not (store / "socket").exists()
    finally:
        close(point, guard)


def test_the_socket_can_unmount(store: Path, point: Path, guard: Guard) -> None:
    spawn.start(store, point, MountOptions())
    guard.say(f"hold {point} {connection_of(point)}")
    try:
        told = ask(store, "unmount")
        assert told["ok"]
        wait_until(lambda: mount_at(point) is None, "unmounted")
        wait_gone(told["pid"])
    finally:
        close(point, guard)


def test_a_killed_daemons_mount_is_recovered(store: Path, point: Path, guard: Guard) -> None:
    spawn.start(store, point, MountOptions(supervised=False))
    guard.say(f"hold {point} {connection_of(point)}")
    try:
        (point / "f").write_text("kept")
        pid = ask(store, "ping")["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: mountpoints.is_stale(point), "a dead mount")
        spawn.start(store, point, MountOptions(supervised=False))
        guard.say(f"hold {point} {connection_of(point)}")
        assert (point / "f").read_text() == "kept"
        mountpoints.unmount(point)
        assert mount_at(point) is None
    finally:
        close(point, guard)


def test_spawn_needs_neither_trio_nor_pyfuse3() -> None:
    program = "import sys, heliosfs.daemon.spawn; print({'trio', 'pyfuse3', 'rocksdict'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"set()\n", done.stdout
