"""The supervisor with workers that misbehave: who serves next, with what, and when it gives up."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heliosfs.daemon.holdings import CONNECTIONS
from heliosfs.daemon.supervisor import HOPELESS, Supervisor
from tests.support.mounts import REPOSITORY, leaked, run, wait_until

RUNNER = """
import os, sys
from heliosfs.daemon import holdings, supervisor
from heliosfs.daemon.herald import Herald
holdings.CONNECTIONS = os.environ.get("FUSECTL", holdings.CONNECTIONS)
directory, ready, patience = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
command = (sys.executable, "-m", "tests.support.fake_worker", directory)
boss = supervisor.Supervisor(directory, directory + "/mnt", "{}", Herald(ready), True, patience, command, (0.0,))
sys.exit(boss.run())
"""


RESEND = struct.pack("<IiQ", 16, 7, 0)
LOOKUP = struct.pack("<IIQ24x", 40, 1, 2)
REFUSED = struct.pack("<IiQ", 16, -errno.EIO, 2)


class Boss:
    """A supervisor under test."""

    def __init__(
        self, directory: Path, acts: list[str], patience_s: float = 30.0, blind: str | None = None, **env: str
    ) -> None:
        self.directory = directory
        if blind is not None:
            (directory / "blind").touch()
        (directory / "acts").write_text("".join(act + "\n" for act in acts))
        self.ready, theirs = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, str(directory), str(theirs), str(patience_s)],
            cwd=REPOSITORY,
            pass_fds=(theirs,),
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, **env},
        )
        os.close(theirs)

    def orders(self) -> list[dict[str, Any]]:
        try:
            lines = (self.directory / "orders").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        # A long one is written in pieces.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def order(self, number: int) -> dict[str, Any]:
        """The order that the worker with this number got, once it has."""
        wait_until(lambda: len(self.orders()) > number, f"worker {number} serves")
        return self.orders()[number]

    def followers(self) -> list[int]:
        """Process ids of all that have ever followed."""
        try:
            return [int(line) for line in (self.directory / "followers").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def wait_followed(self) -> None:
        """Until somebody follows whom nobody has told to serve."""
        served = {order["pid"] for order in self.orders()}
        wait_until(lambda: set(self.followers()) - served, "somebody follows")

    def word(self) -> dict[str, Any]:
        """What it says to whoever waits for the mount."""
        said = os.read(self.ready, 4096)
        return dict(json.loads(said)) if said else {}

    def end(self) -> int:
        return self.process.wait(20)

    def close(self) -> None:
        os.close(self.ready)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[Callable[..., Boss]]:
    made: list[Boss] = []

    def make(
        acts: list[str],
        patience_s: float = 30.0,
        blind: str | None = None,
        directory: Path = tmp_path,
        **env: str,
    ) -> Boss:
        made.append(Boss(directory, acts, patience_s, blind, **env))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("options", "follow"), [("{}", True), ('{"follow": null}', True), ('{"follow": false}', False)]
)
def test_somebody_follows_unless_told_not_to(options: str, follow: bool) -> None:
    assert Supervisor("store", "mountpoint", options).follow is follow


def test_a_mount_that_ends_in_good_order(boss: Callable[..., Boss]) -> None:
    one = boss(["end"])
    assert one.word() == {"ok": True}
    assert one.end() == 0
    assert one.order(0)["kept"] == []


def test_sigterm_is_the_workers_affair(boss: Callable[..., Boss]) -> None:
    one = boss(["serve"])
    assert one.word() == {"ok": True}
    one.process.send_signal(signal.SIGTERM)
    assert one.end() == 0


def open_gate(path: Path) -> None:
    """Let the process pass that waits there, or will."""
    with open(path, "wb"):
        pass


def test_sigterm_before_anything_could_be_mounted(boss: Callable[..., Boss], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate-standby")
    one = boss(["serve"])
    wait_until((tmp_path / "standbys").exists, "one comes up")
    one.process.send_signal(signal.SIGTERM)
    assert one.word() == {"ok": False, "exit": 1, "error": "ended by SIGTERM before the mount was live"}
    assert one.end() == 0
    assert one.orders() == []


def test_sigterm_reaches_a_worker_that_is_being_born(boss: Callable[..., Boss], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    one = boss(["late"])
    wait_until(lambda: (tmp_path / "acts").read_text() == "", "one is forked")
    one.process.send_signal(signal.SIGINT)
    open_gate(tmp_path / "gate")
    assert one.end() == 0


def test_sigterm_in_a_takeover_ends_the_mount_in_good_order(boss: Callable[..., Boss], tmp_path: Path) -> None:
    """Whoever goes on has to unmount; without that a dead mount would be left."""
    os.mkfifo(tmp_path / "gate")
    one = boss(["serve", "late"], blind="")
    first = one.order(0)
    wait_until(lambda: not (tmp_path / "blind").exists(), "one has tried to follow")
    os.kill(first["pid"], signal.SIGKILL)
    wait_until(lambda: (tmp_path / "acts").read_text() == "", "one is forked")
    one.process.send_signal(signal.SIGTERM)
    open_gate(tmp_path / "gate")
    assert one.end() == 0
    assert one.order(1)["kept"] == [["mount x", {"connection": 5}]]
    assert len(one.orders()) == 2


def test_a_worker_that_dies_of_sigterm_leaves_it_to_the_next_one(boss: Callable[..., Boss]) -> None:
    one = boss(["deaf", "serve"])
    first = one.order(0)
    one.wait_followed()
    one.process.send_signal(signal.SIGTERM)
    wait_until(lambda: (one.directory / "told").exists(), "it was told")
    os.kill(first["pid"], signal.SIGKILL)
    assert one.end() == 0
    assert one.order(1)["restarts"] == 1


def test_more_is_kept_than_one_message_takes(boss: Callable[..., Boss]) -> None:
    one = boss(["hoard 300", "serve"])
    first = one.order(0)
    one.wait_followed()
    os.kill(first["pid"], signal.SIGKILL)
    second = one.order(1)
    assert len(second["kept"]) == len(second["held"]) == 301
    one.process.send_signal(signal.SIGTERM)
    assert one.end() == 0


def test_what_was_kept_goes_to_the_next_worker(boss: Callable[..., Boss]) -> None:
    one = boss(["kill", "serve", "die 3", "serve"])
    first, second = one.order(0), one.order(1)
    assert first["kept"] == [] and first["restarts"] == 0
    assert second["kept"] == [["mount x", {"connection": 5}]]
    assert second["held"] == ["what the kernel knows"]
    assert second["restarts"] == 1
    assert not second["refuse_resent"] and not second["read_only"]
    os.kill(second["pid"], signal.SIGKILL)
    assert one.order(2)["restarts"] == 2
    assert one.order(3)["restarts"] == 3
    one.process.send_signal(signal.SIGTERM)
    assert one.end() == 0


def test_many_kills_are_no_reason_to_give_up(boss: Callable[..., Boss]) -> None:
    one = boss(["kill"] * 12)
    last = one.order(12)
    assert last["restarts"] == 12
    assert not last["refuse_resent"] and not last["read_only"]


def check_dead(pid: int) -> None:
    """It is dead now; once the next one has its order there is time to reap it."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it is reaped")


