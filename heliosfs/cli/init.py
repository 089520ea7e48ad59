"""`heliosfs init STORE`: makes an empty store."""

from __future__ import annotations

import os

import click

from heliosfs.cli.output import local_reply, shown
from heliosfs.cli.stores import create, store_path
from heliosfs.cli.verb import PATH, json_option, show


@click.command("init", short_help="Make an empty store.")
@click.argument("store", type=PATH)
@json_option
@click.pass_context
def command(ctx: click.Context, store: bytes, as_json: bool) -> None:
    """Make an empty store in the directory STORE, which is new or empty. Its first branch is `main`."""
    path = store_path(ctx, store)
    create(path)
    line = f"store {shown(path)}; next: heliosfs mount {shown(path)} MOUNTPOINT"
    show(local_reply("init", store=os.fsdecode(path)), [line], as_json)
