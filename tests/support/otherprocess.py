"""Another process that makes system calls when asked: its own descriptors, mappings, directory and user.

`OtherProcess` is the test's end, `python -m tests.support.otherprocess UID DIR` the other. A call is one line
with a tuple (name, arguments, keywords), the reply one line with ("ok", value) or ("errno", number); both are
Python literals. Names are methods of `Hands`, else functions of `os`. Invariants: no call waits for longer
than its deadline; the process is gone after `close`.
"""

from __future__ import annotations

import ast
import fcntl
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 40.0
STAT_FIELDS = (
    *("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_rdev"),
    *("st_atime_ns", "st_mtime_ns", "st_ctime_ns"),
)


class OtherProcess:
    """Calls made here happen there: `other.open(path, os.O_RDONLY)`, `other.listdir(path)`, `other.map(...)`."""

    def __init__(self, *, uid: int = 0, cwd: Path | str = "/") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.otherprocess", str(uid), os.fspath(cwd)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._pending = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **keywords: Any) -> Any:
            self.send(name, *args, **keywords)
            return self.result()

        return call

    def send(self, name: str, *args: Any, **keywords: Any) -> None:
        """Have a call made without waiting for its end; `result` gets it."""
        plain = tuple(os.fspath(arg) if isinstance(arg, os.PathLike) else arg for arg in args)
        assert self._process.stdin is not None
        self._process.stdin.write(repr((name, plain, keywords)).encode() + b"\n")
        self._process.stdin.flush()

    def result(self, deadline_s: float = DEADLINE_S) -> Any:
        """The value of the call sent last.

        Raises:
            OSError: What the call raised there.
            TimeoutError: It did not return in time.
        """
        kind, value = ast.literal_eval(self._line(deadline_s).decode())
        if kind == "errno":
            raise OSError(value, os.strerror(value))
        if kind == "error":
            raise AssertionError(f"in the other process: {value}")
        return value

    def finished(self) -> bool:
        """Whether the call sent last has returned."""
        assert self._process.stdout is not None
        return b"\n" in self._pending or bool(select.select([self._process.stdout], [], [], 0)[0])

    def _line(self, deadline_s: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        until = time.monotonic() + deadline_s
        while b"\n" not in self._pending:
            left = until - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError("the other process does not answer")
            data = os.read(descriptor, 1 << 20)
            if not data:
                raise AssertionError("the other process has ended")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def close(self) -> None:
        """End it. Idempotent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait(20)


class Hands:
    """What the other process can do beside the functions of `os`."""

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []

    def stat(self, path: Any, follow_symlinks: bool = True) -> dict[str, int]:
        """stat(2), lstat(2) or fstat(2)."""
        found = os.stat(path, follow_symlinks=follow_symlinks)
        return {name: getattr(found, name) for name in STAT_FIELDS}

    def exists(self, path: str) -> bool:
        """Whether stat(2) finds it."""
        return os.path.exists(path)

    def get(self, path: str) -> bytes:
        """The whole of a file."""
        with open(path, "rb") as file:
            return file.read()

    def put(self, path: str, data: bytes) -> int:
        """As `echo DATA > PATH`: truncate, one write."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            return os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def touch(self, path: str) -> None:
        """As touch(1)."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK, 0o666)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)

    def ask(self, path: str, command: bytes) -> bytes:
        """Write a command to a control file and read the reply through the same descriptor."""
        descriptor = os.open(path, os.O_RDWR)
        try:
            try:
                os.write(descriptor, command)
            except OSError:
                pass
            return os.pread(descriptor, 1 << 20, 0)
        finally:
            os.close(descriptor)

    def ioctl(self, descriptor: int, number: int, structure: bytes) -> tuple[int, bytes]:
        """ioctl(2): 0 or the errno, and what has become of the structure."""
        changed = bytearray(structure)
        try:
            fcntl.ioctl(descriptor, number, changed, True)
        except OSError as error:
            return error.errno or 0, bytes(changed)
        return 0, bytes(changed)

    def map(self, path: str, length: int, writable: bool = False, private: bool = False) -> int:
        """Map a file; the number of the mapping."""
        descriptor = os.open(path, os.O_RDWR if writable and not private else os.O_RDONLY)
        try:
            protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
            self._maps.append(mmap.mmap(descriptor, length, flags=flags, prot=protection))
        finally:
            os.close(descriptor)
        return len(self._maps) - 1

    def mread(self, number: int, offset: int, length: int) -> bytes:
        """Read memory."""
        return self._maps[number][offset : offset + length]

    def mwrite(self, number: int, offset: int, data: bytes) -> None:
        """Write memory."""
        self._maps[number][offset : offset + len(data)] = data

    def msync(self, number: int) -> None:
        """msync(2) of all of it."""
        self._maps[number].flush()

    def flock(self, descriptor: int, operation: int) -> None:
        """flock(2)."""
        fcntl.flock(descriptor, operation)

    def lockf(self, descriptor: int, operation: int, length: int = 0, start: int = 0) -> None:
        """fcntl(2) record locks."""
        fcntl.lockf(descriptor, operation, length, start)

    def writes(self, path: str, prefix: bytes, limit: int, until: str) -> int:
        """Append numbered lines, one write(2) each, until a file appears or `limit` is reached; how many."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        done = 0
        try:
            while done < limit and not os.path.exists(until):
                os.write(descriptor, b"%s %08d\n" % (prefix, done))
                done += 1
        finally:
            os.close(descriptor)
        return done

    def overwrites(self, path: str, limit: int, until: str) -> int:
        """pwrite an 8-byte counter at offset 0, until a file appears; the last value written."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        value = 0
        try:
            while value < limit and not os.path.exists(until):
                os.pwrite(descriptor, b"%08d" % (value + 1), 0)
                value += 1
        finally:
            os.close(descriptor)
        return value

    def counted(self, path: str, count: str, until: str) -> None:
        """Append numbered lines; `count`, a file elsewhere, says how many write(2) has returned for."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        tally = os.open(count, os.O_WRONLY | os.O_CREAT, 0o666)
        done = 0
        while not os.path.exists(until):
            os.write(descriptor, b"%08d\n" % done)
            done += 1
            os.pwrite(tally, b"%08d" % done, 0)

    def burst(self, path: str, names: list[bytes]) -> list[tuple[bytes, bytes]]:
        """Give each name as a command and read each reply, through descriptors of its own."""
        return [(name, self.ask(path, name)) for name in names]

    def close_fd(self, descriptor: int) -> None:
        """close(2)."""
        os.close(descriptor)

    def churn(self, path: str, count: int, seed: int) -> None:
        """Make, rename and remove names that begin with `x`."""
        for number in range(count):
            name = os.path.join(path, f"x{seed}-{number}")
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
            if number % 3:
                os.rename(name, name + "r")
                name += "r"
            if number % 2:
                os.unlink(name)

    def exercise(self, path: str, seed: int, steps: int) -> list[str]:
        """Random work on a few files, compared with a dictionary after each step and at the end; what differs."""
        dice = random.Random(seed)
        model: dict[str, bytes] = {}
        wrong = []
        for step in range(steps):
            name, target = (os.path.join(path, f"f{dice.randrange(8)}") for _ in range(2))
            act = dice.randrange(6)
            if act == 0:
                model[name] = dice.randbytes(dice.randrange(20_000))
                with open(name, "wb") as file:
                    file.write(model[name])
            elif act == 1 and name in model:
                offset, data = dice.randrange(30_000), dice.randbytes(dice.randrange(1, 5_000))
                with open(name, "r+b", buffering=0) as file:
                    os.pwrite(file.fileno(), data, offset)
                old = model[name].ljust(offset, b"\0")
                model[name] = old[:offset] + data + old[offset + len(data) :]
            elif act == 2 and name in model:
                length = dice.randrange(30_000)
                os.truncate(name, length)
                model[name] = model[name][:length].ljust(length, b"\0")
            elif act == 3 and name in model and name != target:
                os.rename(name, target)
                model[target] = model.pop(name)
            elif act == 4 and name in model:
                os.unlink(name)
                del model[name]
            elif name in model and self.get(name) != model[name]:
                wrong.append(f"step {step} of seed {seed}: {name}")
        for name in sorted(model):
            if self.get(name) != model[name]:
                wrong.append(f"end of seed {seed}: {name}")
        if sorted(os.listdir(path)) != sorted(os.path.basename(name) for name in model):
            wrong.append(f"end of seed {seed}: names")
        return wrong

    def walk(self, path: str) -> list[str]:
        """Every name below a directory, relative."""
        found = []
        for directory, names, files in os.walk(path):
            found += [os.path.relpath(os.path.join(directory, name), path) for name in names + files]
        return sorted(found)


def serve(uid: int, cwd: str) -> None:
    """The other end: calls from stdin, replies to stdout, until the input ends."""
    # First: a sandbox is put where its user could not go himself.
    os.chdir(cwd)
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.umask(0o022)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # So that nothing has to be imported once the interpreter's files may be out of reach.
    hands = Hands()
    out = os.fdopen(os.dup(1), "wb")
    for line in sys.stdin.buffer:
        name, args, keywords = ast.literal_eval(line.decode())
        try:
            action = getattr(hands, name, None) or getattr(os, name)
            value = action(*args, **keywords)
            reply: tuple[str, Any] = ("ok", tuple(value) if isinstance(value, os.statvfs_result) else value)
        except OSError as error:
            reply = ("errno", error.errno)
        except Exception as error:
            reply = ("error", repr(error))
        out.write(repr(reply).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
