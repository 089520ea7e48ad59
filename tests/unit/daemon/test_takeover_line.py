"""A worker and supervisors that die: what the next one is told, and when there is none."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from heliosfs.daemon import takeover, words
from heliosfs.daemon.errors import DaemonError
from heliosfs.daemon.takeover import SUPERVISORS_MAX, Supervised


class Bosses:
    """Stands for supervisors: the first one's line, and those of all that were started."""

    def __init__(self) -> None:
        self.lines: list[socket.socket] = []
        self.restarts: list[int] = []
        self.refusing = False
        self.workers: list[Supervised] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, store: str, mountpoint: str, options: str, restarts: int, foreground: bool, line: int
    ) -> subprocess.Popen[bytes]:
        self.restarts.append(restarts)
        if self.refusing:
            raise OSError("no process")
        self.lines.append(socket.socket(fileno=os.dup(line)))
        self.processes.append(subprocess.Popen(["/bin/true"]))
        return self.processes[-1]

    def heard(self) -> list[tuple[str, str]]:
        """(what, name) of all that the last one was told; descriptors are closed."""
        found = []
        self.lines[-1].setblocking(False)
        while True:
            try:
                heard = words.hear(self.lines[-1])
            except BlockingIOError:
                return found
            if heard is None:
                return found
            found.append((heard[0]["say"], heard[0].get("name", "")))
            for fd in heard[1]:
                os.close(fd)

    def die(self) -> None:
        self.lines[-1].close()

    def close(self) -> None:
        """What a worker holds until its process ends, too."""
        for line in self.lines + [made._line for made in self.workers]:
            line.close()
        for made in self.workers:
            for found in [*made._entrusted.values(), *made._kept.values()]:
                os.close(found.fd)
        for process in self.processes:
            process.wait(20)


@pytest.fixture
def bosses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bosses]:
    made = Bosses()
    monkeypatch.setattr(takeover, "start_supervisor", made.start)
    yield made
    made.close()


def worker(bosses: Bosses, *, again: bool) -> Supervised:
    """One that has its order; a former worker has left a mount and the socket."""
    ours, theirs = words.pair()
    bosses.lines.append(ours)
    made = Supervised(theirs)
    bosses.workers.append(made)
    kept = [["mount /mnt", {"connection": 5}], ["socket", {}]] if again else []
    order: dict[str, Any] = {"do": "serve", "store": "/s", "mountpoint": "/mnt", "options": "{}", "again": again}
    with open("/dev/null", "rb") as null:
        words.say(ours, {**order, "kept": kept, "restarts": 3}, [null.fileno()] * len(kept))
    assert made.begin() is not None
    assert bosses.heard() == [("born", "")]
    return made


def keep(made: Supervised, name: str) -> bool:
    with open("/dev/null", "rb") as null:
        return made.keep(name, null.fileno(), {})


def serving(bosses: Bosses, made: Supervised) -> None:
    """It serves, and whoever waits for the mount knows that."""
    assert keep(made, "mount /mnt")
    made.ready()
    words.say(bosses.lines[-1], {"do": "known"})
    assert made._listen()
    bosses.heard()


def test_a_first_worker_does_not_outlive_who_started_it(bosses: Bosses) -> None:
    made = worker(bosses, again=False)
    bosses.die()
    assert not keep(made, "mount /mnt")
    with pytest.raises(DaemonError):
        made.ready()
    assert made.alone
    assert bosses.restarts == []


async def test_a_mount_that_nobody_was_told_of_ends(bosses: Bosses) -> None:
    made = worker(bosses, again=False)
    keep(made, "mount /mnt")
    made.ready()
    bosses.die()
    with trio.fail_after(10):
        assert not await made.wait_hand_over()
    assert bosses.restarts == []


def test_one_that_takes_over_gets_another_supervisor_when_it_serves(bosses: Bosses) -> None:
    """What was left to it goes on to that one, though the dead one had it from the worker before."""
    made = worker(bosses, again=True)
    bosses.die()
    assert keep(made, "control /mnt")
    assert bosses.restarts == []
    made.ready()
    assert bosses.restarts == [3]
    assert bosses.heard() == [
        ("born", ""),
        ("keep", "mount /mnt"),
        ("keep", "socket"),
        ("keep", "control /mnt"),
        ("serving", ""),
    ]


