"""`heliosfs restore NAME [PATH]`: the branch, or one path of it, as a snapshot has it."""

from __future__ import annotations

import os

import click

from heliosfs.cli.backend import reach
from heliosfs.cli.locate import relative_to
from heliosfs.cli.names import snapshot_names
from heliosfs.cli.output import shown
from heliosfs.cli.verb import PATH, Name, json_option, show, target_options
from heliosfs.cli.words import command_words


@click.command("restore", short_help="Roll the branch, or one path, back to a snapshot.")
@click.argument("snapshot", type=Name(snapshot_names))
@click.argument("path", required=False, type=PATH)
@target_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    snapshot: str,
    path: bytes | None,
    at: bytes | None,
    store: bytes | None,
    branch: str | None,
    as_json: bool,
) -> None:
    """Roll the branch back to SNAPSHOT (`latest` is the newest that somebody asked for).

    The state before is checkpointed first, so a restore can itself be undone. With PATH, that file or
    directory alone, from the directory one is in; with --store, from the root of the branch. A deleted path
    comes back with its parents.
    """
    target = reach(ctx, at, store, branch)
    inside = path
    if path is not None and target.place is not None:
        inside = relative_to(target.place, target.base, path)
        if inside == b".":
            inside = None
    words = command_words(["restore"], [snapshot, None if inside is None else os.fsdecode(inside)])
    reply = target.ask(words)
    line = f"restored {shown(inside)} from {snapshot}" if inside else f"restored {snapshot}"
    if isinstance(changed := reply.get("changed"), int):
        line += f": {changed} changed"
    if reply.get("safety"):
        line += f"; the state before is snapshot {reply['safety']}"
    show(reply, [line], as_json)
