"""`heliosfs log [-n N]`: the operation log, newest last."""

from __future__ import annotations

import click

from heliosfs.cli.backend import reach
from heliosfs.cli.output import Reply, as_int, as_rows, table, time_text
from heliosfs.cli.verb import json_option, show, target_options


def lines_of(reply: Reply) -> list[str]:
    """One line an operation."""
    rows = [
        (
            time_text(as_int(row.get("time_ns"))),
            str(row.get("verb", "-")),
            str(row.get("branch", "-")),
            str(row.get("name") or "-"),
            str(row.get("uid", "-")),
            str(row.get("lsn", "-")),
        )
        for row in as_rows(reply.get("entries"))
    ]
    if not rows:
        return ["nothing has happened yet"]
    return table(("TIME", "VERB", "BRANCH", "NAME", "UID", "LSN"), rows, right=(4, 5))


@click.command("log", short_help="Show what was done, newest last.")
@click.option("-n", "limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most N.")
@target_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    limit: int,
    at: bytes | None,
    store: bytes | None,
    branch: str | None,
    as_json: bool,
) -> None:
    """Show the branch's operation log: who did what and when, newest last."""
    reply = reach(ctx, at, store, branch).ask(["log", "-n", str(limit)])
    show(reply, [] if as_json else lines_of(reply), as_json)
