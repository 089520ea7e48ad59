"""`heliosfs status`: the branch and its daemon at a glance. It never waits for anything."""

from __future__ import annotations

import click

from heliosfs.cli.backend import reach
from heliosfs.cli.output import Reply, flatten
from heliosfs.cli.verb import json_option, show, target_options

_COMMON = frozenset(("ok", "verb", "id", "errno", "error", "time_ns"))


def pair_lines(reply: Reply, skip: frozenset[str] = _COMMON) -> list[str]:
    """A reply's own keys, one a line, names in one column; keys that say nothing left out."""
    pairs = flatten({key: value for key, value in reply.items() if key not in skip and value is not None})
    width = max((len(key) for key, _ in pairs), default=0)
    return [f"{key.ljust(width)}  {text}" for key, text in pairs]


@click.command("status", short_help="Show the branch's state.")
@target_options
@json_option
@click.pass_context
def command(ctx: click.Context, at: bytes | None, store: bytes | None, branch: str | None, as_json: bool) -> None:
    """Show the branch's state: what is mounted, whether it is durable, what is pending."""
    reply = reach(ctx, at, store, branch).ask(["status"])
    show(reply, pair_lines(reply), as_json)
