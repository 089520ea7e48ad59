"""`heliosfs ls`: branches and snapshots, with time, whether they are durable, and size."""

from __future__ import annotations

import click

from heliosfs.cli.backend import reach
from heliosfs.cli.output import Reply, as_int, as_rows, size_text, table, time_text
from heliosfs.cli.verb import json_option, show, target_options


def lines_of(reply: Reply) -> list[str]:
    """The two tables as one, snapshots oldest first."""
    rows = []
    for kind, key in (("branch", "branches"), ("snapshot", "snapshots")):
        for row in as_rows(reply.get(key)):
            size = row.get("size")
            durable = row.get("durable")
            rows.append(
                (
                    kind,
                    str(row.get("name", "-")),
                    time_text(as_int(row.get("time_ns") or row.get("created_ns"))),
                    "-" if durable is None else "yes" if durable else "no",
                    size_text(size) if isinstance(size, int) else "-",
                    str(row.get("kind") or ""),
                )
            )
    if not rows:
        return ["no branches and no snapshots yet"]
    return table(("WHAT", "NAME", "TIME", "DURABLE", "SIZE", "KIND"), rows, right=(4,))


@click.command("ls", short_help="List branches and snapshots.")
@target_options
@json_option
@click.pass_context
def command(ctx: click.Context, at: bytes | None, store: bytes | None, branch: str | None, as_json: bool) -> None:
    """List the branches and snapshots of the branch."""
    reply = reach(ctx, at, store, branch).ask(["ls"])
    show(reply, [] if as_json else lines_of(reply), as_json)
