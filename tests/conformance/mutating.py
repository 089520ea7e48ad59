"""One file on two filesystems, changed in the same ways at random, and looked at after each of them.

Must not know: which filesystem is which, but that `ours` may call a hole what the other one calls data.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

LONGEST: Final = 200_000
BLOCK: Final = 4096
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16

_libc = ctypes.CDLL(None, use_errno=True)


class Twins:
    """Two files that are to stay equal."""

    def __init__(self, ours: Path, theirs: Path, dice: random.Random) -> None:
        self._paths = ours, theirs
        self._dice = dice
        self._done: list[str] = []

    def __enter__(self) -> Self:
        self._both = [os.open(path, os.O_CREAT | os.O_RDWR, 0o644) for path in self._paths]
        self._appending = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in self._paths]
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (*self._both, *self._appending):
            os.close(descriptor)

    def step(self) -> None:
        """Change both in one way, and compare. Raises AssertionError: they differ."""
        dice = self._dice
        kind = dice.choice(("write", "append", "truncate", "allocate", "punch", "zero", "copy", "map"))
        at, to, length = (dice.randrange(LONGEST) for _ in range(3))
        if dice.random() < 0.4:
            at, to, length = (number // BLOCK * BLOCK for number in (at, to, length))
        elif dice.random() < 0.3:
            length %= 100
        keep = dice.choice((0, KEEP_SIZE))
        data = dice.randbytes(min(length, 20_000)) if dice.random() < 0.8 else bytes(length)
        acts: dict[str, Callable[[int, int], object]] = {
            "write": lambda f, _: os.pwrite(f, data, at),
            "append": lambda _, a: os.write(a, data[:5_000]),
            "truncate": lambda f, _: os.ftruncate(f, at),
            "allocate": lambda f, _: _fallocate(f, keep, at, length),
            "punch": lambda f, _: _fallocate(f, PUNCH_HOLE | KEEP_SIZE, at, length),
            "zero": lambda f, _: _fallocate(f, ZERO_RANGE | keep, at, length),
            "copy": lambda f, _: _copy(f, at, to, length),
            "map": lambda f, _: _store(f, at, data),
        }
        self._done.append(f"{kind} keep={keep} at={at} to={to} length={length} data={len(data)}")
        outcomes = [_outcome(acts[kind], *pair) for pair in zip(self._both, self._appending, strict=True)]
        said = self._done[-5:]
        assert outcomes[0] == outcomes[1], (outcomes, said)
        sizes = [os.fstat(f).st_size for f in self._both]
        assert sizes[0] == sizes[1], (sizes, said)
        ours, theirs = (os.pread(f, sizes[0], 0) for f in self._both)
        assert ours == theirs, (_first_difference(ours, theirs), said)
        if dice.random() < 0.2:
            for f in self._both:
                os.fsync(f)
            mine, reference = (blocks_of_data(f) for f in self._both)
            assert mine <= reference, (sorted(mine - reference), said)
            assert not any(
                any(ours[number * BLOCK : (number + 1) * BLOCK])
                for number in range(-(-sizes[0] // BLOCK))
                if number not in mine
            ), said


def blocks_of_data(descriptor: int) -> set[int]:
    """The blocks that SEEK_DATA and SEEK_HOLE say hold data."""
    found: set[int] = set()
    at = 0
    while True:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            return found
        at = os.lseek(descriptor, data, os.SEEK_HOLE)
        assert at > data
        found.update(range(data // BLOCK, -(-at // BLOCK)))


def _outcome(act: Callable[[int, int], object], descriptor: int, appending: int) -> object:
    try:
        return act(descriptor, appending)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def _copy(descriptor: int, at: int, to: int, length: int) -> int:
    """All that copy_file_range(2) copies, a part at a time."""
    copied = 0
    while copied < length:
        part = os.copy_file_range(descriptor, descriptor, length - copied, at + copied, to + copied)
        if not part:
            break
        copied += part
    return copied


def _store(descriptor: int, at: int, data: bytes) -> str:
    """Through a shared mapping, as far as the file goes."""
    size = os.fstat(descriptor).st_size
    room = max(0, min(len(data), size - at))
    if not room:
        return "no room"
    with mmap.mmap(descriptor, size) as shared:
        shared[at : at + room] = data[:room]
        if at % 2:
            shared.flush()
    return f"{room} bytes"


def _first_difference(one: bytes, two: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
