"""`heliosfs export STORE BRANCH[@SNAPSHOT] DEST`: writes a branch or snapshot as a tree or a tar."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from heliosfs.cli.backend import no_store
from heliosfs.cli.client import Progress, connect
from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.output import Reply, as_int, json_line, shown, size_text, warning_lines
from heliosfs.cli.progress import shown_progress
from heliosfs.cli.stores import is_store, store_path
from heliosfs.cli.verb import PATH, Name, checked, json_option, show, start_directory

STDOUT = b"-"


@contextmanager
def tar_target(destination: bytes) -> Iterator[bytes]:
    """A name under which whoever writes the tar, the daemon perhaps, reaches our open file or standard output.

    So the file is made by us, with our rights and umask. It is removed again if the export fails.
    """
    if destination == STDOUT:
        yield b"/proc/%d/fd/1" % os.getpid()
        return
    existed = os.path.lexists(destination)
    descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        yield b"/proc/%d/fd/%d" % (os.getpid(), descriptor)
    except BaseException:
        if not existed:
            os.unlink(destination)
        raise
    finally:
        os.close(descriptor)


def _export(store: bytes, what: str, destination: bytes, as_tar: bool, progress: Progress) -> Reply:
    """By the daemon, if one runs.

    Raises:
        CliError: It failed; no store there (exit 10).
    """
    client = connect(store)
    if client is not None:
        words = ["export", what, os.fsdecode(destination), *(["--tar"] if as_tar else [])]
        with client:
            return checked(client.ask(words, None, progress))
    if not is_store(store):
        raise no_store(store)
    from heliosfs.cli.offline import export

    branch, _, snapshot = what.partition("@")
    return export(store, branch, snapshot or None, destination, as_tar, progress)


@click.command("export", short_help="Write a branch or snapshot as a tree or a tar.")
@click.argument("store", type=PATH)
@click.argument("what", type=Name(), metavar="BRANCH[@SNAPSHOT]")
@click.argument("destination", type=PATH, metavar="DEST")
@json_option
@click.pass_context
def command(ctx: click.Context, store: bytes, what: str, destination: bytes, as_json: bool) -> None:
    """Write a branch as it is now, or a snapshot of it, into the new or empty directory DEST; as a tar if DEST
    ends in .tar, or is - (standard output; with --json the JSON object then goes to standard error).
    """
    path = store_path(ctx, store)
    branch, at, snapshot = what.partition("@")
    if not branch or (at and not snapshot):
        raise CliError(f"{what}: not BRANCH[@SNAPSHOT]", "write it like main@v1", Exit.USAGE, errno_name="EINVAL")
    to_stdout = destination == STDOUT
    if to_stdout and sys.stdout.isatty():
        raise CliError("a tar does not go to a terminal", "redirect it, or name a file", Exit.USAGE)
    full = destination if to_stdout else os.path.join(start_directory(ctx, None), destination)
    with shown_progress(f"exporting {what}", quiet=as_json) as progress:
        if to_stdout or full.endswith(b".tar"):
            with tar_target(full) as target:
                reply = _export(path, what, target, True, progress)
        else:
            reply = _export(path, what, full, False, progress)
    if to_stdout:
        if as_json:
            sys.stderr.buffer.write(json_line(reply))
        return
    show(reply, [*warning_lines(reply), _summary(reply, full)], as_json)


def _summary(reply: Reply, destination: bytes) -> str:
    size = size_text(as_int(reply.get("bytes")))
    return f"exported {as_int(reply.get('files')):,} names, {size}, to {shown(destination)}"
