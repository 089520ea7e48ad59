"""mount.fuse.heliosfs: what mount(8) runs for `mount -t fuse.heliosfs STORE DIR` and for fstab.

Invariants: mount(8)'s calling convention and its exit codes (0 mounted, 1 usage, 32 failed).
Must not know: click.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.helping import exit_code, split_words
from heliosfs.cli.options import parse
from heliosfs.cli.output import shown
from heliosfs.daemon.options import MountOptions

_USAGE_LINE = "usage: mount.fuse.heliosfs STORE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]"


class Request:
    """One call of the helper, parsed.

    Attributes:
        source: The store; `fuse.heliosfs#STORE` and `heliosfs#STORE`, as old fstabs have it, are STORE.
        target: The mountpoint.
        options: Of all -o.
        fake: mount -f: do all but mount.
        verbose: mount -v.
    """

    __slots__ = ("fake", "options", "source", "target", "verbose")

    def __init__(self, source: bytes, target: bytes, options: MountOptions, fake: bool, verbose: bool) -> None:
        self.source = source
        self.target = target
        self.options = options
        self.fake = fake
        self.verbose = verbose


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
    options = parse(groups, sloppy="s" in flags)
    return Request(source, os.fsencode(places[1]), options, "f" in flags, "v" in flags)


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
    if not is_store(store):
        raise no_store(store)
    mounting.check_mountpoint(mountpoint, request.options)
    if not request.fake:
        mounting.start(store, mountpoint, request.options)
    return f"{shown(store)} mounted on {shown(mountpoint)}" if request.verbose else ""


if __name__ == "__main__":
    sys.exit(main())
