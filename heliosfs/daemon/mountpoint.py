"""Mountpoints from outside: may this directory be one, is a dead one in the way, and how to be rid of a
mount.

Runs in the command line's process. Invariant: nothing blocks on a filesystem whose daemon does not answer:
whatever touches a FUSE mount does so in a thread that is given up. Must not know: the store's inside.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from cas.lock import is_held, left_in_order
from heliosfs.daemon.address import socket_address
from heliosfs.daemon.errors import CONFLICT, FAILED, NO_FUSE, UNSTORED, DaemonError
from heliosfs.transport.mounts import FILESYSTEM_TYPE, MNT_FORCE, Mount, mount_at, mounts, umount, unmount_once

_ANSWER_S: Final = 5.0
_STALE_DEPTH: Final = 16
_MOMENT_S: Final = 1.0
_LOOK_S: Final = 0.02


def prepare(mountpoint: Path, *, nonempty: bool = False) -> Path:
    """Check a directory and clear what a dead daemon has left there.

    Returns:
        Its absolute path without symlinks.

    Raises:
        DaemonError: Exit 1: it does not exist, is no directory, is not empty (without `nonempty`), is a mount
            already; 14: its dead mount can't be removed.
    """
    path = Path(os.path.realpath(mountpoint))
    for _ in range(_STALE_DEPTH):
        mount = mount_at(path, None)
        if mount is None or not mount.fstype.startswith(b"fuse"):
            break
        trouble = _stat_errno(path)
        if trouble is None:
            raise DaemonError(FAILED, f"{path}: what is mounted there does not answer; unmount it first")
        if trouble not in (errno.ENOTCONN, errno.ECONNABORTED):
            if mount.fstype == FILESYSTEM_TYPE:
                how = "there, and answers EIO; unmount it first" if trouble == errno.EIO else "there already"
                raise DaemonError(FAILED, f"{path}: {os.fsdecode(store_of(mount))} is mounted {how}")
            break
        _detach(path)
    try:
        with os.scandir(path) as entries:
            first = next(entries, None)
    except NotADirectoryError:
        raise DaemonError(FAILED, f"mountpoint {path} is not a directory") from None
    except OSError as error:
        raise DaemonError(FAILED, f"mountpoint {path}: {os.strerror(error.errno or 0)}") from None
    if first is not None and not nonempty:
        raise DaemonError(
            FAILED, f"mountpoint {path} is not empty (it holds {first.name!r}); -o nonempty mounts over it"
        )
    return path


def is_stale(mountpoint: Path) -> bool:
    """Whether a FUSE mount is there whose daemon is dead (ENOTCONN)."""
    path = Path(os.path.realpath(mountpoint))
    mount = mount_at(path, None)
    return mount is not None and mount.fstype.startswith(b"fuse") and _stat_errno(path) == errno.ENOTCONN


def store_of(mount: Mount) -> bytes:
    """The store that a mount of ours shows as its source."""
    return unquote_to_bytes(mount.source)


def unmount(mountpoint: Path, *, lazy: bool = False, force: bool = False, timeout_s: float = 60.0) -> None:
    """Unmount, and return when the daemon has stored what it had to and has gone, if this was its last mount.

    Args:
        lazy: Detach at once, even while files are open; the daemon goes when the last one is closed.
        force: As root, end the connection first: for a daemon that does not answer. It is not waited for.
        timeout_s: How long to wait for the daemon; its last cut may take a while.

    Raises:
        DaemonError: Exit 3: busy (the message says who holds it). Exit 1: not a mount of ours, no permission,
            or the daemon is still at work after `timeout_s`. Exit 15: unmounted, but whoever served it has died or
            given up, or could not store what was new.
    """
    path = Path(os.path.realpath(mountpoint))
    mount = mount_at(path)
    if mount is None:
        raise DaemonError(FAILED, f"{path}: nothing of heliosfs is mounted there")
    store = Path(os.fsdecode(store_of(mount)))
    processes = [] if lazy or force else _processes_of(store)
    try:
        if force and os.geteuid() == 0:
            # It aborts the connection even where it says EBUSY then.
            umount(path, MNT_FORCE)
            if mount_at(path) is None:
                return
        trouble = _unmount(path, mount, lazy)
        if trouble is not None:
            raise DaemonError(CONFLICT if "busy" in trouble else FAILED, _unmount_refusal(path, trouble))
        until = time.monotonic() + timeout_s
        if lazy or force or _others(mount):
            return
        if not (_wait_gone(processes, until) and _wait_closed(path, mount, store / "lock", until)):
            waited = f"{timeout_s:.0f} s"
            raise DaemonError(FAILED, f"{path} is unmounted, but its daemon still writes after {waited}")
    finally:
        for process in processes:
            os.close(process)


def _unmount(path: Path, mount: Mount, lazy: bool) -> str | None:
    """Unmount. What is in use by nobody to be seen is tried again for a second: whoever looks at all mounts, or at
    all processes, holds each for a moment. The reason, if it was refused."""
    until = time.monotonic() + _MOMENT_S
    while True:
        trouble = unmount_once(path, lazy=lazy)
        if trouble is None or "busy" not in trouble or time.monotonic() > until or holders(path, mount):
            return trouble
        time.sleep(_MOMENT_S / 20)


def holders(mountpoint: Path, mount: Mount) -> list[str]:
    """Who keeps a mount busy, as "name (pid)", as far as this user may see. O(processes).

    Reads /proc alone.
    """
    prefix = os.fsencode(mountpoint)
    device = b"%02x:%02x" % (mount.major, mount.minor)
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if _holds(entry.path, prefix, device):
                name = Path(entry.path, "comm").read_text(errors="replace").strip()
                found.append(f"{name} ({entry.name})")
        except OSError:
            continue
    return found


def _holds(process: str, prefix: bytes, device: bytes) -> bool:
    links = [f"{process}/cwd", f"{process}/root", f"{process}/exe"]
    links += [f"{process}/fd/{name}" for name in os.listdir(f"{process}/fd")]
    for link in links:
        try:
            target = os.readlink(os.fsencode(link))
        except OSError:
            continue
        if target == prefix or target.startswith(prefix + b"/"):
            return True
    with open(f"{process}/maps", "rb") as maps:
        return any(line.split(b" ", 5)[3] == device for line in maps)


def _stat_errno(path: Path) -> int | None:
    """The errno of a statfs, 0 if it succeeds, None if it gives no answer.

    A stat won't do: the kernel answers it from its cache, whether the daemon lives or not.
    """
    answers: list[int] = []

    def ask() -> None:
        try:
            os.statvfs(path)
            answers.append(0)
        except OSError as error:
            answers.append(error.errno or errno.EIO)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_S)
    return answers[0] if answers else None


def _detach(path: Path) -> None:
    trouble = unmount_once(path, lazy=True)
    if trouble is not None:
        raise DaemonError(NO_FUSE, f"{path} has a dead mount that can't be removed: {trouble}")


def _unmount_refusal(path: Path, trouble: str) -> str:
    mount = mount_at(path)
    if mount is None or "busy" not in trouble:
        return f"can't unmount {path}: {trouble}"
    users = holders(path, mount)
    who = f" by {', '.join(users[:5])}{' and others' if len(users) > 5 else ''}" if users else ""
    return f"can't unmount {path}: it is in use{who}; --lazy detaches it now"


def _others(mount: Mount) -> bool:
    """Whether the same daemon serves further mountpoints, which keep it alive."""
    return any(other.fstype == FILESYSTEM_TYPE and other.source == mount.source for other in mounts())


def _processes_of(store: Path) -> list[int]:
    """Pidfds of who has the store open and of who supervises that process, as far as they can be found."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        found.append(os.pidfd_open(int((store / "lock").read_text().split()[0])))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found.append(os.pidfd_open(int(_ping(store)["pid"])))
    return found


