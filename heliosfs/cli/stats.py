"""`heliosfs stats`: counters of the store and its daemon."""

from __future__ import annotations

import click

from heliosfs.cli.backend import reach
from heliosfs.cli.output import size_text, table
from heliosfs.cli.status import pair_lines
from heliosfs.cli.verb import json_option, show, target_options


@click.command("stats", short_help="Show the store's counters.")
@click.option("--refresh", is_flag=True, help="Compute anew what each branch and snapshot takes.")
@target_options
@json_option
@click.pass_context
def command(
    ctx: click.Context, refresh: bool, at: bytes | None, store: bytes | None, branch: str | None, as_json: bool
) -> None:
    """Show counters: caches, log, packs, requests. Sizes in bytes.

    And what the branch, those below it and their snapshots reach, alone (exclusive) or with others (shared), as it
    was last computed; its age is said. --refresh computes it, which reads every page of the store.
    """
    reply = reach(ctx, at, store, branch).ask(["stats", "--refresh"] if refresh else ["stats"])
    space = reply.get("space")
    counters = {key: value for key, value in reply.items() if key != "space"}
    show(reply, [*pair_lines(counters), "", *space_lines(space)], as_json)


def space_lines(space: object) -> list[str]:
    """A table of the trees, a line with the age below it."""
    if not isinstance(space, dict):
        return ["what branches and snapshots take was not computed yet: heliosfs stats --refresh"]
    rows = []
    for tree in space["trees"]:
        name = tree["branch"] if tree["snapshot"] is None else f"{tree['branch']}@{tree['snapshot']}"
        sums = (tree["reached"], tree["exclusive"], tree["shared"])
        rows.append((name, size_text(tree["logical_bytes"]), *(size_text(s["stored_bytes"]) for s in sums)))
    lines = table(("TREE", "LOGICAL", "STORED", "EXCLUSIVE", "SHARED"), rows)
    state = "nothing was written since" if space["current"] else "changed since"
    return [*lines, f"computed {space['age_seconds']:.0f} s ago, {state}"]
