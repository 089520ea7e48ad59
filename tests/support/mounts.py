"""A store with a daemon and a mount, for tests: started by the command line, ended however the test ends.

`MountedStore` is one mount; `Mounts` makes them, tells the guard, and closes all. Invariants: every subprocess
has a time limit; a mount that is still there after `close` is reported by `leaked`. Must not know: pytest.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support import guard

REPOSITORY: Final = Path(__file__).resolve().parents[2]
TRANSPORTS: Final = {"kernel": ("transport=kernel",), "pyfuse3": ("transport=pyfuse3",)}
"""Every transport that the mounted tests run over, and the mount options that choose it."""
NOBODY: Final = 65534
TIMEOUT_S: Final = 60.0
RUN_DIRECTORY: Final = "HELIOSFS_TEST_RUN"
"""Environment variable: the directory of this run, in which all stores and mountpoints lie."""


def new_run_directory() -> Path:
    """A directory for one run, which every user can pass; on a disk rather than a tmpfs, if there is a choice."""
    choices = [Path(tempfile.gettempdir()), Path("/var/tmp")]
    parent = next((path for path in choices if not on_tmpfs(path)), choices[0])
    directory = Path(tempfile.mkdtemp(prefix="heliosfs-tests-", dir=parent))
    directory.chmod(0o755)
    return directory


def on_tmpfs(path: Path) -> bool:
    """Whether a directory lies on a tmpfs."""
    best = (b"", b"")
    real = os.fsencode(path.resolve())
    for mountpoint, fstype in mountpoints():
        if (real + b"/").startswith(mountpoint.rstrip(b"/") + b"/") and len(mountpoint) >= len(best[0]):
            best = (mountpoint, fstype)
    return best[1] == b"tmpfs"


def mountpoints() -> list[tuple[bytes, bytes]]:
    """(mountpoint, type) of every mount that this process sees; no path is touched."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        left, _, right = line.partition(b" - ")
        found.append((left.split(b" ")[4], right.split(b" ")[0]))
    return found


def leaked(*below: Path) -> list[Path]:
    """Mountpoints below these directories."""
    prefixes = [os.fsencode(path) + b"/" for path in below]
    return [
        Path(os.fsdecode(mountpoint))
        for mountpoint, _ in mountpoints()
        if any(mountpoint.startswith(prefix) for prefix in prefixes)
    ]


def connection_of(mountpoint: Path) -> int:
    """Number of a FUSE mount's connection, from mountinfo."""
    wanted = os.fsencode(mountpoint)
    for line in reversed(Path("/proc/self/mountinfo").read_bytes().splitlines()):
        fields = line.split(b" ")
        if fields[4] == wanted:
            major, _, minor = fields[2].partition(b":")
            return int(major) << 20 | int(minor)
    raise AssertionError(f"nothing is mounted at {mountpoint}")


