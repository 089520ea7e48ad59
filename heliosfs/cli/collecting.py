"""`heliosfs gc`: free what nothing in the store reaches any more."""

from __future__ import annotations

import click

from heliosfs.cli.backend import reach
from heliosfs.cli.output import Reply, size_text
from heliosfs.cli.verb import json_option, show, target_options


@click.command("gc", short_help="Free the space of what nothing reaches.")
@click.option("--dry-run", is_flag=True, help="Only count what would be freed.")
@target_options
@json_option
@click.pass_context
def command(
    ctx: click.Context, dry_run: bool, at: bytes | None, store: bytes | None, branch: str | None, as_json: bool
) -> None:
    """Free what no branch, snapshot, log record, open file or running work reaches, while the store is in use.

    It acts on the whole store. Snapshots and branches stay; forget some first to make room.
    """
    words = ["gc", "--dry-run"] if dry_run else ["gc"]
    reply = reach(ctx, at, store, branch).ask(words)
    show(reply, _lines(reply, dry_run), as_json)


def _lines(reply: Reply, dry_run: bool) -> list[str]:
    def size(*keys: str) -> str:
        values = [reply.get(key) for key in keys]
        return size_text(max(sum(value for value in values if isinstance(value, int)), 0))

    verb = "would free" if dry_run else "freed"
    lines = [
        f"{verb} {size('pack_bytes_freed', 'freed_page_bytes')}:"
        f" {reply.get('freed_chunks')} chunks, {reply.get('freed_pages')} pages,"
        f" {reply.get('packs_removed')} packs removed, {reply.get('packs_rewritten')} rewritten",
        f"live: {reply.get('live_chunks')} chunks, {size('live_bytes')}; on disk {size('disk_after_bytes')}",
    ]
    if reply.get("damaged_chunks"):
        lines.append(f"{reply['damaged_chunks']} chunks are damaged and stay where they are: run heliosfs fsck")
    if reply.get("stopped"):
        lines.append(f"stopped early: {reply['stopped']}")
    return lines
