"""`heliosfs stats`: counters of the store and its daemon."""

from __future__ import annotations

import click

from heliosfs.cli.backend import reach
from heliosfs.cli.status import pair_lines
from heliosfs.cli.verb import json_option, show, target_options


@click.command("stats", short_help="Show the store's counters.")
@target_options
@json_option
@click.pass_context
def command(ctx: click.Context, at: bytes | None, store: bytes | None, branch: str | None, as_json: bool) -> None:
    """Show counters: caches, log, packs, requests. Sizes in bytes."""
    reply = reach(ctx, at, store, branch).ask(["stats"])
    show(reply, pair_lines(reply), as_json)
