"""A worker that does as it is told, for tests of the supervisor: `fake_worker DIRECTORY --line=FD`.

Each one takes the next line of DIRECTORY/acts: what to do when it is to serve. Orders are written to
DIRECTORY/orders, one JSON line each, with the content of what was kept.

    serve         keep a memfd named "mount x", serve, say that it is alive
    die N         the same, then exit with N
    kill          the same, then SIGKILL itself
    poison        serve and die before it has caught up
    hopeless      the same, by SIGKILL
    silent        serve and say nothing more
    refuse N      say that it failed, exit with N
    end           serve, then end in good order
    unborn        exit before it says who it is
    late [ACT]    say who it is only when DIRECTORY/gate, a FIFO, has been opened for writing; then ACT, or serve
    deaf          as serve, but SIGTERM only makes DIRECTORY/told
    stuck         as serve, but it mounts DIRECTORY/stuck, and hangs for good when a directory is made there
    disk          as serve, but waits in the kernel first, until DIRECTORY/gate, a FIFO, has been opened for writing
    hoard N       as serve, with N memfds more

One that is to follow says that it is level, leaves twins when asked to, and takes its act when it is to serve; its
order then has "followed": true. Their numbers are in DIRECTORY/followers. A file DIRECTORY/blind makes one end.

A socket DIRECTORY/kernel (SEQPACKET) is connected to, and that kept as "mount x" in place of the memfd; then a
listening socket DIRECTORY/socket is made, too, and kept as "socket".

A FIFO DIRECTORY/gate-standby is waited for like that by a process that forks workers, before it says that it can. A
file DIRECTORY/stillborn makes the next process that would fork workers exit at once, DIRECTORY/replace makes a
worker ask for a new one, DIRECTORY/stored say that it has made a cut.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

from heliosfs.daemon import standby, words
from tests.support import stuck
from tests.support.mounts import connection_of

BEAT_S = 0.02


def next_act(directory: Path) -> str:
    with open(directory / "acts", "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.read().splitlines()
        file.seek(0)
        file.truncate()
        file.write("".join(line + "\n" for line in lines[1:]))
    return lines[0] if lines else "serve"


def main(directory: Path, fd: int) -> int:
    line = socket.socket(fileno=fd)
    if take(directory / "stillborn"):
        return 7
    with open(directory / "standbys", "a") as file:
        file.write(f"{os.getpid()}\n")
    pass_gate(directory / "gate-standby")
    worker = standby.forked(line)
    return 0 if worker is None else work(directory, worker)


def pass_gate(path: Path) -> None:
    """Wait until somebody writes to this FIFO, if it is there."""
    if path.exists():
        path.read_bytes()


def wait_in_the_kernel(gate: Path) -> None:
    """As for a disk: who starts a program is in state D until it runs, and this one opens a FIFO first."""
    actions = [(os.POSIX_SPAWN_OPEN, 0, os.fspath(gate), os.O_RDONLY, 0)]
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=actions)


def kernel(path: Path) -> int:
    """What stands for a descriptor of /dev/fuse: one that answers nothing, or a line to who plays the kernel."""
    if path.exists():
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        line.connect(os.fspath(path))
        return line.detach()
    kept = os.memfd_create("kept")
    os.write(kept, b"what the kernel knows")
    return kept


def take(path: Path) -> bool:
    """Whether the file was there; it is not any more."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def follow(directory: Path, line: socket.socket) -> tuple[socket.socket, tuple[dict[str, Any], list[int]] | None]:
    """Follow until told to serve: the line it came over, and the order."""
    words.say(line, {"say": "born", "pid": os.getpid()}, [os.pidfd_open(os.getpid())])
    words.say(line, {"say": "level"})
    with open(directory / "followers", "a") as file:
        file.write(f"{os.getpid()}\n")
    while True:
        heard = words.hear(line)
        if heard is None or heard[0]["do"] != "twin":
            return line, heard
        if not os.fork():
            line.close()
            return follow(directory, socket.socket(fileno=heard[1][0]))
        os.close(heard[1][0])


def all_of(line: socket.socket, heard: tuple[dict[str, Any], list[int]]) -> tuple[dict[str, Any], list[int]]:
    """The order to serve with all that is kept, which may come in several messages."""
    kept: list[object] = []
    held: list[int] = []
    while True:
        message, fds = heard
        kept += message["kept"]
        held += fds
        if message["do"] == "serve":
            message["kept"] = kept
            return message, held
        again = words.hear(line)
        assert again is not None
        heard = again


def work(directory: Path, line: socket.socket) -> int:
    heard = words.hear(line)
    if heard is None:
        return 0
    followed = heard[0]["do"] == "follow"
    if followed:
        if take(directory / "blind"):
            return 7
        line, heard = follow(directory, line)
        if heard is None:
            return 0
    act, _, number = next_act(directory).partition(" ")
    if act == "unborn":
        return 7
    if act == "late":
        pass_gate(directory / "gate")
        act = number or "serve"
    if not followed:
        words.say(line, {"say": "born", "pid": os.getpid()}, [os.pidfd_open(os.getpid())])
    order, fds = all_of(line, heard)
    order["held"] = ["" if stat.S_ISSOCK(os.fstat(fd).st_mode) else os.pread(fd, 99, 0).decode() for fd in fds]
    order["pid"] = os.getpid()
    order["followed"] = followed
    with open(directory / "orders", "a") as orders:
        orders.write(json.dumps(order) + "\n")
    if act == "refuse":
        words.say(line, {"say": "failed", "exit": int(number), "error": "no"})
        return int(number)
    if not fds:
        kept = kernel(directory / "kernel")
        if (directory / "kernel").exists():
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(os.fspath(directory / "socket"))
            listener.listen()
            words.say(line, {"say": "keep", "name": "socket", "more": {}}, [listener.fileno()])
        words.say(line, {"say": "keep", "name": "mount x", "more": {"connection": 5}}, [kept])
    if act == "stuck":
        point = directory / "stuck"
        fuse = stuck.mount(point)
        more = {"number": connection_of(point), "mountpoint": os.fspath(point)}
        words.say(line, {"say": "keep", "name": "mount y", "more": more}, [kept])
        words.say(line, {"say": "serving"})
        words.say(line, {"say": "caught_up"})
        stuck.hang(fuse)
    if act == "hoard":
        for at in range(int(number)):
            words.say(line, {"say": "keep", "name": f"hoard {at}", "more": {"path": "x" * 4000}}, [kept])
    ended: list[int] = []

    def told(number: int, _frame: object) -> None:
        if act == "deaf":
            (directory / "told").touch()
        else:
            ended.append(number)

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    words.say(line, {"say": "serving"})
    if act == "poison":
        return 3
    if act == "hopeless":
        os.kill(os.getpid(), signal.SIGKILL)
    words.say(line, {"say": "caught_up"})
    if act == "die":
        return int(number)
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "end":
        words.say(line, {"say": "ended"})
        return 0
    if act == "disk":
        wait_in_the_kernel(directory / "gate")
    while not ended:
        if act != "silent":
            words.say(line, {"say": "alive"})
        if select.select([line], [], [], BEAT_S)[0]:
            heard = words.hear(line)
            if heard is None:
                return 0
            if heard[0]["do"] == "hand_over":
                words.say(line, {"say": "handed_over"})
                return 0
        if take(directory / "replace"):
            words.say(line, {"say": "replace"})
        if take(directory / "stored"):
            words.say(line, {"say": "stored"})
    words.say(line, {"say": "ended"})
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2].removeprefix("--line="))))
