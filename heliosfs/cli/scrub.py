"""`heliosfs scrub [start|status|stop]`: hash everything anew in the background, at a limited rate."""

from __future__ import annotations

import os

import click

from heliosfs.cli.backend import Socket, no_store, reach, reach_store
from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.fsck import report_lines, verdict
from heliosfs.cli.output import Reply, as_int, shown, size_text, time_text
from heliosfs.cli.progress import shown_steps
from heliosfs.cli.stores import is_store
from heliosfs.cli.verb import json_option, show, start_directory, target_options


def status_lines(reply: Reply) -> list[str]:
    """How far it is, and the last result."""
    lines: list[str] = []
    running = reply.get("running")
    if isinstance(running, dict):
        done = f"{running.get('stage')} {as_int(running.get('done')):,} of {as_int(running.get('of')):,}"
        since = time_text(as_int(running.get("began_ns")))
        lines.append(f"running since {since}: {done}, {size_text(as_int(running.get('bytes')))} read")
    else:
        lines.append("not running")
    last = reply.get("last")
    if isinstance(last, dict):
        lines.append(f"last result, {time_text(as_int(last.get('time_ns')))}:")
        lines += [str(last["error"])] if "error" in last else report_lines(last)
    else:
        lines.append("no result yet")
    return lines


@click.group("scrub", short_help="Hash everything stored anew (start, status, stop).")
def command() -> None:
    """Read and hash everything that the store holds, to find damage before somebody needs the data.

    On a mounted store it runs in the background, goes on after a restart, and its result is in `status`.
    """


@command.command("start", short_help="Begin a scrub.")
@click.option("--rate", metavar="SIZE", help="At most so many bytes a second (50M); no limit without it.")
@target_options
@json_option
@click.pass_context
def start(
    ctx: click.Context, rate: str | None, at: bytes | None, store: bytes | None, branch: str | None, as_json: bool
) -> int:
    """Begin a scrub and return at once; of a store that is not mounted, scrub now and return with the result."""
    path = _unmounted(ctx, store, branch)
    if path is None:
        words = ["scrub", "start", *(["--rate", rate] if rate else [])]
        reply = reach(ctx, at, store, branch).ask(words)
        show(reply, ["scrub started"], as_json)
        return Exit.OK
    from heliosfs.cli.checking import scrub_store

    with shown_steps(f"scrubbing {shown(path)}", as_json) as steps:
        reply = scrub_store(path, rate, steps)
    report = reply.get("report")
    show(reply, report_lines(report) if isinstance(report, dict) else [], as_json)
    return verdict(reply)


@command.command("status", short_help="How far the scrub is, and the last result.")
@target_options
@json_option
@click.pass_context
def status(ctx: click.Context, at: bytes | None, store: bytes | None, branch: str | None, as_json: bool) -> None:
    """Show how far the scrub is, and what the last one found."""
    path = _unmounted(ctx, store, branch)
    if path is None:
        reply = reach(ctx, at, store, branch).ask(["scrub", "status"])
    else:
        from heliosfs.cli.checking import scrub_result

        reply = scrub_result(path)
    show(reply, status_lines(reply), as_json)


@command.command("stop", short_help="End the running scrub.")
@target_options
@json_option
@click.pass_context
def stop(ctx: click.Context, at: bytes | None, store: bytes | None, branch: str | None, as_json: bool) -> None:
    """End the running scrub; the result of the one before stays."""
    path = _unmounted(ctx, store, branch)
    if path is not None:
        raise CliError(f"{shown(path)} is not mounted: no scrub is running", errno_name="ENOENT")
    reply = reach(ctx, at, store, branch).ask(["scrub", "stop"])
    show(reply, ["scrub stopped"], as_json)


def _unmounted(ctx: click.Context, store: bytes | None, branch: str | None) -> bytes | None:
    """The directory of the store that --store names, if no daemon has it open; else None.

    Raises:
        CliError: No store there (exit 10).
    """
    if store is None:
        return None
    path = os.path.normpath(os.path.join(start_directory(ctx, None), store))
    if isinstance(reach_store(path, branch or "main"), Socket):
        return None
    if not is_store(path):
        raise no_store(path)
    return path