def _ping(store: Path) -> dict[str, Any]:
    """What the daemon says of itself, in 5 s. Raises OSError, ValueError: there is none, or it does not answer."""
    with socket_address(store) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_S)
        connection.connect(address)
        connection.sendall(json.dumps({"argv": ["ping"], "branch": None, "cwd_path": None}).encode() + b"\n")
        with connection.makefile("rb") as lines:
            return dict(json.loads(lines.readline()))


def _wait_closed(path: Path, mount: Mount, lock: Path, until: float) -> bool:
    """Return when nobody has the store open, or it is mounted anew. False: not in time.

    There may be somebody whom we did not know of: who goes on for a worker that died in the middle of it.

    Raises:
        DaemonError: Exit 15: it was not closed in good order; or not yet, by who is in another pid namespace. Who
            may not look can't say so.
    """
    with contextlib.suppress(OSError):
        while True:
            # Looked at first: it may be closed meanwhile.
            held = is_held(lock)
            if left_in_order(lock) or _others(mount):
                break
            if not held:
                raise DaemonError(
                    UNSTORED,
                    f"{path} is unmounted, but what was new is not stored yet: its daemon has died, given up or "
                    f"failed, or can't be seen from here; nothing acknowledged is lost, the log in {lock.parent} "
                    "has it, and the next mount stores it (daemon.log there says more)",
                )
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_S)
    return True


def _wait_gone(processes: Iterable[int], until: float) -> bool:
    for process in processes:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if not poll.poll(1000 * max(0.0, until - time.monotonic())):
            return False
    return True
