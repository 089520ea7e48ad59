"""flock(2) and fcntl(2) locks, between two processes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
from collections.abc import Callable

from tests.conformance.calls import Calls, case

NOW = fcntl.LOCK_NB


def elsewhere(action: Callable[[], None]) -> str:
    """What an action gives in another process."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            action()
            os.write(theirs, b"ok")
        except OSError as error:
            os.write(theirs, str(error.errno).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    said = os.read(ours, 100).decode()
    os.close(ours)
    return said


@case
def flock(c: Calls) -> None:
    c.create("f")
    mine = c.open("f", os.O_RDWR)
    other = c.open("f", os.O_RDONLY)
    c.flock(mine, fcntl.LOCK_EX | NOW)
    c.flock(other, fcntl.LOCK_SH | NOW)
    c.flock(other, fcntl.LOCK_EX | NOW)
    c.note(elsewhere(lambda: fcntl.flock(os.open("f", os.O_RDWR), fcntl.LOCK_EX | NOW)))
    c.flock(mine, fcntl.LOCK_SH | NOW)
    c.note(elsewhere(lambda: fcntl.flock(os.open("f", os.O_RDWR), fcntl.LOCK_SH | NOW)))
    c.note(elsewhere(lambda: fcntl.flock(os.open("f", os.O_RDWR), fcntl.LOCK_EX | NOW)))
    c.flock(mine, fcntl.LOCK_UN)
    c.note(elsewhere(lambda: fcntl.flock(os.open("f", os.O_RDWR), fcntl.LOCK_EX | NOW)))
    directory = c.open(".")
    c.flock(directory, fcntl.LOCK_EX | NOW)


@case
def record_locks(c: Calls) -> None:
    c.create("f", b"0123456789")
    mine = c.open("f", os.O_RDWR)
    c.lockf(mine, fcntl.LOCK_EX | NOW, 5, 0)
    for start, length in ((0, 5), (4, 1), (5, 5), (5, 0), (0, 0)):
        c.note(
            elsewhere(
                lambda start=start, length=length: fcntl.lockf(
                    os.open("f", os.O_RDWR), fcntl.LOCK_EX | NOW, length, start
                )
            )
        )
    c.lockf(mine, fcntl.LOCK_SH | NOW, 5, 0)
    c.note(elsewhere(lambda: fcntl.lockf(os.open("f", os.O_RDWR), fcntl.LOCK_SH | NOW, 5, 0)))
    c.note(elsewhere(lambda: fcntl.lockf(os.open("f", os.O_RDWR), fcntl.LOCK_EX | NOW, 5, 0)))
    c.lockf(mine, fcntl.LOCK_UN)
    c.note(elsewhere(lambda: fcntl.lockf(os.open("f", os.O_RDWR), fcntl.LOCK_EX | NOW)))
    reading = c.open("f", os.O_RDONLY)
    c.lockf(reading, fcntl.LOCK_EX | NOW)
    c.lockf(reading, fcntl.LOCK_SH | NOW)


@case
def locks_end_with_the_process(c: Calls) -> None:
    c.create("f")
    for take in (fcntl.flock, fcntl.lockf):
        c.note(elsewhere(lambda take=take: take(os.open("f", os.O_RDWR), fcntl.LOCK_EX | NOW)))
        descriptor = c.open("f", os.O_RDWR)
        c.record("lock", (), lambda take=take, d=descriptor: take(d, fcntl.LOCK_EX | NOW))
        os.close(descriptor)


@case
def locks_stay_over_a_rename_and_an_unlink(c: Calls) -> None:
    c.create("f")
    mine = c.open("f", os.O_RDWR)
    c.flock(mine, fcntl.LOCK_EX | NOW)
    c.rename("f", "g")
    c.note(elsewhere(lambda: fcntl.flock(os.open("g", os.O_RDWR), fcntl.LOCK_EX | NOW)))
    c.unlink("g")
    c.create("g")
    c.note(elsewhere(lambda: fcntl.flock(os.open("g", os.O_RDWR), fcntl.LOCK_EX | NOW)))


def ofd(descriptor: int, kind: int, start: int = 0, length: int = 0, command: int = 37) -> tuple[int, ...]:
    """An open file description's lock (F_OFD_SETLK) or question (F_OFD_GETLK); what struct flock holds then."""
    layout = "hhqqi4x"
    said = fcntl.fcntl(descriptor, command, struct.pack(layout, kind, os.SEEK_SET, start, length, 0))
    return struct.unpack(layout, said)[:4]


@case
def locks_of_an_open_file_description(c: Calls) -> None:
    c.create("f", b"0123456789")
    mine, other = c.open("f", os.O_RDWR), c.open("f", os.O_RDWR)
    reading = c.open("f", os.O_RDONLY)
    for descriptor, kind, start, length in (
        (mine, fcntl.F_WRLCK, 0, 5),
        (other, fcntl.F_WRLCK, 4, 2),
        (other, fcntl.F_WRLCK, 5, 2),
        (reading, fcntl.F_RDLCK, 7, 1),
        (reading, fcntl.F_WRLCK, 8, 1),
        (mine, fcntl.F_RDLCK, 0, 5),
        (other, fcntl.F_RDLCK, 0, 5),
        (mine, fcntl.F_WRLCK, 0, 5),
    ):
        c.record(
            "F_OFD_SETLK",
            (kind, start, length),
            lambda d=descriptor, k=kind, s=start, n=length: ofd(d, k, s, n),
        )
    c.record("F_OFD_GETLK", (), lambda: ofd(mine, fcntl.F_WRLCK, 5, 2, 36))
    c.note(elsewhere(lambda: fcntl.lockf(os.open("f", os.O_RDWR), fcntl.LOCK_EX | NOW, 2, 0)))
    # Closing another descriptor of the file drops a process's own locks, not these.
    os.close(c.open("f"))
    c.note(elsewhere(lambda: fcntl.lockf(os.open("f", os.O_RDWR), fcntl.LOCK_EX | NOW, 2, 0)))
    os.close(mine)
    os.close(other)
    c.note(elsewhere(lambda: fcntl.lockf(os.open("f", os.O_RDWR), fcntl.LOCK_EX | NOW, 2, 0)))


@case
def who_holds_a_record_lock(c: Calls) -> None:
    c.create("f", b"0123456789")
    mine = c.open("f", os.O_RDWR)
    c.lockf(mine, fcntl.LOCK_EX | NOW, 3, 2)
    layout = "hhqqi4x"
    wanted = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)

    def ask() -> None:
        kind, whence, start, length, pid = struct.unpack(
            layout, fcntl.fcntl(os.open("f", os.O_RDWR), fcntl.F_GETLK, wanted)
        )
        raise OSError(kind * 1_000 + whence * 100 + start * 10 + length + 10_000 * (pid == os.getppid()), "")

    c.note(elsewhere(ask))
    os.close(c.open("f"))
    c.note(elsewhere(ask))


