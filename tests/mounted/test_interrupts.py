"""Signals for somebody whose request waits: who is killed is gone at once, whoever lives gets his answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore, Mounts, run, wait_until

pytestmark = pytest.mark.mounted

WAITS = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.stdout.write(os.getxattr(sys.argv[1], "user.helios.root").decode())
"""
GO_ON_S = 20


@pytest.fixture
def mount(mounts: Mounts) -> Iterator[MountedStore]:
    with mounts.mounted("kernel") as made:
        yield made


class Storing:
    """The processes of a store that store what was written."""

    def __init__(self, mount: MountedStore) -> None:
        assert os.getxattr(mount.point, "user.helios.root")
        self._children = [int(line) for line in run("pgrep", "-P", str(mount.worker())).stdout.split()]
        assert self._children

    def stop(self) -> None:
        """Who asks for a root waits from now on."""
        for child in self._children:
            os.kill(child, signal.SIGSTOP)

    def go_on(self) -> None:
        for child in self._children:
            os.kill(child, signal.SIGCONT)


@pytest.fixture
def storing(mount: MountedStore) -> Iterator[Storing]:
    found = Storing(mount)
    yield found
    found.go_on()


@pytest.fixture
def waiting(mount: MountedStore, storing: Storing) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a process that asks for the root and waits for it."""
    started = []
    storing.stop()
    (mount.point / "f").write_bytes(os.urandom(100_000))

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", WAITS, mount.point], stdout=subprocess.PIPE)
        started.append(process)
        wait_until(lambda: where(process) == "request_wait_answer", "it waits")
        return process

    yield start
    storing.go_on()
    for process in started:
        process.kill()
        process.communicate(timeout=GO_ON_S)


def where(process: subprocess.Popen[bytes]) -> str:
    """In which function of the kernel it sleeps."""
    return Path(f"/proc/{process.pid}/wchan").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_who_is_killed_is_gone_at_once(
    mount: MountedStore, waiting: Callable[[], subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    process = waiting()
    process.send_signal(number)
    assert process.wait(GO_ON_S) == -number
    assert (mount.point / "f").stat().st_size == 100_000


def test_a_signal_that_is_handled_breaks_nothing_off(
    storing: Storing, waiting: Callable[[], subprocess.Popen[bytes]]
) -> None:
    """Not even a later one that kills is missed, of which the kernel does not tell."""
    killed, patient = waiting(), waiting()
    for process in (killed, patient):
        process.send_signal(signal.SIGUSR1)
    killed.kill()
    assert killed.wait(GO_ON_S) == -signal.SIGKILL
    assert where(patient) == "request_wait_answer"
    storing.go_on()
    assert patient.communicate(timeout=GO_ON_S)[0].startswith(b"blake3:")
    assert patient.returncode == 0
