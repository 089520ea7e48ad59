"""`heliosfs snapshot rm NAME` and `heliosfs snapshot mv A B`."""

from __future__ import annotations

import click

from heliosfs.cli.backend import reach
from heliosfs.cli.names import snapshot_names
from heliosfs.cli.verb import Name, json_option, show, target_options
from heliosfs.cli.words import command_words


@click.group("snapshot", short_help="Forget (rm) or rename (mv) a snapshot.")
def command() -> None:
    """Forget or rename snapshots of the branch."""


@command.command("rm", short_help="Forget a snapshot.")
@click.argument("name", type=Name(snapshot_names))
@target_options
@json_option
@click.pass_context
def remove(
    ctx: click.Context,
    name: str,
    at: bytes | None,
    store: bytes | None,
    branch: str | None,
    as_json: bool,
) -> None:
    """Forget the snapshot NAME. The branch itself does not change."""
    reply = reach(ctx, at, store, branch).ask(command_words(["snapshot", "rm"], [name]))
    show(reply, [f"forgot {name}"], as_json)


@command.command("mv", short_help="Rename a snapshot.")
@click.argument("old", type=Name(snapshot_names))
@click.argument("new", type=Name())
@target_options
@json_option
@click.pass_context
def move(
    ctx: click.Context,
    old: str,
    new: str,
    at: bytes | None,
    store: bytes | None,
    branch: str | None,
    as_json: bool,
) -> None:
    """Rename the snapshot OLD to NEW."""
    reply = reach(ctx, at, store, branch).ask(command_words(["snapshot", "mv"], [old, new]))
    show(reply, [f"renamed {old} to {new}"], as_json)
