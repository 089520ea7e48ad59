"""`heliosfs upgrade MOUNTPOINT`: the daemon becomes the program as it is now, and users of the mount go on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import click

from heliosfs.cli.client import connect
from heliosfs.cli.exits import CliError
from heliosfs.cli.output import Reply, as_int, local_reply, shown
from heliosfs.cli.verb import PATH, checked, json_option, show, start_directory

_READY_S: Final = 60.0
_LOOK_S: Final = 0.05


@click.command("upgrade", short_help="Replace a running daemon by the installed version.")
@click.argument("mountpoint", type=PATH)
@json_option
@click.pass_context
def command(ctx: click.Context, mountpoint: bytes, as_json: bool) -> None:
    """Have a new process, of the version that is installed now, go on with the mount at MOUNTPOINT.

    Open files, requests under way and other mounts of the same daemon go on, too. A new version that does not start
    changes nothing. Needs a mount with transport=kernel and a supervisor.
    """
    path = os.path.realpath(os.path.join(start_directory(ctx, None), mountpoint))
    store = _store_at(path)
    before = as_int(_ask(store, "upgrade").get("worker_pid"))
    deadline = time.monotonic() + _READY_S
    while (now := as_int(_ask(store, "status").get("worker_pid"))) == before:
        if time.monotonic() > deadline:
            raise CliError(f"process {before} still serves {shown(path)}", "see daemon.log in the store")
        time.sleep(_LOOK_S)
    reply = local_reply("upgrade", mountpoint=os.fsdecode(path), worker_pid=now, before=before)
    show(reply, [f"{shown(path)} is served by process {now} now; it was {before}"], as_json)


def _store_at(path: bytes) -> bytes:
    from heliosfs.daemon.mountpoint import store_of
    from heliosfs.transport.mounts import mount_at

    mount = mount_at(Path(os.fsdecode(path)))
    if mount is None:
        raise CliError(f"{shown(path)}: nothing of heliosfs is mounted there", errno_name="EINVAL")
    return store_of(mount)


def _ask(store: bytes, verb: str) -> Reply:
    client = connect(store)
    if client is None:
        raise CliError(f"the daemon of {shown(store)} does not answer", "see daemon.log in the store")
    with client:
        return checked(client.ask([verb], "main"))
