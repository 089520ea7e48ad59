"""`heliosfs fsck [STORE]`: is everything that the store reaches still what was stored?"""

from __future__ import annotations

import click

from heliosfs.cli.backend import no_store, reach
from heliosfs.cli.client import connect
from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.output import Reply, as_int, as_rows, shown, size_text, took_text
from heliosfs.cli.progress import shown_steps
from heliosfs.cli.stores import is_store, store_path
from heliosfs.cli.verb import PATH, checked, json_option, show

TOUCHES_SHOWN = 10
"""Paths shown for each damaged object; --json has all."""


def report_lines(report: Reply) -> list[str]:
    """Findings, notes, and one line that sums up."""
    lines: list[str] = []
    findings = as_rows(report.get("findings"))
    for finding in findings:
        lines.append(f"damaged {finding.get('kind')} {finding.get('object')}: {finding.get('reason')}")
        touches = as_rows(finding.get("touches"))
        lines += [f"  {touched_text(touched)}" for touched in touches[:TOUCHES_SHOWN]]
        if len(touches) > TOUCHES_SHOWN:
            lines.append(f"  and {len(touches) - TOUCHES_SHOWN:,} more (--json lists them)")
    notes = report.get("notes")
    lines += [f"note: {note}" for note in notes] if isinstance(notes, list) else []
    counts = report.get("counts")
    count = counts if isinstance(counts, dict) else {}
    looked = (
        f"{as_int(count.get('branches')):,} branches, {as_int(count.get('snapshots')):,} snapshots, "
        f"{as_int(count.get('pages')):,} pages, {as_int(count.get('chunks')):,} chunks "
        f"({size_text(as_int(count.get('chunk_bytes')))}), {as_int(count.get('log_records')):,} log records; "
        f"{as_int(count.get('unreferenced_chunks')):,} chunks and {as_int(count.get('unreferenced_pages')):,} "
        f"pages that nothing refers to"
    )
    seconds = report.get("seconds")
    took = took_text(seconds) if isinstance(seconds, float) else "-"
    verdict = "clean" if report.get("clean") else f"{len(findings)} damaged objects"
    if not report.get("complete"):
        verdict += "; not everything could be looked at"
    lines.append(f"{verdict}: {looked}; {took}")
    return lines


def touched_text(touched: Reply) -> str:
    """branch@snapshot:/path, and what of it can't be read."""
    version = str(touched.get("branch"))
    if touched.get("snapshot") is not None:
        version += f"@{touched.get('snapshot')}"
    where = f"{version}:/{touched.get('path')}"
    if touched.get("names"):
        return f"{where} (names in it)"
    ranges = touched.get("ranges")
    if not isinstance(ranges, list):
        return where
    return f"{where} bytes {', '.join(f'{start}-{end - 1}' for start, end in ranges)}"


def verdict(reply: Reply) -> int:
    """The exit code of a report."""
    report = reply.get("report")
    return Exit.OK if isinstance(report, dict) and report.get("clean") else Exit.DAMAGED


@click.command("fsck", short_help="Check the whole store.")
@click.argument("store", type=PATH, required=False)
@click.option("--repair", is_flag=True, help="Set damaged objects aside and mend what can be mended.")
@json_option
@click.pass_context
def command(ctx: click.Context, store: bytes | None, repair: bool, as_json: bool) -> int:
    """Check everything that STORE reaches: log, refs, pages, chunks, packs, index. Without STORE: the store of
    the branch that the current directory lies in.

    A mounted store is checked by its daemon while it serves on. Exits 0 if all is well and 12 if something is
    damaged; what that is, and which paths, snapshots and bytes it touches, is listed.
    """
    reply = _checked_store(ctx, store, repair, as_json)
    report = reply.get("report")
    lines = report_lines(report) if isinstance(report, dict) else []
    repaired = reply.get("repaired")
    if isinstance(repaired, list):
        lines = [f"repaired: {line}" for line in repaired] + lines
    show(reply, lines, as_json)
    return verdict(reply)


def _checked_store(ctx: click.Context, store: bytes | None, repair: bool, quiet: bool) -> Reply:
    if store is None:
        if repair:
            raise CliError("--repair needs the store's directory", "unmount it, then name it", Exit.USAGE)
        return reach(ctx, None, None, None).ask(["fsck"])
    path = store_path(ctx, store)
    with shown_steps(f"checking {shown(path)}", quiet) as steps:
        client = connect(path)
        if client is not None:
            with client:
                if repair:
                    raise CliError(
                        f"{shown(path)} is mounted", "a store is repaired while it is not: umount it", Exit.LOCKED
                    )
                return checked(client.ask(["fsck"], steps=steps))
        if not is_store(path):
            raise no_store(path)
        from heliosfs.cli.checking import check_store

        return check_store(path, repair, steps)
