"""flock(2) and fcntl(2) locks, between two processes."""

from __future__ import annotations

import fcntl
import os
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
