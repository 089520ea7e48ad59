"""`heliosfs umount MOUNTPOINT`: ends a mount and waits until its daemon is gone."""

from __future__ import annotations

import os

import click

from heliosfs.cli.output import local_reply, shown
from heliosfs.cli.verb import PATH, json_option, show, start_directory


@click.command("umount", short_help="End a mount.")
@click.argument("mountpoint", type=PATH)
@click.option("-l", "--lazy", is_flag=True, help="Detach it now, even while it is in use.")
@json_option
@click.pass_context
def command(ctx: click.Context, mountpoint: bytes, lazy: bool, as_json: bool) -> None:
    """End the mount at MOUNTPOINT and wait until its daemon has stored everything and is gone.

    A mount whose daemon has died (ENOTCONN) or given up (EIO) is cleared away, too. Exit 15: unmounted, but what
    was new could not be stored; the log has it, and the next mount stores it.
    """
    from heliosfs.cli.mounting import unmount

    path = os.path.join(start_directory(ctx, None), mountpoint)
    unmount(path, lazy=lazy)
    show(local_reply("umount", mountpoint=os.fsdecode(path)), [f"unmounted {shown(path)}"], as_json)