def test_a_worker_that_says_nothing_is_killed(boss: Callable[..., Boss]) -> None:
    one = boss(["silent", "serve"], 0.5)
    silent = one.order(0)["pid"]
    assert one.order(1)["restarts"] == 1
    check_dead(silent)


def test_one_that_is_to_go_on_and_does_nothing_is_killed(boss: Callable[..., Boss]) -> None:
    """It has followed, and was stopped before it got its order."""
    one = boss(["serve"], 0.5)
    first = one.order(0)["pid"]
    one.wait_followed()
    (stopped,) = one.followers()
    os.kill(stopped, signal.SIGSTOP)
    os.kill(first, signal.SIGKILL)
    assert not one.order(1)["followed"]
    check_dead(stopped)


def test_who_is_to_make_a_worker_and_does_nothing_is_killed(boss: Callable[..., Boss]) -> None:
    one = boss(["serve"], 0.5, blind="")
    first = one.order(0)["pid"]
    wait_until(lambda: not (one.directory / "blind").exists(), "one has tried to follow")
    stopped = int((one.directory / "standbys").read_text())
    os.kill(stopped, signal.SIGSTOP)
    os.kill(first, signal.SIGKILL)
    assert one.order(1)["restarts"] == 2
    check_dead(stopped)


@pytest.mark.skipif(os.geteuid() != 0, reason="who may not see what it waits for kills it")
def test_a_worker_that_waits_for_a_disk_is_let_be(boss: Callable[..., Boss], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    one = boss(["disk", "serve"], 0.3)
    worker = one.order(0)["pid"]
    wait_until(lambda: state_of(worker) == "D", "it waits in the kernel")
    time.sleep(1.5)
    assert state_of(worker) == "D"
    os.close(os.open(tmp_path / "gate", os.O_WRONLY))  # The disk has answered.
    wait_until(lambda: state_of(worker) != "D", "it goes on")
    time.sleep(0.6)
    assert state_of(worker) in ("S", "R")
    assert len((one.directory / "orders").read_text().splitlines()) == 1


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.mounted
@pytest.mark.parametrize("fusectl", [CONNECTIONS, "/absent"])
def test_a_worker_that_no_signal_ends_is_freed(boss: Callable[..., Boss], scratch: Path, fusectl: str) -> None:
    """It hangs in the kernel, in a notification; whoever waits for it gets an error, and the next one serves."""
    point = scratch / "stuck"
    point.mkdir()
    one = boss(["stuck", "serve"], 0.5, directory=scratch, FUSECTL=fusectl)
    stuck = one.order(0)["pid"]
    wait_until(lambda: leaked(scratch), "it has mounted")
    try:
        with pytest.raises(OSError) as raised:
            (point / "d").mkdir()
        assert raised.value.errno in (errno.ECONNABORTED, errno.ENOTCONN)
        assert one.order(1)["restarts"] == 1
        wait_until(lambda: not Path(f"/proc/{stuck}").exists(), "it is reaped")
    finally:
        run("umount", "-l", point)


def test_the_first_worker_may_refuse(boss: Callable[..., Boss]) -> None:
    one = boss(["refuse 12"])
    assert one.word() == {"ok": False, "exit": 12, "error": "no"}
    assert one.end() == 12


def test_a_first_worker_that_dies_says_nothing(boss: Callable[..., Boss]) -> None:
    one = boss(["unborn"])
    assert one.word() == {}
    assert one.end() == 1


def test_a_program_that_does_not_start_says_nothing(boss: Callable[..., Boss], tmp_path: Path) -> None:
    (tmp_path / "stillborn").touch()
    one = boss([])
    assert one.word() == {}
    assert one.end() == 1


def test_a_worker_lost_at_birth_is_replaced(boss: Callable[..., Boss]) -> None:
    one = boss(["kill", "unborn", "serve"])
    assert one.order(1)["restarts"] == 2


def test_death_upon_death_ends_in_errors_that_are_readable(boss: Callable[..., Boss]) -> None:
    one = boss(["poison"] * 20)
    orders = [one.order(number) for number in range(9)]
    assert [order["refuse_resent"] for order in orders] == [False] * 3 + [True] * 6
    assert [order["read_only"] for order in orders] == [False] * 6 + [True] * 3
    # The kept descriptor is a memfd, not a kernel's: the answering of requests ends at once.
    assert one.end() == 1
    assert len(one.orders()) == 9


def test_who_has_given_up_is_alone(boss: Callable[..., Boss], tmp_path: Path) -> None:
    """It answers, and nothing else of the daemon is left: no process of it has anything to do with the store, and
    whoever calls, or has called while it looked for another worker, hears at once that nobody is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(os.fspath(tmp_path / "kernel"))
        listener.listen()
        # Killed before they have caught up: that counts, and who follows is trusted, and there to the end.
        os.mkfifo(tmp_path / "gate")
        one = boss([*["hopeless"] * (HOPELESS - 1), "late hopeless"])
        kernel, _ = listener.accept()
        one.order(HOPELESS - 2)
        client.settimeout(20)
        client.connect(os.fspath(tmp_path / "socket"))
        open_gate(tmp_path / "gate")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    with kernel, socket.socket(socket.AF_UNIX) as client:
        kernel.settimeout(20)
        with pytest.raises(ConnectionRefusedError):
            client.connect(os.fspath(tmp_path / "socket"))
        assert kernel.recv(100) == RESEND
        pid = one.process.pid
        wait_until(lambda: not Path(f"/proc/{pid}/task/{pid}/children").read_text(), "nobody is left")
        kernel.send(LOOKUP)
        assert kernel.recv(100) == REFUSED
    assert one.end() == 1


def test_a_new_version_takes_over_when_it_is_ready(boss: Callable[..., Boss]) -> None:
    one = boss(["serve", "serve"])
    first = one.order(0)
    (one.directory / "replace").touch()
    second = one.order(1)
    assert second["kept"] == [["mount x", {"connection": 5}]]
    assert second["restarts"] == 0
    check_dead(first["pid"])
    old, new = (one.directory / "standbys").read_text().split()
    wait_until(lambda: not Path(f"/proc/{old}").exists(), "the old program's end")
    assert Path(f"/proc/{new}").exists()


def test_a_new_version_takes_over_though_who_was_to_hand_over_dies(boss: Callable[..., Boss]) -> None:
    one = boss(["serve"])
    first = one.order(0)["pid"]
    one.wait_followed()
    os.mkfifo(one.directory / "gate-standby")
    (one.directory / "replace").touch()
    wait_until(lambda: len((one.directory / "standbys").read_text().split()) == 2, "the new program's start")
    wait_until(lambda: not (one.directory / "replace").exists(), "it was asked for")
    os.kill(first, signal.SIGSTOP)
    os.close(os.open(one.directory / "gate-standby", os.O_WRONLY))
    time.sleep(0.5)  # It is up, and the worker told to hand over.
    os.kill(first, signal.SIGKILL)
    assert one.order(1)["followed"]
    assert not one.order(2)["followed"]
    old = (one.directory / "standbys").read_text().split()[0]
    wait_until(lambda: not Path(f"/proc/{old}").exists(), "the old program's end")


def test_a_new_version_that_does_not_start_changes_nothing(boss: Callable[..., Boss]) -> None:
    one = boss(["serve", "serve"])
    first = one.order(0)
    (one.directory / "stillborn").touch()
    (one.directory / "replace").touch()
    wait_until(lambda: not (one.directory / "stillborn").exists(), "the new program's attempt")
    assert len(one.orders()) == 1
    os.kill(first["pid"], signal.SIGKILL)
    assert one.order(1)["restarts"] == 1


def test_systemd_is_told(boss: Callable[..., Boss], tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        one = boss(["serve"], NOTIFY_SOCKET=address, WATCHDOG_USEC="200000")
        said = manager.recv(4096).decode()
        assert said.startswith(f"READY=1\nMAINPID={one.process.pid}\n")
        assert manager.recv(4096) == b"WATCHDOG=1"
        assert manager.recv(4096) == b"WATCHDOG=1"


def test_who_has_followed_goes_on(boss: Callable[..., Boss]) -> None:
    one = boss(["serve"])
    for number in range(1, 4):
        first = one.order(number - 1)
        one.wait_followed()
        os.kill(first["pid"], signal.SIGKILL)
        assert one.order(number)["followed"]
        assert one.order(number)["held"] == ["what the kernel knows"]
    # The first one began; the others are twins, one of the other.
    wait_until(lambda: len(one.followers()) == 4, "twins follow")


def test_after_a_cut_others_follow(boss: Callable[..., Boss]) -> None:
    one = boss(["serve"])
    worker = one.order(0)
    one.wait_followed()
    (former,) = one.followers()
    (one.directory / "stored").touch()
    wait_until(lambda: len(one.followers()) == 2, "another one follows")
    wait_until(lambda: not Path(f"/proc/{former}").exists(), "the former one is gone")
    os.kill(worker["pid"], signal.SIGKILL)
    assert one.order(1)["pid"] == one.followers()[1]


def test_who_has_followed_a_crash_is_not_trusted(boss: Callable[..., Boss]) -> None:
    one = boss(["die 3", "serve"])
    assert not one.order(1)["followed"]
    assert one.order(1)["restarts"] == 1


def test_where_nobody_can_follow_a_new_process_serves(boss: Callable[..., Boss]) -> None:
    one = boss(["serve"], blind="")
    worker = one.order(0)
    wait_until(lambda: not (one.directory / "blind").exists(), "one has tried")
    os.kill(worker["pid"], signal.SIGKILL)
    assert not one.order(1)["followed"]


def test_it_imports_almost_nothing() -> None:
    script = (
        "import sys; import heliosfs.daemon.supervisor;"
        "print([m for m in sys.modules if m.split('.')[0] not in sys.stdlib_module_names])"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=True
    )
    ours = set(eval(found.stdout))
    assert ours - {"__main__"} <= {
        "heliosfs",
        "heliosfs.daemon",
        "heliosfs.daemon.priority",
        "heliosfs.daemon.followers",
        "heliosfs.daemon.herald",
        "heliosfs.daemon.holdings",
        "heliosfs.daemon.silence",
        "heliosfs.daemon.staff",
        "heliosfs.daemon.standbys",
        "heliosfs.daemon.words",
        "heliosfs.daemon.refusing",
        "heliosfs.daemon.sdnotify",
        "heliosfs.daemon.supervisor",
    }
