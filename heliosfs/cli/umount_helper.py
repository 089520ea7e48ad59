"""umount.fuse.heliosfs: ends a mount as umount(8) asks its helpers to, and returns when its daemon is gone.

systemd's unit runs it, and umount(8) with -a, -l or -f. A plain umount(8) does not: libmount takes the type from
statfs(2), which is "fuse", and a helper of that name would be everybody's (util-linux 2.38).

Invariants: umount(8)'s calling convention and its exit codes (0 unmounted, 1 usage, 32 failed); never runs
umount(8), which would run this. Must not know: click.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.output import shown

USAGE = 1
FAILED = 32
_USAGE_LINE = "usage: umount.fuse.heliosfs MOUNTPOINT [-nlfvr] [-N NAMESPACE] [-t TYPE]"


class Request(NamedTuple):
    """One call of the helper, parsed.

    Attributes:
        lazy: umount -l: detach it at once, and wait for nobody.
        force: umount -f: end the connection first; for a daemon that does not answer, which is not waited for.
        verbose: umount -v.
    """

    target: bytes
    lazy: bool
    force: bool
    verbose: bool


def read_words(words: Sequence[str]) -> Request:
    """umount(8)'s words: TARGET [-nlfvr] [-N ns] [-t type]; -n says nothing here, -r is umount(8)'s own affair.

    Raises:
        CliError: They are not like that (exit 2).
    """
    places: list[str] = []
    flags: set[str] = set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            places.append(word)
            continue
        for at, letter in enumerate(word[1:], 1):
            if letter in "Nt":
                if not word[at + 1 :] and not rest:
                    raise CliError(f"option -{letter} needs a value", _USAGE_LINE, Exit.USAGE)
                if not word[at + 1 :]:
                    rest.pop(0)
                break
            if letter not in "nlfvr":
                raise CliError(f"unknown option -{letter}", _USAGE_LINE, Exit.USAGE)
            flags.add(letter)
    if len(places) != 1:
        raise CliError("a mountpoint is needed", _USAGE_LINE, Exit.USAGE)
    return Request(os.fsencode(places[0]), "l" in flags, "f" in flags, "v" in flags)


def main(argv: Sequence[str] | None = None) -> int:
    """End one mount; gives umount(8)'s exit code."""
    from heliosfs.cli import mounting

    try:
        request = read_words(sys.argv[1:] if argv is None else argv)
        target = os.path.join(os.getcwdb(), request.target)
        mounting.unmount(target, lazy=request.lazy, force=request.force)
        if request.verbose:
            print(f"umount.fuse.heliosfs: {shown(target)} unmounted")
    except CliError as error:
        print(error.line().replace("heliosfs:", "umount.fuse.heliosfs:", 1), file=sys.stderr)
        return USAGE if error.code == Exit.USAGE else FAILED
    except Exception as error:
        print(f"umount.fuse.heliosfs: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
