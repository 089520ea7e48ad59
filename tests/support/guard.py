"""A process beside the tests that frees mounts which hang: `python -m tests.support.guard`, told by lines on stdin.

    hold MOUNTPOINT CONNECTION      from now on this mount is looked after
    drop MOUNTPOINT                 it has been unmounted in good order
    begin SECONDS / end             a test runs; past its time every mount held is aborted: what waits fails

At the end of its input, however that came about (SIGKILL of pytest included), whatever is still held is
aborted, killed and unmounted lazily. So a test may touch a mount directly: nothing can hang for ever.
Must not know: what a store is. It never touches a path below a mountpoint.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

CONNECTIONS = Path("/sys/fs/fuse/connections")


def abort(mountpoint: str, connection: int) -> None:
    """End a mount's FUSE connection: all that waits for it fails. Best effort; one that has gone is fine.

    Its number may have gone to another mount since: that one is left alone.
    """
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    points = {words[4] for words in mounts if words[2] == f"0:{connection}"}
    if points and mountpoint not in points:
        return
    if not any(CONNECTIONS.iterdir()) and os.geteuid() == 0:
        run("mount", "-t", "fusectl", "fusectl", str(CONNECTIONS))
    try:
        (CONNECTIONS / str(connection) / "abort").write_bytes(b"1")
    except OSError as error:
        print(f"guard: connection {connection}: {error}", file=sys.stderr)


def unmount(mountpoint: str) -> None:
    """Take a mount out of the tree, whoever still uses it."""
    command = ("umount", "-l") if os.geteuid() == 0 else ("fusermount3", "-uz")
    run(*command, mountpoint)


def servers(mountpoint: str) -> list[int]:
    """Processes whose command line names the mountpoint: the daemons of this mount."""
    wanted = os.fsencode(mountpoint)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if wanted in words and b"heliosfs" in words:
                found.append(int(entry.name))
    return found


def run(*command: str) -> None:
    """Run a command for at most ten seconds; whatever comes of it."""
    try:
        subprocess.run(command, timeout=10, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        print(f"guard: {command} hangs", file=sys.stderr)


def free(held: dict[str, int]) -> None:
    """End every mount held."""
    for mountpoint, connection in held.items():
        abort(mountpoint, connection)
        unmount(mountpoint)
        for pid in servers(mountpoint):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    held: dict[str, int] = {}
    deadline: float | None = None
    pending = b""
    while True:
        patience = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([0], [], [], patience)
        if not ready:
            deadline = None
            print(f"guard: out of time, aborting {list(held)}", file=sys.stderr, flush=True)
            for mountpoint, connection in held.items():
                abort(mountpoint, connection)
            continue
        data = os.read(0, 65536)
        if not data:
            free(held)
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            word, _, rest = os.fsdecode(line).partition(" ")
            if word == "hold":
                mountpoint, _, number = rest.rpartition(" ")
                held[mountpoint] = int(number)
            elif word == "drop":
                held.pop(rest, None)
            elif word == "begin":
                deadline = time.monotonic() + float(rest)
            else:
                deadline = None


if __name__ == "__main__":
    main()
