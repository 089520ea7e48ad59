"""Making a mount: mount(2) with a descriptor of /dev/fuse, or fusermount3, which passes one back.

Root mounts himself, in the first user namespace as in one of his own; everybody else, and a root who may not,
asks fusermount3. Invariant: when `mount` raises, nothing is mounted and no descriptor is left open. Must not
know: requests.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Final

from heliosfs.transport.errors import MountRefused
from heliosfs.transport.options import SUBTYPE

DEVICE: Final = "/dev/fuse"
_FUSERMOUNT_S: Final = 20.0
_FLAGS: Final = {
    "ro": 1 << 0,
    "nosuid": 1 << 1,
    "nodev": 1 << 2,
    "noexec": 1 << 3,
    "sync": 1 << 4,
    "dirsync": 1 << 7,
    "noatime": 1 << 10,
    "nodiratime": 1 << 11,
}
"""Options that are flags of mount(2), as in linux/mount.h."""
_REMOUNT: Final = 1 << 5
_MEANT_ANYWAY: Final = frozenset({"rw", "suid", "dev", "exec", "async", "atime", "diratime"})
_PRIVILEGED: Final = frozenset({"suid", "dev"})
_OURS: Final = frozenset({"auto_unmount"})


def mount(mountpoint: Path, options: set[str]) -> int:
    """Mount, and leave the kernel waiting for the answer to its INIT.

    Args:
        mountpoint: A directory, absolute, its symlinks resolved.
        options: From transport.options.fuse_options.

    Returns:
        The descriptor to serve, non-blocking and closed on exec.

    Raises:
        MountRefused: No /dev/fuse, no fusermount3, no permission, ...
    """
    if os.geteuid() == 0:
        fd, code = _mount_directly(mountpoint, options)
        if not code:
            if "auto_unmount" in options:
                _watched_by_fusermount(mountpoint)
            return fd
        if code != errno.EPERM:
            raise MountRefused(mountpoint, os.strerror(code))
    return _mount_by_fusermount(mountpoint, options)


def remount(mountpoint: Path, options: set[str]) -> int:
    """Give a mount that is there, by whichever transport, other flags of mount(2); the errno, 0 if it was done.

    Args:
        mountpoint: As for `mount`. The caller has made sure that it is a mount of ours: mount(2) doesn't ask.
        options: As for `mount`, and all of them: a flag that is left out is taken away.

    EBUSY: `ro`, while a file is open for writing. EPERM: not root. Source: mount(2), MS_REMOUNT.
    """
    flags, _, source = _split(options)
    libc = ctypes.CDLL(None, use_errno=True)
    # No data: FUSE takes none in a remount, and through the newer fsconfig(2) refuses it.
    words = (os.fsencode(source), os.fsencode(mountpoint), None, ctypes.c_ulong(flags | _REMOUNT), None)
    return 0 if libc.mount(*words) == 0 else ctypes.get_errno()


def _open_device(mountpoint: Path) -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MountRefused(mountpoint, f"{DEVICE}: {os.strerror(error.errno or 0)}") from None


def _mount_directly(mountpoint: Path, options: set[str]) -> tuple[int, int]:
    """mount(2). The descriptor and 0, or -1 and the errno."""
    fd = _open_device(mountpoint)
    try:
        flags, rest, source = _split(options)
        mode = stat.S_IFMT(os.stat(mountpoint).st_mode)
        words = [f"fd={fd}", f"rootmode={mode:o}", f"user_id={os.geteuid()}", f"group_id={os.getegid()}", *rest]
        libc = ctypes.CDLL(None, use_errno=True)
        done = libc.mount(
            os.fsencode(source),
            os.fsencode(mountpoint),
            b"fuse." + SUBTYPE.encode(),
            ctypes.c_ulong(flags),
            ",".join(words).encode(),
        )
        if done == 0:
            kept, fd = fd, -1
            return kept, 0
        return -1, ctypes.get_errno()
    except OSError as error:
        raise MountRefused(mountpoint, os.strerror(error.errno or 0)) from None
    finally:
        if fd >= 0:
            os.close(fd)


def _split(options: set[str]) -> tuple[int, list[str], str]:
    """Flags of mount(2), what fuse itself reads, and the source to show."""
    flags = 0
    rest = []
    source = SUBTYPE
    for option in sorted(options):
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option.startswith("fsname="):
            source = option.removeprefix("fsname=")
        elif option not in _MEANT_ANYWAY | _OURS and not option.startswith("subtype="):
            rest.append(option)
    return flags, rest, source


def _mount_by_fusermount(mountpoint: Path, options: set[str]) -> int:
    program = _fusermount(mountpoint)
    given = sorted(options - _PRIVILEGED) if os.geteuid() else sorted(options)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    # With auto_unmount fusermount3 stays, and unmounts when this end is closed: by our death, too.
    keep = "auto_unmount" in options
    with theirs:
        try:
            said, code = _run(program, ["-o", ",".join(given), "--", os.fspath(mountpoint)], theirs, wait=not keep)
            theirs.close()
            fd = _received(ours)
        except BaseException:
            ours.close()
            raise
    if fd is None:
        ours.close()
        raise MountRefused(mountpoint, said or f"{program} exits with {code}")
    if keep:
        ours.detach()
    else:
        ours.close()
    os.set_inheritable(fd, False)
    os.set_blocking(fd, False)
    return fd


def _fusermount(mountpoint: Path) -> str:
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise MountRefused(mountpoint, "fusermount3 is not installed (the package fuse3 has it)")
    return program


def _watched_by_fusermount(mountpoint: Path) -> None:
    """Have fusermount3 unmount when this process is gone, for a mount that it did not make."""
    program = _fusermount(mountpoint)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        _run(program, ["-o", "auto_unmount", "--auto-unmount", "--", os.fspath(mountpoint)], theirs, wait=False)
    ours.detach()


def _run(program: str, words: list[str], end: socket.socket, *, wait: bool) -> tuple[str, int]:
    """Start fusermount3 with its end of the socket; what it said and its exit code, if it is waited for."""
    process = subprocess.Popen(
        [program, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if wait else subprocess.DEVNULL,
        pass_fds=(end.fileno(),),
        env={**os.environ, "_FUSE_COMMFD": str(end.fileno())},
    )
    if not wait:
        process.returncode = 0
        return "", 0
    try:
        _, said = process.communicate(timeout=_FUSERMOUNT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "fusermount3 does not come back", 1
    return said.decode(errors="replace").strip().replace("\n", "; "), process.returncode


def _received(ours: socket.socket) -> int | None:
    """The descriptor that fusermount3 passes; None if it hangs up instead."""
    ours.settimeout(_FUSERMOUNT_S)
    try:
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    except (TimeoutError, ConnectionResetError):
        return None
    return fds[0] if fds else None
