"""mount.fuse.heliosfs: what mount(8) runs for `mount -t fuse.heliosfs STORE DIR` and for fstab.

Invariants: mount(8)'s calling convention and its exit codes (0 mounted, 1 usage, 32 failed).
Must not know: click.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.helping import exit_code, split_words
from heliosfs.cli.options import parse
from heliosfs.cli.output import shown
from heliosfs.daemon.options import MountOptions

_USAGE_LINE = "usage: mount.fuse.heliosfs STORE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]"

_SHOWN = ("user_id=", "group_id=", "max_read=", "blksize=")
"""Options that /proc/mounts shows of a FUSE mount; mount(8) adds all that are shown there to those of a remount."""


class Request:
    """One call of the helper, parsed.

    Attributes:
        source: The store; `fuse.heliosfs#STORE` and `heliosfs#STORE`, as old fstabs have it, are STORE.
        target: The mountpoint.
        options: Of all -o.
        fake: mount -f: do all but mount.
        verbose: mount -v.
        remount: Change the flags of the mount that is there.
    """

    __slots__ = ("fake", "options", "remount", "source", "target", "verbose")

    def __init__(
        self, source: bytes, target: bytes, options: MountOptions, fake: bool, verbose: bool, remount: bool
    ) -> None:
        self.source = source
        self.target = target
        self.options = options
        self.fake = fake
        self.verbose = verbose
        self.remount = remount


def read_words(words: Sequence[str]) -> Request:
    """mount(8)'s words: SRC TARGET [-sfnv] [-N ns] [-o opts] [-t type], options anywhere, flags joined or not.

    Raises:
        CliError: They are not like that, or hold an unknown mount option (exit 2).
    """
    places, flags, groups = split_words(words, "sfnv", "oNt", _USAGE_LINE)
    if len(places) != 2:
        raise CliError("a store and a mountpoint are needed", _USAGE_LINE, Exit.USAGE)
    source = os.fsencode(places[0])
    for prefix in (b"fuse.heliosfs#", b"heliosfs#"):
        source = source.removeprefix(prefix)
    options = [word.strip() for group in groups for word in group.split(",")]
    remount = "remount" in options
    if remount:
        options = [word for word in options if word != "remount" and not word.startswith(_SHOWN)]
    parsed = parse(options, sloppy="s" in flags)
    return Request(source, os.fsencode(places[1]), parsed, "f" in flags, "v" in flags, remount)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one mount; gives mount(8)'s exit code."""
    return exit_code("mount.fuse.heliosfs", lambda: _mount(sys.argv[1:] if argv is None else argv))


def _mount(words: Sequence[str]) -> str:
    from heliosfs.cli import mounting
    from heliosfs.cli.backend import no_store
    from heliosfs.cli.stores import is_store

    request = read_words(words)
    store = os.path.join(os.getcwdb(), request.source)
    mountpoint = os.path.join(os.getcwdb(), request.target)
    if request.remount:
        if not request.fake:
            _remount(mountpoint, request.options)
        return f"{shown(mountpoint)} remounted" if request.verbose else ""
    if not is_store(store):
        raise no_store(store)
    mounting.check_mountpoint(mountpoint, request.options)
    if not request.fake:
        mounting.start(store, mountpoint, request.options)
    return f"{shown(store)} mounted on {shown(mountpoint)}" if request.verbose else ""


def _remount(mountpoint: bytes, options: MountOptions) -> None:
    """Change the flags; what the daemon was started with stays, as mount(8) names fstab's options in any case.

    Raises:
        CliError: No mount of ours is there, or the kernel refuses (exit 1).
    """
    from heliosfs.transport.kernel.mount import remount
    from heliosfs.transport.mounts import mount_at
    from heliosfs.transport.options import fuse_options

    place = Path(os.fsdecode(os.path.realpath(mountpoint)))
    mounted = mount_at(place)
    if mounted is None:
        raise CliError(f"{shown(mountpoint)}: no HeliosFS is mounted here", "leave remount out to mount it")
    store = Path(os.fsdecode(mounted.source))
    code = remount(place, fuse_options(store, options.flags, privileged=os.geteuid() == 0))
    if code == errno.EBUSY:
        raise CliError(f"{shown(mountpoint)}: a file is open for writing", "fuser -vm shows by whom")
    if code:
        raise CliError(f"{shown(mountpoint)}: {os.strerror(code)}", "only root can remount")


if __name__ == "__main__":
    sys.exit(main())