@case
def a_waiter_gets_the_lock(c: Calls) -> None:
    c.create("f")
    for take in (fcntl.flock, fcntl.lockf):
        mine = c.open("f", os.O_RDWR)
        take(mine, fcntl.LOCK_EX)
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            descriptor = os.open("f", os.O_RDWR)
            os.write(theirs, b"w")
            take(descriptor, fcntl.LOCK_EX)
            os.write(theirs, b"g")
            os._exit(0)
        c.note(repr(os.read(ours, 1)))
        take(mine, fcntl.LOCK_UN)
        c.note(repr(os.read(ours, 1)))
        c.note(str(os.waitpid(child, 0)[1]))
        os.close(mine)


@case
def a_waiter_is_interrupted(c: Calls) -> None:
    """By a signal whose handler does not go on with the call."""

    def interrupt(*_: object) -> None:
        raise InterruptedError(errno.EINTR, "a signal")

    c.create("f")
    signal.signal(signal.SIGALRM, interrupt)
    for take in (fcntl.flock, fcntl.lockf):
        ours, theirs = os.pipe()
        holder = os.fork()
        if not holder:
            take(os.open("f", os.O_RDWR), fcntl.LOCK_EX)
            os.write(theirs, b"h")
            signal.pause()
        c.note(repr(os.read(ours, 1)))
        mine = c.open("f", os.O_RDWR)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        c.record("lock", (), lambda take=take, d=mine: take(d, fcntl.LOCK_EX))
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        c.record("lock", (), lambda take=take, d=mine: take(d, fcntl.LOCK_EX))
        os.close(mine)
