"""Stores as the command line names them: where a user's own lie, how one is made, what its errors exit with.

Invariants: the only module of the command line that names storage's errors. Must not know: verbs.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.output import shown
from heliosfs.cli.verb import start_directory

_FORMAT = b"format"


def data_directory() -> bytes:
    """$XDG_DATA_HOME/heliosfs, or ~/.local/share/heliosfs; not made here.

    Raises:
        CliError: Neither XDG_DATA_HOME nor a home directory is known.
    """
    base = os.environb.get(b"XDG_DATA_HOME", b"")
    if not base.startswith(b"/"):
        home = os.path.expanduser(b"~")
        if not home.startswith(b"/"):
            raise CliError("no home directory to put a store in", "name one: heliosfs mount STORE MOUNTPOINT")
        base = os.path.join(home, b".local", b"share")
    return os.path.join(base, b"heliosfs")


def default_store() -> bytes:
    """The store of a `mount` without one."""
    return os.path.join(data_directory(), b"default")


def store_for(directory: bytes) -> bytes:
    """The store of `mount --from DIRECTORY`: named by the first 16 hex digits of the BLAKE3 of its real path."""
    from blake3 import blake3

    name: str = blake3(os.path.realpath(directory)).hexdigest()[:16]
    return os.path.join(data_directory(), name.encode("ascii"))


def is_store(path: bytes) -> bool:
    """Whether a store is here; says nothing about its state. One stat."""
    return os.path.isfile(os.path.join(path, _FORMAT))


def store_path(ctx: click.Context, path: bytes) -> bytes:
    """A store's path as given on the command line, made absolute."""
    return os.path.normpath(os.path.join(start_directory(ctx, None), path))


def create(path: bytes) -> None:
    """Make an empty store with the branch `main`; parents are made with mode 0700.

    Raises:
        CliError: There is a store already, or something else (exit 3); OSError's reasons (exit 1).
    """
    from heliosfs.storage.errors import StoreError
    from heliosfs.storage.layout import StoreLayout

    parent = os.path.dirname(path)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    try:
        StoreLayout.create(Path(os.fsdecode(path))).close()
    except StoreError as error:
        raise store_error(error) from error


def store_error(error: Exception) -> CliError:
    """A StoreError of storage as one line and its exit code."""
    from heliosfs.storage import errors

    path = shown(bytes(getattr(error, "path", b"")))
    reason = str(getattr(error, "reason", error))
    for kind, code, remedy in (
        (errors.StoreAbsent, Exit.NO_STORE, f"make one: heliosfs init {path}"),
        (errors.StoreLocked, Exit.LOCKED, "unmount it, or end that process"),
        (errors.StoreNewer, Exit.NEWER, "install the version that wrote it"),
        (errors.StoreDamaged, Exit.DAMAGED, "keep a copy of it before anything else"),
        (errors.StoreExists, Exit.CONFLICT, "use it, or choose another path"),
        (errors.StoreOccupied, Exit.CONFLICT, "choose an empty directory, or one that does not exist"),
    ):
        if isinstance(error, kind):
            return CliError(f"{path}: {reason}", remedy, code)
    return CliError(f"{path}: {reason}" if path else reason)
