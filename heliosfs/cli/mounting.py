"""Starting and ending mounts, for the verbs mount and umount and for the mount helper.

Invariants: the daemon's errors become `CliError` here; a new store appears under its name only when its
import is complete. Must not know: command line options.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from cas.lock import is_held
from heliosfs.cli.client import DaemonGone, Progress, connect
from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.output import Reply, shown
from heliosfs.cli.stores import create
from heliosfs.daemon.options import MountOptions
from heliosfs.transport.mounts import mount_at

_ID = b"user.helios.id"
_CLOSING_S: Final = 120.0
"""umount(8) returns before the daemon has stored what is new; on a busy host that may take this long."""
_LOOK_S: Final = 0.02
_SILENT_S: Final = 1.0


def unmount(mountpoint: bytes, *, lazy: bool = False, force: bool = False) -> None:
    """End a mount; returns when its daemon is gone.

    Args:
        lazy: Detach it at once, even while it is in use; returns before the daemon is gone.
        force: End its connection first, as root; whoever waits for the daemon gets an error, we do not wait.

    Raises:
        CliError: Nothing of ours is mounted there, or it is in use, or it can't be ended (exit 1). It is unmounted,
            but what was new is not stored (15).
    """
    from heliosfs.daemon import mountpoint as mountpoints
    from heliosfs.daemon.errors import DaemonError

    try:
        mountpoints.unmount(Path(os.fsdecode(mountpoint)), lazy=lazy, force=force)
    except DaemonError as error:
        raise CliError(error.message, code=error.exit_code) from error


def check_mountpoint(mountpoint: bytes, options: MountOptions) -> None:
    """Refuse a mountpoint that can't be one, before long work is done for it; clear a dead mount from it.

    Raises:
        CliError: It does not exist, is no directory, or is not empty.
    """
    from heliosfs.daemon import mountpoint as mountpoints
    from heliosfs.daemon.errors import DaemonError

    try:
        mountpoints.prepare(Path(os.fsdecode(mountpoint)), nonempty=options.nonempty)
    except DaemonError as error:
        raise CliError(error.message, code=error.exit_code) from error


class _Ending(Exception):
    """The daemon that serves the store is about to end."""


def join_daemon(store: bytes, mountpoint: bytes, options: MountOptions) -> bool:
    """Ask the daemon that serves the store, if there is one, for one more mountpoint.

    One that has just been unmounted and still has something to store is waited for, with a line on stderr.

    Returns:
        Whether there is one, and it is mounted now.

    Raises:
        CliError: It won't: exit 11 on pyfuse3, which has one mountpoint in a process (the message says where
            the branch can be seen instead); 1 or 3 as for a first mount.
    """
    began = time.monotonic()
    told = False
    while True:
        try:
            if _joined(store, mountpoint, options):
                return True
            ending = is_held(Path(os.fsdecode(store)) / "lock")
        except (_Ending, DaemonGone):
            ending = True
        passed = time.monotonic() - began
        if not ending or passed > _CLOSING_S:
            return False
        if passed > _SILENT_S and not told:
            print(f"heliosfs: {shown(store)}: waiting for the process that is closing it", file=sys.stderr)
            told = True
        time.sleep(_LOOK_S)


def _joined(store: bytes, mountpoint: bytes, options: MountOptions) -> bool:
    """One attempt.

    Returns:
        False where no daemon answers.

    Raises:
        CliError: It won't: exit 11 on pyfuse3, which has one mountpoint in a process (the message says where
            the branch can be seen instead); 1 or 3 as for a first mount.
    """
    client = connect(store)
    if client is None:
        return False
    with client:
        known = client.ask(["ping"])
        if known.get("transport") == "pyfuse3":
            there = known.get("mountpoint")
            if not isinstance(there, str) or mount_at(Path(there)) is None:
                raise _Ending
            raise _one_mountpoint(store, there, options.branch)
        path = os.path.realpath(os.fsdecode(mountpoint))
        reply = client.ask(["mount", path, options.to_json()])
    if reply.get("ending"):
        raise _Ending
    if not reply.get("ok"):
        code = reply.get("exit")
        raise CliError(str(reply.get("error")), code=code if isinstance(code, int) else Exit.ERROR)
    return True


def _one_mountpoint(store: bytes, mountpoint: str, branch: str) -> CliError:
    where = inside_mount(mountpoint, branch)
    if where is None:
        remedy = "unmount it first, or use what is mounted"
    else:
        remedy = f"branch {branch} is {where}: use that, or mount --bind it"
    return CliError(
        f"{shown(store)}: mounted at {mountpoint} already",
        remedy,
        Exit.LOCKED,
        extra={"mountpoint": mountpoint, "path": where},
    )


def inside_mount(mountpoint: str, branch: str) -> str | None:
    """Where a branch can be seen below a mount; None if it can't (the mount shows another branch's tree)."""
    mounted = branch_at(os.fsencode(mountpoint))
    if mounted is None or branch == mounted:
        return None if mounted is None else mountpoint
    if not branch.startswith(mounted + "/"):
        return None
    names = branch[len(mounted) + 1 :].split("/")
    return mountpoint.rstrip("/") + "".join(f"/.helios/branches/{name}" for name in names)


def branch_at(root: bytes) -> str | None:
    """The path of the branch whose root this directory is ("main/exp"); None if it can't be read."""
    try:
        identity = os.getxattr(root, _ID)
    except OSError:
        return None
    branch, separator, _ = identity.rpartition(b"@now:")
    return os.fsdecode(branch) if separator else None