def run(
    *words: str | Path,
    cwd: Path | None = None,
    check: bool = True,
    timeout_s: float = TIMEOUT_S,
    env: dict[str, str] | None = None,
    user: int | None = None,
    data: bytes | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, its output caught.

    Args:
        check: Fail, with what it said, if it does not exit with 0.
        user: Run as this user and group, with no others.
    """
    identity: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    done = subprocess.run(
        [os.fspath(word) for word in words],
        cwd=cwd,
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        timeout=timeout_s,
        check=False,
        env=None if env is None else {**os.environ, **env},
        **identity,
    )
    result = subprocess.CompletedProcess(
        done.args,
        done.returncode,
        done.stdout.decode(errors="surrogateescape"),
        done.stderr.decode(errors="surrogateescape"),
    )
    if check and result.returncode != 0:
        raise AssertionError(f"{words} exited with {result.returncode}:\n{result.stdout}\n{result.stderr}")
    return result


def shell(script: str, cwd: Path, *, timeout_s: float = TIMEOUT_S, user: int | None = None) -> str:
    """What a shell script prints; it stops at the first failure."""
    return run("/bin/bash", "-euo", "pipefail", "-c", script, cwd=cwd, timeout_s=timeout_s, user=user).stdout


def heliosfs(*words: str | Path, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return run(sys.executable, "-m", "heliosfs", *words, cwd=cwd, check=check, env={"PYTHONPATH": str(REPOSITORY)})


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = 30.0) -> None:
    """Poll until a condition is true.

    Raises:
        AssertionError: It was not in time.
    """
    until = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"not in {deadline_s} s: {what}")
        time.sleep(0.005)


def wait_errno(expected: int, action: Callable[[], object], deadline_s: float = 10.0) -> None:
    """Poll until an action fails with this errno: where the kernel is told right after a reply, not before it.

    Raises:
        AssertionError: It did not in time, or failed with another errno.
    """

    def failed() -> bool:
        try:
            action()
        except OSError as error:
            assert error.errno == expected, error
            return True
        return False

    wait_until(failed, f"{errno.errorcode[expected]}", deadline_s)


class Guard:
    """The process that frees what hangs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.guard"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # Not in our process group: ctrl-c is for pytest.
            start_new_session=True,
        )

    def say(self, line: str) -> None:
        """Tell it something; see tests/support/guard.py."""
        assert self._process.stdin is not None
        self._process.stdin.write(os.fsencode(line) + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End it; it frees what is still held."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


class MountedStore:
    """One store, mounted at `point`.

    Attributes:
        base: A directory of its own on a local filesystem, for what a test wants beside the mount.
        point: The mountpoint: the root of branch `main`.
    """

    def __init__(self, base: Path, guard_: Guard, transport: str) -> None:
        self.base = base
        self.store = base / "store"
        self.point = base / "mnt"
        self._guard = guard_
        self._transport = transport
        self.point.mkdir()
        heliosfs("init", self.store)

    def mount(self, *options: str) -> None:
        """Mount; returns when it is live.

        Args:
            options: As after -o.
        """
        chosen = [*TRANSPORTS[self._transport], *options]
        if os.geteuid() == 0:
            chosen.append("allow_other")
        words = ["-o", ",".join(chosen)] if chosen else []
        heliosfs("mount", self.store, self.point, *words)
        self._guard.say(f"hold {self.point} {connection_of(self.point)}")

    def unmount(self, code: int = 0) -> str:
        """Unmount; returns when the daemon is gone.

        Args:
            code: What the command is to exit with: 0 where all is stored.

        Returns:
            What it said on standard error.
        """
        done = heliosfs("umount", self.point, check=False)
        assert done.returncode == code, f"umount exited with {done.returncode}: {done.stderr}"
        self._guard.say(f"drop {self.point}")
        return done.stderr

    def mounted(self) -> bool:
        """Whether the mountpoint is one."""
        return any(found == os.fsencode(self.point) for found, _ in mountpoints())

    def daemon(self) -> int:
        """Process id of the daemon: its supervisor, where it has one; leader of the group of all its processes."""
        (pid,) = (pid for pid in guard.servers(os.fspath(self.point)) if _is_daemon(pid))
        return pid

    def status(self) -> dict[str, Any]:
        """What the mount says of itself, now."""
        return dict(json.loads((self.point / ".helios/status").read_bytes()))

    def worker(self) -> int:
        """Process id of the one that serves."""
        return int(self.status()["worker_pid"])

    def kill_daemon(self) -> None:
        """SIGKILL to all of its processes, no warning; returns when they are gone. What is left is a dead mount."""
        pid = self.daemon()
        os.killpg(pid, signal.SIGKILL)
        wait_until(lambda: not alive_in_group(pid), "the daemon's end")
        self._guard.say(f"drop {self.point}")

    def close(self) -> None:
        """Unmount, by force if need be, and remove everything."""
        if self.mounted():
            done = heliosfs("umount", self.point, check=False)
            if self.mounted():
                guard.free({os.fspath(self.point): connection_of(self.point)})
                shutil.rmtree(self.base, ignore_errors=True)
                self._guard.say(f"drop {self.point}")
                raise AssertionError(f"umount {self.point} failed: {done.stderr}{self.said()}")
        self._guard.say(f"drop {self.point}")
        said = self.said()
        wait_until(self._removed, "everything is removed")
        assert "Traceback" not in said and "unexpected" not in said, f"the daemon's log:\n{said}"

    def _removed(self) -> bool:
        """Remove everything, once nobody serves it any more: umount(8) does not wait for the daemon's end."""
        if guard.servers(os.fspath(self.point)):
            return False
        shutil.rmtree(self.base)
        return True

    def said(self) -> str:
        """The daemon's log."""
        path = self.store / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_durable(self, branch: Path | None = None) -> None:
        """Until status says that everything acknowledged up to now survives power loss."""
        control = (branch or self.point) / ".helios"
        wait_until(lambda: json.loads((control / "status").read_bytes()).get("durable") is True, "durable")

    def check(self) -> list[str]:
        """Every violated invariant of the unmounted store, and how many records opening it replayed."""
        done = run(sys.executable, "-m", "tests.support.storecheck", self.store, cwd=REPOSITORY)
        return list(json.loads(done.stdout))


def storage_processes(worker: int) -> list[int]:
    """Of a worker, those that cut, compress and store for it."""
    found = (int(pid) for pid in Path(f"/proc/{worker}/task/{worker}/children").read_text().split())
    return [pid for pid in found if b"heliosfs.storage.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _is_daemon(pid: int) -> bool:
    try:
        return b"heliosfs.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def alive_in_group(group: int) -> set[int]:
    """Processes of this group that are still more than zombies."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, pgrp = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:3]
            except OSError:
                continue
            if int(pgrp) == group and state != b"Z":
                found.add(int(entry.name))
    return found


class Mounts:
    """Makes mounted stores in one directory and closes them all."""

    def __init__(self, directory: Path, guard_: Guard) -> None:
        self._directory = directory
        self._guard = guard_

    @contextmanager
    def mounted(self, transport: str, *options: str) -> Iterator[MountedStore]:
        """A new store, mounted; unmounted and removed at the end, whatever happens in between."""
        base = Path(tempfile.mkdtemp(prefix="m", dir=self._directory))
        base.chmod(0o755)
        made = MountedStore(base, self._guard, transport)
        try:
            made.mount(*options)
            yield made
        finally:
            made.close()


def fill(tree: Path, seed: int = 1, *, files: int = 40) -> None:
    """A small tree with everything in it: directories, links of both kinds, xattrs, holes, modes, odd names.

    As root also devices, FIFOs, sockets and other owners. Deterministic but for times, which are set.
    """
    dice = random.Random(seed)
    directories = [tree]
    for number in range(files):
        parent = dice.choice(directories) if number > 8 else tree
        if number % 8 == 0:
            directory = parent / f"dir{number}"
            directory.mkdir()
            directories.append(directory)
        else:
            (parent / f"file{number}").write_bytes(dice.randbytes(dice.choice((0, 1, 100, 4096, 5000, 70000))))
    some = tree / "dir0"
    (some / "run.sh").write_bytes(b"#!/bin/sh\necho ran\n")
    (some / "run.sh").chmod(0o755)
    (some / "link").symlink_to("run.sh")
    (tree / "dangling").symlink_to("nowhere/at all")
    os.link(some / "run.sh", tree / "hard")
    Path(os.fsdecode(os.fsencode(tree) + b"/\xff\xfe not utf-8\n")).write_bytes(b"odd")
    with open(tree / "sparse", "wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
        file.truncate(3 << 20)
    os.setxattr(some / "run.sh", b"user.colour", b"blue\0green")
    os.setxattr(some, b"user.empty", b"")
    os.mkfifo(tree / "fifo", 0o640)
    (tree / "locked").mkdir(mode=0o500)
    if os.geteuid() == 0:
        os.mknod(tree / "null", 0o666 | 0o020000, os.makedev(1, 3))
        os.chown(tree / "hard", 1234, 4321)
        os.chmod(tree / "hard", 0o6755)
    for number, path in enumerate([*sorted(tree.rglob("*"), key=os.fsencode, reverse=True), tree]):
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1_000_000_007), follow_symlinks=False)


def signature(
    tree: Path, *, times: bool = True, skip: Sequence[bytes] = (b".helios",)
) -> dict[bytes, tuple[Any, ...]]:
    """Everything that can be seen of a tree: type, mode, owner, size, mtime, content, xattrs, links, structure.

    Returns:
        Relative path -> what is there. Hard links share a group number. atime and inode numbers are left out.
    """
    root = os.fsencode(tree)
    groups: dict[int, int] = {}
    found: dict[bytes, tuple[Any, ...]] = {}
    stack = [b""]
    while stack:
        relative = stack.pop()
        path = os.path.join(root, relative) if relative else root
        status = os.lstat(path)
        kind = status.st_mode >> 12
        what: object = None
        if kind == 0o10:
            with open(path, "rb") as file:
                what = file.read()
        elif kind == 0o12:
            what = os.readlink(path)
        elif kind == 0o4:
            inside = sorted(name for name in os.listdir(path) if relative or name not in skip)
            what = tuple(inside)
            stack += [os.path.join(relative, name) for name in inside]
        elif kind in (0o2, 0o6):
            what = status.st_rdev
        names = sorted(os.listxattr(path, follow_symlinks=False))
        attributes = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
        group = groups.setdefault(status.st_ino, len(groups)) if kind != 0o4 and status.st_nlink > 1 else None
        found[relative] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_nlink,
            status.st_size if kind != 0o4 else None,
            status.st_mtime_ns if times else None,
            what,
            attributes,
            group,
        )
    return found
