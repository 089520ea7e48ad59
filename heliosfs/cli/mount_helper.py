"""mount.fuse.heliosfs: what mount(8) runs for `mount -t fuse.heliosfs STORE DIR` and for fstab.

Invariants: mount(8)'s calling convention and its exit codes (0 mounted, 1 usage, 32 failed).
Must not know: click.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.options import parse
from heliosfs.cli.output import shown
from heliosfs.daemon.options import MountOptions

USAGE = 1
FAILED = 32
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
    places: list[str] = []
    groups: list[str] = []
    flags: set[str] = set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            places.append(word)
            continue
        for at, letter in enumerate(word[1:], 1):
            if letter in "oNt":
                value = word[at + 1 :] or (rest.pop(0) if rest else None)
                if value is None:
                    raise CliError(f"option -{letter} needs a value", _USAGE_LINE, Exit.USAGE)
                if letter == "o":
                    groups.append(value)
                break
            if letter not in "sfnv":
                raise CliError(f"unknown option -{letter}", _USAGE_LINE, Exit.USAGE)
            flags.add(letter)
    if len(places) != 2:
        raise CliError("a store and a mountpoint are needed", _USAGE_LINE, Exit.USAGE)
    source = os.fsencode(places[0])
    for prefix in (b"fuse.heliosfs#", b"heliosfs#"):
        source = source.removeprefix(prefix)
    options = parse(groups, sloppy="s" in flags)
    return Request(source, os.fsencode(places[1]), options, "f" in flags, "v" in flags)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one mount; gives mount(8)'s exit code."""
    from heliosfs.cli import mounting
    from heliosfs.cli.backend import no_store
    from heliosfs.cli.stores import is_store

    try:
        request = read_words(sys.argv[1:] if argv is None else argv)
        store = os.path.join(os.getcwdb(), request.source)
        mountpoint = os.path.join(os.getcwdb(), request.target)
        if not is_store(store):
            raise no_store(store)
        mounting.check_mountpoint(mountpoint, request.options)
        if not request.fake:
            mounting.start(store, mountpoint, request.options)
        if request.verbose:
            print(f"mount.fuse.heliosfs: {shown(store)} mounted on {shown(mountpoint)}")
    except CliError as error:
        print(error.line().replace("heliosfs:", "mount.fuse.heliosfs:", 1), file=sys.stderr)
        return USAGE if error.code == Exit.USAGE else FAILED
    except Exception as error:
        print(f"mount.fuse.heliosfs: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
