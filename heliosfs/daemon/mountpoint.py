"""Mountpoints from outside: may this directory be one, is a dead one in the way, and how to be rid of a
mount.

Runs in the command line's process. Invariant: nothing blocks on a filesystem whose daemon does not answer:
whatever touches a FUSE mount does so in a thread that is given up. Must not know: the store's inside.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from heliosfs.daemon.errors import CONFLICT, FAILED, NO_FUSE, DaemonError
from heliosfs.transport.mounts import FILESYSTEM_TYPE, Mount, mount_at, mounts, unmount_once

_ANSWER_S: Final = 5.0
_STALE_DEPTH: Final = 16


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
                raise DaemonError(FAILED, f"{path}: {os.fsdecode(store_of(mount))} is mounted there already")
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


def unmount(mountpoint: Path, *, lazy: bool = False, timeout_s: float = 60.0) -> None:
    """Unmount, and return when the daemon has stored what it had to and has gone, if this was its last mount.

    Args:
        lazy: Detach at once, even while files are open; the daemon goes when the last one is closed.
        timeout_s: How long to wait for the daemon; its last cut may take a while.

    Raises:
        DaemonError: Exit 3: busy (the message says who holds it). Exit 1: not a mount of ours, no permission,
            or the daemon is still at work after `timeout_s`.
    """
    path = Path(os.path.realpath(mountpoint))
    mount = mount_at(path)
    if mount is None:
        raise DaemonError(FAILED, f"{path}: nothing of heliosfs is mounted there")
    process = _daemon_of(Path(os.fsdecode(store_of(mount))))
    try:
        trouble = unmount_once(path, lazy=lazy)
        if trouble is not None:
            raise DaemonError(CONFLICT if "busy" in trouble else FAILED, _unmount_refusal(path, trouble))
        if process is not None and not lazy and not _others(mount) and not _wait_gone(process, timeout_s):
            waited = f"{timeout_s:.0f} s"
            raise DaemonError(FAILED, f"{path} is unmounted, but its daemon still writes after {waited}")
    finally:
        if process is not None:
            os.close(process)


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


def _daemon_of(store: Path) -> int | None:
    """A pidfd of the process that has the store open, or None if that can't be found out."""
    try:
        return os.pidfd_open(int((store / "lock").read_text().split()[0]))
    except (OSError, ValueError, IndexError):
        return None


def _wait_gone(process: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