def start(store: bytes, mountpoint: bytes, options: MountOptions, *, foreground: bool = False) -> None:
    """Mount a store. Returns when the mount is live; in the foreground, when it has ended.

    Where a daemon serves the store already, that one serves the new mountpoint, too, and this returns at once.

    Raises:
        CliError: Exit 10 to 14 as documented, 1 for the rest.
    """
    from heliosfs.daemon import spawn
    from heliosfs.daemon.errors import DaemonError
    from heliosfs.daemon.room import fitted, memory_limit

    if join_daemon(store, mountpoint, options):
        return
    options = fitted(options, memory_limit())
    run = _in_foreground if foreground else spawn.start
    try:
        run(Path(os.fsdecode(store)), Path(os.fsdecode(mountpoint)), options)
    except DaemonError as error:
        raise CliError(error.message, code=error.exit_code) from error
    if not foreground:
        _open_once(mountpoint)


def _open_once(mountpoint: bytes) -> None:
    """Open a file there, so that the kernel hears that it need not ask: until then each new file has a RELEASE."""
    with suppress(OSError):
        os.close(os.open(os.path.join(mountpoint, b".helios/ctl"), os.O_RDONLY | os.O_CLOEXEC))


def _in_foreground(store: Path, mountpoint: Path, options: MountOptions) -> None:
    """Be the daemon."""
    from heliosfs.daemon.errors import DaemonError
    from heliosfs.daemon.mountpoint import prepare
    from heliosfs.daemon.readiness import Announcer
    from heliosfs.daemon.run import run
    from heliosfs.daemon.supervisor import Supervisor

    ready = prepare(mountpoint, nonempty=options.nonempty)
    if options.outlives_its_process:
        code = Supervisor(os.fspath(store.resolve()), os.fspath(ready), options.to_json(), foreground=True).run()
        if code:
            raise DaemonError(code, "the mount has ended; the reason is above")
        return
    run(store.resolve(), ready, options, announcer=Announcer(None), foreground=True)


def make_from(store: bytes, directory: bytes, progress: Progress) -> Reply:
    """Make a store that holds a directory: all of it, or nothing that anybody sees.

    Returns:
        The import's reply.

    Raises:
        CliError: The import failed; nothing is left of it.
    """
    from heliosfs.cli.offline import import_directory

    fresh = b"%s.new-%d" % (store, os.getpid())
    try:
        create(fresh)
        reply = import_directory(fresh, directory, "main", progress)
        os.rename(fresh, store)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return reply
