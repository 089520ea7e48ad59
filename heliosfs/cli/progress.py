"""Progress of long work, on a terminal only.

Invariants: rich is imported only when stderr is a terminal; stdout is never written. Must not know: verbs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from heliosfs.cli.client import Progress, Steps
from heliosfs.cli.output import size_text


@contextmanager
def shown_progress(title: str, quiet: bool = False) -> Iterator[Progress]:
    """A line on stderr that follows the work.

    Args:
        title: What is being done.
        quiet: Show nothing (with --json).

    Yields:
        What to call with (files, bytes) done so far; calls cost nothing without a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield _nothing
        return
    from rich.console import Console
    from rich.status import Status

    status = Status(title, console=Console(stderr=True))

    def update(files: int, done_bytes: int) -> None:
        status.update(f"{title}: {files:,} files, {size_text(done_bytes)}")

    with status:
        yield update


@contextmanager
def shown_steps(title: str, quiet: bool = False) -> Iterator[Steps]:
    """As `shown_progress`, for work in stages.

    Yields:
        What to call with (stage, done, of).
    """
    if quiet or not sys.stderr.isatty():
        yield _no_step
        return
    from rich.console import Console
    from rich.status import Status

    status = Status(title, console=Console(stderr=True))

    def update(stage: str, done: int, of: int) -> None:
        status.update(f"{title}: {stage} {done:,} of {of:,}")

    with status:
        yield update


def _no_step(_stage: str, _done: int, _of: int) -> None:
    return None


def _nothing(_files: int, _bytes: int) -> None:
    return None
