"""`heliosfs mount [STORE] MOUNTPOINT`: mounts a branch of a store; returns when it is live."""

from __future__ import annotations

import os

import click

from heliosfs.cli import mounting
from heliosfs.cli.backend import no_store
from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.options import parse
from heliosfs.cli.output import Reply, as_int, local_reply, shown, size_text, warning_lines
from heliosfs.cli.progress import shown_progress
from heliosfs.cli.stores import create, default_store, is_store, store_for, store_path
from heliosfs.cli.verb import PATH, json_option, show, start_directory
from heliosfs.cli.verb import checked as checked_reply

_OPTIONS_HELP = """Options, separated by commas: branch=main/exp, memory=128M, log=1G, commit=1s,
control=hidden|visible, allow_other, ro, and those of mount(8)."""


def _from_directory(directory: bytes, as_json: bool) -> tuple[bytes, Reply | None, list[str]]:
    """The store of `--from`: made and filled if there is none yet. Store, the import's reply, lines to say."""
    if not os.path.isdir(directory):
        raise CliError(f"{shown(directory)}: no such directory", errno_name="ENOENT")
    store = store_for(directory)
    if is_store(store):
        line = f"{shown(directory)} has a store already ({shown(store)}): mounting what is there, nothing imported"
        return store, None, [line]
    with shown_progress(f"importing {shown(directory)}", quiet=as_json) as progress:
        reply = checked_reply(mounting.make_from(store, directory, progress))
    done = f"imported {as_int(reply.get('files')):,} names, {size_text(as_int(reply.get('bytes')))}"
    return store, reply, [*warning_lines(reply), f"{done}, into {shown(store)}"]


@click.command("mount", short_help="Mount a branch of a store.")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="[STORE] MOUNTPOINT")
@click.option("-o", "groups", multiple=True, metavar="OPTIONS", help=_OPTIONS_HELP)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground until unmounted.")
@click.option("--from", "directory", type=PATH, metavar="DIR", help="Import DIR, the first time.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    paths: tuple[bytes, ...],
    groups: tuple[str, ...],
    foreground: bool,
    directory: bytes | None,
    as_json: bool,
) -> None:
    """Mount a branch of STORE at MOUNTPOINT, an empty directory. Returns when the mount is live.

    Without STORE, the user's own is mounted; it is made if there is none. With --from, it is a store for DIR,
    filled from it the first time.
    """
    options = parse(groups)
    if len(paths) > (1 if directory is not None else 2):
        raise CliError(
            "mount takes [STORE] MOUNTPOINT, or --from DIR MOUNTPOINT",
            "see heliosfs mount --help",
            Exit.USAGE,
            errno_name="EINVAL",
        )
    mountpoint = os.path.join(start_directory(ctx, None), paths[-1])
    mounting.check_mountpoint(mountpoint, options)
    imported: Reply | None = None
    made = False
    lines: list[str] = []
    if directory is not None:
        full = os.path.join(start_directory(ctx, None), directory)
        store, imported, lines = _from_directory(full, as_json)
    elif len(paths) == 2:
        store = store_path(ctx, paths[0])
        if not is_store(store):
            raise no_store(store)
    else:
        store = default_store()
        if not is_store(store):
            create(store)
            lines.append(f"made the store {shown(store)}")
            made = True
    reply = local_reply(
        "mount",
        store=os.fsdecode(store),
        mountpoint=os.fsdecode(mountpoint),
        branch=options.branch,
        imported=imported,
        made=made or imported is not None,
    )
    if foreground:
        # Said before: afterwards the mount has ended.
        lines.append(f"mounting {shown(store)} at {shown(mountpoint)}; end it with ctrl-c")
        show(reply, lines, as_json)
        mounting.start(store, mountpoint, options, foreground=True)
        return
    mounting.start(store, mountpoint, options)
    lines.append(f"mounted {shown(store)}, branch {options.branch}, at {shown(mountpoint)}")
    show(reply, lines, as_json)
