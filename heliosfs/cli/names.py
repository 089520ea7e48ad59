"""Names to complete on the command line: the snapshots and branches of the branch one is in.

Invariants: reads directories of the mount only; asks no daemon. Must not know: verbs.
"""

from __future__ import annotations

import os

import click

from heliosfs.cli.locate import CONTROL, locate
from heliosfs.cli.verb import start_directory


def _listed(ctx: click.Context, directory: bytes) -> list[str]:
    at = ctx.params.get("at")
    place = locate(start_directory(ctx, at if isinstance(at, bytes) else None))
    return sorted(os.fsdecode(name) for name in os.listdir(os.path.join(place.root, CONTROL, directory)))


def snapshot_names(ctx: click.Context) -> list[str]:
    """Names of the branch's snapshots, `latest` among them. OSError or CliError if it can't be read."""
    return _listed(ctx, b"snapshots")


def branch_names(ctx: click.Context) -> list[str]:
    """Names of the branch's children. OSError or CliError if it can't be read."""
    return _listed(ctx, b"branches")
