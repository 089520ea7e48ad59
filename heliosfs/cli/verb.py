"""What every verb shares: the --json switch, -C / --store / --branch, and how a reply is shown.

Invariants: a verb's function returns the reply and the lines for people; only this module prints them.
Must not know: any single verb.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import click

from heliosfs.cli.exits import CliError, exit_of
from heliosfs.cli.output import Reply, write_json, write_lines

PATH = click.Path(path_type=bytes)
"""A path as bytes, neither checked nor decoded."""


class Name(click.types.StringParamType):
    """A name of a branch or snapshot, or a path inside one: kept as it came (surrogateescape).

    Args:
        candidates: Gives the names to complete, or None.
    """

    name = "name"

    def __init__(self, candidates: Callable[[click.Context], Iterable[str]] | None = None) -> None:
        self._candidates = candidates

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Names that begin with what was typed; none if the branch can't be read."""
        from click.shell_completion import CompletionItem

        if self._candidates is None:
            return []
        try:
            names = list(self._candidates(ctx))
        except (OSError, CliError):
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --json as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function)


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -C, --store and --branch, which say what branch a verb acts on (see cli.backend.Target)."""
    for option in (
        click.option("--branch", "branch", metavar="PATH", help="With --store: the branch (main/exp/a)."),
        click.option("--store", "store", type=PATH, metavar="STORE", help="Act on a store, mounted or not."),
        click.option("-C", "at", type=PATH, metavar="PATH", help="Act as if started in PATH."),
    ):
        function = option(function)
    return function


def show(reply: Reply, lines: Iterable[str], as_json: bool) -> None:
    """Print a successful reply."""
    if as_json:
        write_json(reply)
    else:
        write_lines(lines)


def checked(reply: Reply) -> Reply:
    """The reply if it is a success.

    Raises:
        CliError: It is none; exit code by its errno.
    """
    if reply.get("ok"):
        return reply
    name = reply.get("errno")
    errno_name = name if isinstance(name, str) else None
    extra = {
        key: value
        for key, value in reply.items()
        if key not in ("ok", "errno", "error", "verb", "exit", "remedy", "durable", "time_ns")
    }
    text = str(reply.get("error") or errno_name or "failed")
    remedy = str(reply.get("remedy") or _REMEDIES.get(errno_name or "", ""))
    given = reply.get("exit")
    code = given if isinstance(given, int) else exit_of(errno_name)
    raise CliError(text, remedy, code, errno_name=errno_name, extra=extra)


_REMEDIES = {
    "EACCES": "ask the branch's owner, or root",
    "EDQUOT": "free space or raise the limit",
    "ENOSPC": "free space on the store's filesystem",
    "EROFS": "snapshots can't be changed; fork a branch from it",
}


def start_directory(ctx: click.Context, at: bytes | None) -> bytes:
    """The directory to act in: -C of the verb within -C of the program within the current one. Absolute.

    Raises:
        CliError: The current directory was removed (a restore does that) and no absolute path was given.
    """
    outer = ctx.find_object(bytes)
    path = os.path.join(outer or b"", at or b"")
    if not path.startswith(b"/"):
        try:
            path = os.path.join(os.getcwdb(), path)
        except FileNotFoundError:
            raise CliError("the current directory has been removed", "cd to it again, or use -C PATH") from None
    return os.path.normpath(path)
