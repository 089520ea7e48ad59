"""`heliosfs doctor`: says what this machine lacks and how to mend it; `--install` links what root can install.

Invariants: each check is a function that returns one finding and changes nothing; no mount is stat'ed but
those of our own type, and each of these in a child with a deadline (a dead one hangs whoever touches it).
Must not know: stores.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path

import click

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.output import local_reply, shown
from heliosfs.cli.verb import json_option, show
from heliosfs.transport.waking import DEVICE, DRIVER, shallow_us

_FUSE = "/dev/fuse"
_CONF = "/etc/fuse.conf"
_OLDEST_KERNEL = (5, 4)
_MODULES = (
    *("pyfuse3", "trio", "blake3", "lz4", "zstandard"),
    *("xattr", "rocksdict", "immutables", "pyfastcdc", "click", "rich"),
)
_SLOW_S = 2.0


@dataclass(slots=True, frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        ok: Whether all is well.
        what: What was looked at.
        found: What was found.
        mend: What to do; "" if nothing has to be done.
        needed: False: mounting works without it (it does not change the exit code).
    """

    ok: bool
    what: str
    found: str
    mend: str = ""
    needed: bool = True


def check_kernel() -> Finding:
    """The running kernel's version."""
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    return Finding(numbers >= _OLDEST_KERNEL, "kernel", release, "run Linux 5.4 or newer")


def check_device(path: str = _FUSE) -> Finding:
    """Whether /dev/fuse is there, and may be opened by this user."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Finding(False, path, "missing", f"modprobe fuse; in a container, start it with --device {path}")
    except PermissionError:
        return Finding(False, path, "permission denied", f"as root: chmod 666 {path}")
    except OSError as error:
        return Finding(False, path, str(error.strerror), "modprobe fuse")
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o006 != 0o006:
        return Finding(
            False, path, f"mode {mode:o}: for root only", f"as root, for other users: chmod 666 {path}", False
        )
    return Finding(True, path, "usable")


def check_wake_ups(device: Path = DEVICE, driver: Path = DRIVER) -> Finding:
    """Whether cores may be kept from sleeping while requests follow each other; without that each takes longer."""
    what = str(device)
    if shallow_us(driver, os.cpu_count() or 1) is None:
        return Finding(True, what, "not used on this machine")
    try:
        os.close(os.open(device, os.O_WRONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        mend = f"for quicker requests: in a container, start it with --device {device}"
        return Finding(False, what, "missing", mend, False)
    except OSError as error:
        mend = f"for quicker requests, as root: chmod 666 {device}"
        return Finding(False, what, str(error.strerror).lower(), mend, False)
    return Finding(True, what, "usable")


def check_fusermount() -> Finding:
    """Whether fusermount3 is there and set-uid root; root can do without."""
    from shutil import which

    root = os.geteuid() == 0
    path = which("fusermount3")
    if path is None:
        return Finding(False, "fusermount3", "missing", "apt-get install fuse3", not root)
    status = os.stat(path)
    if status.st_uid != 0 or not status.st_mode & stat.S_ISUID:
        return Finding(False, "fusermount3", "not set-uid root", f"as root: chmod u+s {path}", not root)
    return Finding(True, "fusermount3", path)


def check_allow_other(path: str = _CONF) -> Finding:
    """Whether users who are not root may give allow_other."""
    what = "user_allow_other"
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            on = any(line.split("#")[0].strip() == what for line in file)
    except OSError:
        on = False
    if on:
        return Finding(True, what, f"set in {path}")
    mend = f"as root, if users need -o allow_other: echo {what} >> {path}"
    return Finding(False, what, f"not set in {path}", mend, False)


def check_bubblewrap() -> Finding:
    """Whether the demonstration's sandbox is there."""
    from shutil import which

    path = which("bwrap")
    if path is None:
        return Finding(False, "bubblewrap", "missing", "apt-get install bubblewrap", False)
    return Finding(True, "bubblewrap", path)


def check_modules() -> Finding:
    """Whether the Python packages are there."""
    what = "python packages"
    missing = [name for name in _MODULES if util.find_spec(name) is None]
    if missing:
        return Finding(False, what, f"missing: {' '.join(missing)}", "run mount_scripts/quickstart")
    return Finding(True, what, "all there")


