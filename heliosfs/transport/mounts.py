"""What the kernel says of mounts: /proc/self/mountinfo, and the knobs of one FUSE connection.

Invariant: nothing here touches a path below a mountpoint. A stat of our own mount from the process that
serves it would wait for itself. Must not know: sessions, the store.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

MOUNTINFO: Final = "/proc/self/mountinfo"
FILESYSTEM_TYPE: Final = b"fuse.heliosfs"
MNT_FORCE: Final = 1
"""With it umount2 of a FUSE mount aborts its connection, as fusectl does, even if it then says EBUSY."""
MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_FUSERMOUNT_S: Final = 20.0
_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
_BDI: Final = Path("/sys/class/bdi")
_READ_AHEAD_KB: Final = 1024
"""The largest READ. The default of 128 KiB makes eight requests of what can be one."""
_BACKGROUND: Final = 64
"""Read-ahead requests in flight; 12 by default, which one sequential reader of cold data uses up."""

_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo(5)."""

    major: int
    minor: int
    root: bytes
    mountpoint: bytes
    options: bytes
    fstype: bytes
    source: bytes

    @property
    def connection(self) -> int:
        """Number of a FUSE mount's connection, as in /sys/fs/fuse/connections."""
        return self.major << 20 | self.minor


def parse_mountinfo(text: bytes) -> list[Mount]:
    """The mounts in the order in which the kernel lists them; lines we can't read are left out."""
    found = []
    for line in text.splitlines():
        left, separator, right = line.partition(b" - ")
        fields = left.split(b" ")
        tail = right.split(b" ")
        if not separator or len(fields) < 6 or len(tail) < 2:
            continue
        major, _, minor = fields[2].partition(b":")
        found.append(
            Mount(
                int(major),
                int(minor),
                unescape(fields[3]),
                unescape(fields[4]),
                fields[5],
                tail[0],
                unescape(tail[1]),
            )
        )
    return found


def unescape(field: bytes) -> bytes:
    r"""A field of mountinfo with its octal escapes (`\040` for a space) undone."""
    return _OCTAL.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), field) if b"\\" in field else field


def mounts() -> list[Mount]:
    """All mounts that this process sees. O(mounts); never waits for a filesystem."""
    with open(MOUNTINFO, "rb") as file:
        return parse_mountinfo(file.read())


def mount_at(mountpoint: Path, fstype: bytes | None = FILESYSTEM_TYPE) -> Mount | None:
    """The uppermost mount at exactly this path, or None.

    Args:
        mountpoint: An absolute path, its parents resolved. It is compared, never opened.
        fstype: Only a mount of this type; None: any.
    """
    wanted = os.fsencode(mountpoint)
    for mount in reversed(mounts()):
        if mount.mountpoint == wanted:
            return mount if fstype is None or mount.fstype == fstype else None
    return None


def abort(connection: int) -> None:
    """End a FUSE connection: everything that waits for it gets ECONNABORTED, or ENOTCONN.

    Raises:
        OSError: fusectl is not mounted, or the connection has ended (ENOENT); not ours (EACCES).
    """
    _write(_CONNECTIONS / str(connection) / "abort", b"1")


def umount(mountpoint: Path, flags: int) -> int:
    """umount2(2), as root; the errno, 0 if it was done. The mountpoint is not followed, nor asked for anything."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), flags | _UMOUNT_NOFOLLOW) == 0:
        return 0
    return ctypes.get_errno()


def unmount_once(path: Path, *, lazy: bool) -> str | None:
    """Unmount, as root by umount2(2), else through fusermount3 (up to 20 s); the reason if it was refused.

    Args:
        lazy: Take it out of the tree at once, even while it is in use.
    """
    if os.geteuid() == 0:
        code = umount(path, MNT_DETACH if lazy else 0)
        return None if code == 0 else os.strerror(code)
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        return "fusermount3 is not installed"
    command = [program, "-u", *(["-z"] if lazy else []), "--", os.fspath(path)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_FUSERMOUNT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "fusermount3 does not come back"
    if done.returncode == 0:
        return None
    return done.stderr.decode(errors="replace").strip() or f"fusermount3 exits with {done.returncode}"


def tune(mount: Mount) -> list[str]:
    """Set what can only be set from outside, once INIT has been answered: read-ahead and queue length.

    Returns:
        What could not be set, and why (without root: both). They cost speed, nothing else.
    """
    refused = []
    knobs = (
        (_BDI / f"{mount.major}:{mount.minor}" / "read_ahead_kb", _READ_AHEAD_KB),
        (_CONNECTIONS / str(mount.connection) / "max_background", _BACKGROUND),
        (_CONNECTIONS / str(mount.connection) / "congestion_threshold", _BACKGROUND * 3 // 4),
    )
    for path, value in knobs:
        try:
            _write(path, b"%d" % value)
        except OSError as error:
            refused.append(f"{path}: {error.strerror}")
    return refused


def _write(path: Path, value: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)
