"""umount.fuse.heliosfs: ends a mount as umount(8) asks its helpers to, and returns when its daemon is gone.

systemd's unit runs it, and umount(8) with -a, -l or -f. A plain umount(8) does not: libmount takes the type from
statfs(2), which is "fuse", and a helper of that name would be everybody's (util-linux 2.38).

Invariants: umount(8)'s calling convention and its exit codes (0 unmounted, 1 usage, 32 failed, or unmounted but not
stored: the line says which); never runs umount(8), which would run this. Must not know: click.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.helping import exit_code, split_words
from heliosfs.cli.output import shown

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
    places, flags, _ = split_words(words, "nlfvr", "Nt", _USAGE_LINE)
    if len(places) != 1:
        raise CliError("a mountpoint is needed", _USAGE_LINE, Exit.USAGE)
    return Request(os.fsencode(places[0]), "l" in flags, "f" in flags, "v" in flags)


def main(argv: Sequence[str] | None = None) -> int:
    """End one mount; gives umount(8)'s exit code."""
    return exit_code("umount.fuse.heliosfs", lambda: _unmount(sys.argv[1:] if argv is None else argv))


def _unmount(words: Sequence[str]) -> str:
    from heliosfs.cli import mounting

    request = read_words(words)
    target = os.path.join(os.getcwdb(), request.target)
    mounting.unmount(target, lazy=request.lazy, force=request.force)
    return f"{shown(target)} unmounted" if request.verbose else ""


if __name__ == "__main__":
    sys.exit(main())
