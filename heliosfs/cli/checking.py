"""Checks a store that no daemon has open, in this process and under the store's lock. Changes nothing but the lock.

Only verbs that found no daemon import this module. Must not know: how a result is shown.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cas.errors import StoreLocked as Locked
from cas.lock import StoreLock
from heliosfs.cli.client import Steps
from heliosfs.cli.exits import CliError
from heliosfs.cli.output import Reply, local_reply
from heliosfs.cli.stores import store_error
from heliosfs.control.words import size_of
from heliosfs.core.errors import FsError
from heliosfs.storage.checking.process import Rate
from heliosfs.storage.checking.repair import repair as mend
from heliosfs.storage.checking.scrubber import STATE_NAME, save_state
from heliosfs.storage.checking.verify import verify
from heliosfs.storage.errors import StoreError, StoreLocked


@contextmanager
def locked(path: Path, *, mends: bool = False) -> Iterator[None]:
    """Hold a store's lock. Raises CliError (exit 11): a process has it open; or what a StoreError means.

    Args:
        mends: The store is changed, so that what the last holder said of its end does not hold any more.
    """
    try:
        lock = StoreLock(path / "lock")
    except Locked as error:
        raise store_error(StoreLocked(path, error.pid)) from error
    try:
        yield
    except StoreError as error:
        raise store_error(error) from error
    finally:
        lock.close(in_order=lock.found_in_order and not mends)


def check_store(store: bytes, repair: bool, steps: Steps) -> Reply:
    """A reply with the report of a check; of the check after the repair, if one is asked for.

    Raises:
        CliError: In use (exit 11), of a later version (13).
    """
    path = Path(os.fsdecode(store))
    with locked(path, mends=repair):
        if not repair:
            return local_reply("fsck", report=verify(path, step=steps).report.as_dict())
        actions, report = mend(path, step=steps)
    return local_reply("fsck", report=report.as_dict(), repaired=actions)


def scrub_store(store: bytes, rate: str | None, steps: Steps) -> Reply:
    """As `check_store`, at a limited rate; the result is kept in the store as that of a daemon's scrub is."""
    path = Path(os.fsdecode(store))
    try:
        limit = size_of(os.fsencode(rate)) if rate else 0
    except FsError as error:
        raise CliError(str(error), code=2, errno_name="EINVAL") from error
    with locked(path):
        report = verify(path, step=steps, pace=Rate(limit, silent=True)).report.as_dict()
        save_state(path, {"last": {"time_ns": time.time_ns(), **report}, "rate": limit, "unfinished": False})
    return local_reply("scrub start", report=report)


def scrub_result(store: bytes) -> Reply:
    """The last result that is kept in a store."""
    try:
        state = json.loads((Path(os.fsdecode(store)) / STATE_NAME).read_bytes())
        last, rate = state["last"], state["rate"]
    except FileNotFoundError:
        last, rate = None, None
    except (ValueError, KeyError, TypeError) as error:
        raise CliError(f"{STATE_NAME} in the store can't be read: {error}", "scrub again") from error
    return local_reply("scrub status", running=None, rate=rate or None, last=last)
