"""`heliosfs import STORE DIR`: makes a branch equal to a directory."""

from __future__ import annotations

import os

import click

from heliosfs.cli.backend import no_store
from heliosfs.cli.client import connect
from heliosfs.cli.exits import CliError
from heliosfs.cli.output import Reply, as_int, shown, size_text, warning_lines
from heliosfs.cli.progress import shown_progress
from heliosfs.cli.stores import is_store, store_path
from heliosfs.cli.verb import PATH, checked, json_option, show, start_directory


def lines_of(reply: Reply) -> list[str]:
    """The warnings, then what was imported."""
    lines = warning_lines(reply)
    lines.append(
        f"imported {as_int(reply.get('files')):,} names, {size_text(as_int(reply.get('bytes')))} "
        f"({size_text(as_int(reply.get('new_bytes')))} new); snapshot {reply.get('snapshot')}"
    )
    return lines


@click.command("import", short_help="Make a branch equal to a directory.")
@click.argument("store", type=PATH)
@click.argument("directory", type=PATH)
@click.option("--branch", default="main", show_default=True, metavar="PATH", help="The branch (main/exp/a).")
@json_option
@click.pass_context
def command(ctx: click.Context, store: bytes, directory: bytes, branch: str, as_json: bool) -> None:
    """Make a branch of STORE equal to DIRECTORY, deletions included, and take a snapshot of it.

    The state before is checkpointed first. What is stored already is not stored again.
    """
    path = store_path(ctx, store)
    source = os.path.realpath(os.path.join(start_directory(ctx, None), directory))
    if not os.path.isdir(source):
        raise CliError(f"{shown(source)}: no such directory", errno_name="ENOENT")
    with shown_progress(f"importing {shown(source)}", quiet=as_json) as progress:
        client = connect(path)
        if client is not None:
            with client:
                reply = client.ask(["import", os.fsdecode(source)], branch, progress)
        elif is_store(path):
            from heliosfs.cli.offline import import_directory

            reply = import_directory(path, source, branch, progress)
        else:
            raise no_store(path)
    checked(reply)
    show(reply, lines_of(reply), as_json)
