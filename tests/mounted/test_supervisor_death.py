"""The process that supervises a mount's dies, alone or with others, and nobody who uses the mount notices."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore, Mounts, alive_in_group, heliosfs, run, wait_until

pytestmark = pytest.mark.mounted

UCRED = struct.Struct("3i")


@pytest.fixture
def mount(mounts: Mounts) -> Iterator[MountedStore]:
    with mounts.mounted("kernel") as made:
        yield made


def told(mount: MountedStore) -> dict[str, object]:
    """What the daemon says of itself over its socket."""
    return dict(json.loads(heliosfs("status", "--store", mount.store, "--json").stdout))


def replaced(mount: MountedStore) -> int:
    """SIGKILL of the supervisor; the process id of the next one, once it is there."""
    former = mount.daemon()
    os.kill(former, signal.SIGKILL)
    wait_until(lambda: told(mount)["pid"] != former, "a new one")
    now = told(mount)
    assert now["supervised"]
    return int(str(now["pid"]))


def test_a_worker_whose_supervisor_dies_gets_another_one(mount: MountedStore) -> None:
    """Open files, control files and the socket are kept by the new one, too."""
    point = mount.point
    with open(point / "f", "w+b", buffering=0) as file, open(point / "gone", "w+b", buffering=0) as gone:
        (point / "gone").unlink()
        file.write(b"before")
        for number in range(2):
            worker = mount.worker()
            replaced(mount)
            assert mount.worker() == worker
            file.write(b".")
            os.kill(worker, signal.SIGKILL)
            gone.write(b"no name")
            assert os.pread(file.fileno(), 99, 0) == b"before" + b"." * (number + 1)
            assert mount.worker() != worker
            assert mount.status()["restarts"] == number + 1
            assert told(mount)["supervised"]
        assert os.pread(gone.fileno(), 99, 0) == b"no nameno name"
    mount.unmount()
    assert mount.check() == []


def test_nothing_of_a_dead_supervisor_stays(mount: MountedStore) -> None:
    """Who forked workers for it and who followed end by themselves; the worker's end is the last of them."""
    group = os.getpgid(mount.worker())
    replaced(mount)
    os.kill(mount.worker(), signal.SIGKILL)
    (mount.point / "f").write_bytes(b"1")
    wait_until(lambda: not alive_in_group(group), "the end of all that the dead one had started")
    assert (mount.point / "f").read_bytes() == b"1"


def test_the_new_one_is_told_to_end(mount: MountedStore) -> None:
    (mount.point / "f").write_bytes(b"1")
    supervisor, worker = replaced(mount), mount.worker()
    os.kill(supervisor, signal.SIGTERM)
    wait_until(lambda: not mount.mounted(), "it is unmounted")
    wait_until(lambda: not Path(f"/proc/{supervisor}").exists() and not Path(f"/proc/{worker}").exists(), "the end")
    assert "SIGTERM" in mount.said()
    assert mount.check() == []


def test_umount_waits_for_the_new_one_too(mount: MountedStore) -> None:
    group = os.getpgid(mount.worker())
    supervisor = replaced(mount)
    mount.unmount()
    assert not alive_in_group(group)
    assert not alive_in_group(supervisor)


def test_one_dies_while_the_worker_is_being_replaced(mount: MountedStore) -> None:
    """The new worker has all there is, and so has the supervisor that it starts."""
    with open(mount.point / "f", "w+b", buffering=0) as file:
        file.write(b"before")
        supervisor, worker = mount.daemon(), mount.worker()
        others = alive_in_group(supervisor) - {supervisor, worker}
        # Nobody can do what he is told; the supervisor tells it, and is dead when they can.
        for other in others:
            os.kill(other, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{worker}").exists(), "its end is seen")
        wait_until(lambda: idle(supervisor), "somebody is told to go on")
        os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda: supervisor not in alive_in_group(supervisor), "its end")
        for other in others:
            os.kill(other, signal.SIGCONT)
        file.write(b", after")
        assert os.pread(file.fileno(), 99, 0) == b"before, after"
        wait_until(lambda: told(mount)["pid"] != supervisor, "a new one")
        os.kill(mount.worker(), signal.SIGKILL)
        file.write(b", again")
        assert os.pread(file.fileno(), 99, 0) == b"before, after, again"
    mount.unmount()
    assert mount.check() == []


def test_systemd_hears_from_the_supervisor_alone(mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a worker's death, too; and after its own nothing more: systemd has then ended the unit."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{directory}/notify")
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        manager.settimeout(30)

        def heard() -> tuple[int, list[str]]:
            """Who says what."""
            said, ((_, _, who),), _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(UCRED.size))
            return UCRED.unpack(who)[0], said.decode().splitlines()

        monkeypatch.setenv("NOTIFY_SOCKET", f"{directory}/notify")
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        with mounts.mounted("kernel") as mount:
            supervisor, worker = mount.daemon(), mount.worker()
            main = f"MAINPID={supervisor}"
            assert heard() == (supervisor, ["READY=1", main, f"STATUS={mount.point}, worker {worker}"])
            assert heard() == (supervisor, ["WATCHDOG=1"])
            os.kill(worker, signal.SIGKILL)
            (mount.point / "f").write_bytes(b"1")
            next_one = ["READY=1", main, f"STATUS={mount.point}, worker {mount.worker()}"]
            said = [heard()]
            while said[-1][1] != next_one:
                said.append(heard())
            said.append(heard())
            assert {who for who, _ in said} == {supervisor}
            assert [words for _, words in said if words != ["WATCHDOG=1"]] == [next_one]
            assert said[-1][1] == ["WATCHDOG=1"]
            replaced(mount)
            manager.settimeout(0)
            with pytest.raises(BlockingIOError):
                while True:
                    assert heard() == (supervisor, ["WATCHDOG=1"])
            manager.settimeout(1.0)
            with pytest.raises(TimeoutError):
                heard()
            (mount.point / "f").write_bytes(b"2")


def idle(pid: int) -> bool:
    """Whether a process of one thread waits in poll(2)."""
    return Path(f"/proc/{pid}/wchan").read_text().startswith(("do_sys_poll", "poll_schedule", "do_poll"))


def test_both_at_once_are_the_end_and_nothing_is_lost(mount: MountedStore) -> None:
    (mount.point / "f").write_bytes(b"1")
    supervisor, worker = mount.daemon(), mount.worker()
    group = os.getpgid(worker)
    # So that neither sees the other's end.
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(worker, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not alive_in_group(group), "the end of all processes")
    with pytest.raises(OSError, match="not connected"):
        os.statvfs(mount.point)
    run("umount", mount.point)
    mount.mount()
    assert (mount.point / "f").read_bytes() == b"1"