async def test_a_death_is_noticed_at_once(bosses: Bosses) -> None:
    made = worker(bosses, again=False)
    serving(bosses, made)
    made.caught_up()
    keep(made, "mount /other")
    made.drop("mount /other")
    bosses.die()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.wait_hand_over)
        with trio.fail_after(10):
            while not bosses.restarts:
                await trio.lowlevel.checkpoint()
        assert bosses.heard() == [("born", ""), ("keep", "mount /mnt"), ("serving", ""), ("caught_up", "")]
        words.say(bosses.lines[-1], {"do": "hand_over"})
    assert made.pid != os.getpid()


@pytest.mark.parametrize("what", ["keep", "drop", "caught_up", "replace"])
def test_what_is_said_to_a_dead_one_is_said_to_the_next(bosses: Bosses, what: str) -> None:
    made = worker(bosses, again=False)
    serving(bosses, made)
    keep(made, "control /mnt")
    bosses.die()
    if what == "keep":
        assert keep(made, "mount /more")
    elif what == "drop":
        made.drop("control /mnt")
    else:
        getattr(made, what)()
    heard = bosses.heard()
    assert (("keep", "control /mnt") in heard) is (what != "drop")
    assert (("keep", "mount /more") in heard) is (what == "keep")
    assert (("caught_up", "") in heard) is (what == "caught_up")
    assert (("replace", "") in heard) is (what == "replace")


def test_a_supervisor_that_dies_in_a_hand_over(bosses: Bosses) -> None:
    """The next one has to start who goes on: it gets all, though sessions have ended here."""
    made = worker(bosses, again=False)
    serving(bosses, made)
    words.say(bosses.lines[-1], {"do": "hand_over"})
    bosses.die()
    made.handing_over = True
    made.drop("mount /mnt")
    made.ended()
    assert bosses.heard() == [("born", ""), ("keep", "mount /mnt"), ("serving", ""), ("handed_over", "")]


def test_where_nothing_is_mounted_any_more_nobody_is_needed(bosses: Bosses) -> None:
    made = worker(bosses, again=False)
    serving(bosses, made)
    bosses.die()
    made.drop("mount /mnt")
    made.ended()
    assert bosses.restarts == []
    assert made.pid == os.getpid()


async def test_they_may_die_a_few_times(bosses: Bosses, autojump_clock: MockClock) -> None:
    made = worker(bosses, again=True)
    made.ready()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.beat)
        nursery.start_soon(made.wait_hand_over)
        for number in range(SUPERVISORS_MAX):
            bosses.die()
            while len(bosses.restarts) == number:
                await trio.sleep(0.1)
        bosses.die()
        while not made.alone:
            await trio.sleep(0.1)
        await trio.sleep(60)
        assert made.pid == os.getpid()
        nursery.cancel_scope.cancel()
    assert len(bosses.restarts) == SUPERVISORS_MAX


async def test_one_that_can_not_be_started_now_may_be_later(bosses: Bosses, autojump_clock: MockClock) -> None:
    made = worker(bosses, again=True)
    made.ready()
    bosses.refusing = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.beat)
        nursery.start_soon(made.wait_hand_over)
        bosses.die()
        while not bosses.restarts:
            await trio.sleep(0.1)
        bosses.refusing = False
        while len(bosses.lines) == 1:
            await trio.sleep(0.1)
        assert ("keep", "mount /mnt") in bosses.heard()
        nursery.cancel_scope.cancel()


def test_a_line_that_is_full_loses_nothing(bosses: Bosses) -> None:
    made = worker(bosses, again=True)
    made.ready()
    names = [f"control {number}" for number in range(400)]
    for name in names:
        with open("/dev/null", "rb") as null:
            assert made.keep(name, null.fileno(), {"path": "x" * 2000})
    made.caught_up()
    heard = []
    while part := bosses.heard():
        heard += part
        assert made._out is not None and made._out.flush()
    kept = [name for said, name in heard if said == "keep"]
    assert kept == names
    assert heard[-1] == ("caught_up", "")
