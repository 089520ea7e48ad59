"""`heliosfs branch NAME [--from SNAPSHOT]` forks; `heliosfs branch rm NAME` discards."""

from __future__ import annotations

import os

import click

from heliosfs.cli.backend import reach
from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.locate import CONTROL
from heliosfs.cli.names import branch_names, snapshot_names
from heliosfs.cli.output import shown
from heliosfs.cli.verb import Name, json_option, show, target_options
from heliosfs.cli.words import command_words


def _snapshot(words: tuple[str, ...], option: str | None) -> str | None:
    """The snapshot to fork from: of `--from S`, or of the words `NAME from S`."""
    if len(words) == 1 and words[0] != "rm":
        return option
    if len(words) == 3 and words[1] == "from" and option is None:
        return words[2]
    raise CliError(
        "branch takes NAME [--from SNAPSHOT], or rm NAME",
        "see heliosfs branch --help",
        Exit.USAGE,
        errno_name="EINVAL",
    )


@click.command("branch", short_help="Fork the branch, or discard a fork (branch rm).")
@click.argument("words", nargs=-1, required=True, type=Name(branch_names), metavar="NAME | rm NAME")
@click.option("--from", "snapshot", type=Name(snapshot_names), metavar="SNAPSHOT", help="Fork from a snapshot.")
@target_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    snapshot: str | None,
    at: bytes | None,
    store: bytes | None,
    branch: str | None,
    as_json: bool,
) -> None:
    """Fork the branch as it is this instant, or as a snapshot of it was; or discard a fork.

    The fork is the directory .helios/branches/NAME of the branch.
    """
    if len(words) == 2 and words[0] == "rm":
        if snapshot is not None:
            raise CliError("--from does not go with rm", "leave it out", Exit.USAGE, errno_name="EINVAL")
        reply = reach(ctx, at, store, branch).ask(command_words(["branch", "rm"], [words[1]]))
        show(reply, [f"discarded {words[1]}"], as_json)
        return
    snapshot = _snapshot(words, snapshot)
    target = reach(ctx, at, store, branch)
    options = [] if snapshot is None else ["--from", snapshot]
    reply = target.ask(command_words(["branch"], [words[0]], options))
    line = f"branch {words[0]}"
    if target.place is not None:
        line += f" at {shown(os.path.join(target.place.root, CONTROL, b'branches', os.fsencode(words[0])))}"
    show(reply, [line], as_json)
