"""`heliosfs checkpoint [NAME]`: a snapshot of the branch as it is now."""

from __future__ import annotations

import click

from heliosfs.cli.backend import reach
from heliosfs.cli.verb import Name, json_option, show, target_options
from heliosfs.cli.words import command_words


@click.command("checkpoint", short_help="Take a snapshot of the branch, now.")
@click.argument("name", required=False, type=Name())
@target_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    name: str | None,
    at: bytes | None,
    store: bytes | None,
    branch: str | None,
    as_json: bool,
) -> None:
    """Take a snapshot of the branch as it is this instant, named NAME or by the time.

    It holds every write that returned before it. Storing it follows in the background.
    """
    reply = reach(ctx, at, store, branch).ask(command_words(["checkpoint"], [name]))
    show(reply, [f"checkpoint {reply.get('name')}"], as_json)