def check_mounts() -> Finding:
    """Whether each HeliosFS mount answers."""
    from heliosfs.transport.mounts import FILESYSTEM_TYPE, mounts

    found = [mount.mountpoint for mount in mounts() if mount.fstype == FILESYSTEM_TYPE]
    stale = [path for path in found if not _answers(path)]
    if stale:
        paths = " ".join(shown(path) for path in stale)
        return Finding(False, "mounts", f"without a daemon: {paths}", f"heliosfs umount {shown(stale[0])}")
    return Finding(True, "mounts", f"{len(found)} of HeliosFS, all answer" if found else "none of HeliosFS")


def _answers(path: bytes) -> bool:
    """Whether a mount answers a stat in time; EACCES is an answer."""
    import subprocess

    try:
        done = subprocess.run(
            [b"/usr/bin/stat", b"--file-system", b"--", path], capture_output=True, timeout=_SLOW_S, check=False
        )
    except (subprocess.TimeoutExpired, OSError):
        return False
    return done.returncode == 0 or b"ermission denied" in done.stderr


def check_installed() -> Finding:
    """Whether mount(8) knows the type fuse.heliosfs."""
    if os.access(_HELPER, os.X_OK):
        return Finding(True, _HELPER, "there")
    return Finding(False, _HELPER, "missing", "for fstab and mount -t: heliosfs doctor --install", False)


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_kernel,
    check_device,
    check_wake_ups,
    check_fusermount,
    check_allow_other,
    check_bubblewrap,
    check_modules,
    check_mounts,
    check_installed,
)

_HELPER = "/sbin/mount.fuse.heliosfs"
_LINKS = (
    ("mount.fuse.heliosfs", _HELPER),
    ("umount.fuse.heliosfs", "/sbin/umount.fuse.heliosfs"),
    ("heliosfs@.service", "/etc/systemd/system/heliosfs@.service"),
)


def install(prefix: str = "/") -> list[str]:
    """Link the helpers of mount(8) and umount(8) and the unit to this checkout's; a link there is replaced.

    Args:
        prefix: The root of the system to install into.

    Returns:
        What was linked.

    Raises:
        CliError: Not root, no checkout, or something else lies there.
    """
    scripts = Path(__file__).resolve().parents[2] / "mount_scripts"
    if not (scripts / "mount.fuse.heliosfs").is_file():
        raise CliError("--install needs a checkout, and this is none", "see docs/install.md")
    done = []
    for name, place in _LINKS:
        source = scripts / name
        target = Path(prefix) / place.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink():
            target.unlink()
        elif target.exists():
            raise CliError(f"{target} exists and is no link", "remove it first", Exit.CONFLICT)
        target.symlink_to(source)
        done.append(f"{target} -> {source}")
    return done


@click.command("doctor", short_help="Say what this machine lacks.")
@click.option("--install", "do_install", is_flag=True, help="Link the mount helper and the unit (root).")
@json_option
def command(do_install: bool, as_json: bool) -> int:
    """Say what this machine lacks to mount HeliosFS, and how to mend it.

    Exits 1 if something is missing that mounting needs, 14 if it is FUSE itself.
    """
    done: list[str] = []
    if do_install:
        if os.geteuid() != 0:
            raise CliError("--install needs root", "sudo heliosfs doctor --install", errno_name="EPERM")
        done = install()
    findings = [check() for check in CHECKS]
    bad = [finding for finding in findings if not finding.ok and finding.needed]
    lines = [f"linked {line}" for line in done]
    for finding in findings:
        mark = "ok  " if finding.ok else "BAD " if finding.needed else "note"
        tail = f"; {finding.mend}" if finding.mend and not finding.ok else ""
        lines.append(f"{mark} {finding.what}: {finding.found}{tail}")
    code = Exit.OK
    if bad:
        code = Exit.NO_FUSE if any(f.what in (_FUSE, "fusermount3") for f in bad) else Exit.ERROR
    reply = local_reply("doctor", findings=[asdict(finding) for finding in findings], installed=done)
    if bad:
        reply.update(ok=False, error=f"{bad[0].what}: {bad[0].found}", exit=int(code))
    show(reply, lines, as_json)
    return int(code)
