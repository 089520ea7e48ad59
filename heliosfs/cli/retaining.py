"""`heliosfs retention`: which snapshots a branch keeps."""

from __future__ import annotations

import click

from heliosfs.cli.backend import reach
from heliosfs.cli.output import Reply
from heliosfs.cli.verb import Name, json_option, show, target_options

_COUNTS = ("keep_last", "hourly", "daily", "weekly")


@click.command("retention", short_help="Say which snapshots a branch keeps.")
@click.argument("name", metavar="[BRANCH]", required=False, type=Name())
@click.option("--keep-last", type=int, metavar="N", help="Keep the newest N.")
@click.option("--hourly", type=int, metavar="N", help="Keep the newest of each of the last N hours that have one.")
@click.option("--daily", type=int, metavar="N", help="The same for days.")
@click.option("--weekly", type=int, metavar="N", help="The same for weeks.")
@click.option("--match", metavar="PATTERN", help="Be about snapshots whose name matches, not about automatic ones.")
@click.option("--clear", is_flag=True, help="Have no policy any more.")
@click.option("--apply", "apply_now", is_flag=True, help="Apply the policy that the branch has, now.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be forgotten.")
@target_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    name: str | None,
    keep_last: int | None,
    hourly: int | None,
    daily: int | None,
    weekly: int | None,
    match: str | None,
    clear: bool,
    apply_now: bool,
    dry_run: bool,
    at: bytes | None,
    store: bytes | None,
    branch: str | None,
    as_json: bool,
) -> None:
    """Show or set the policy of the branch, or of BRANCH below it, for its snapshots.

    A new policy is stored, applied at once, and from then on in the background. A snapshot stays that any of
    the counts keeps. Without --match it is about automatic snapshots alone; those that were given a name stay.
    """
    words = ["retention"]
    for key, count in zip(_COUNTS, (keep_last, hourly, daily, weekly), strict=True):
        if count is not None:
            words += ["--" + key.replace("_", "-"), str(count)]
    if match is not None:
        words += ["--match", match]
    words += [word for word, given in (("--clear", clear), ("--apply", apply_now), ("--dry-run", dry_run)) if given]
    if name is not None:
        words += ["--", name]
    reply = reach(ctx, at, store, branch).ask(words)
    show(reply, _lines(reply), as_json)


def _lines(reply: Reply) -> list[str]:
    policy = reply.get("policy")
    if isinstance(policy, dict):
        kept = ", ".join(f"{key.replace('_', ' ')} {policy[key]}" for key in _COUNTS if policy.get(key))
        about = f"snapshots named {policy['match']}" if policy.get("match") else "automatic snapshots"
        lines = [f"{reply.get('branch')}: of {about}, {kept}"]
    else:
        lines = [f"{reply.get('branch')}: all snapshots are kept"]
    removed = reply.get("removed")
    if isinstance(removed, list) and removed:
        verb = "would forget" if reply.get("dry_run") else "forgot"
        lines += [f"{verb} {name}" for name in removed]
    return lines
