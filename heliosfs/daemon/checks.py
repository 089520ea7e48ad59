"""The daemon's verb `fsck`: a check of the whole store for one client, who is told how far it is.

A client who hangs up ends it. Must not know: how a check is made.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

import trio

from heliosfs.core.errors import Damaged, FsError
from heliosfs.daemon.rpc import Progress, Request, Verb, success
from heliosfs.filesystem import Filesystem
from heliosfs.storage.checking.findings import Report

_BETWEEN_S: Final = 0.1


def check_verbs(fs: Filesystem) -> dict[str, Verb]:
    """`fsck`."""

    async def fsck(request: Request, progress: Progress) -> Mapping[str, object]:
        if len(request.argv) != 1:
            raise FsError(errno.EINVAL, "usage: fsck; a mounted store is not repaired")
        report = await _told(fs, progress)
        return success("fsck", report=report.as_dict())

    return {"fsck": fsck}


async def _told(fs: Filesystem, progress: Progress) -> Report:
    """The check, its steps sent as they come, one line each _BETWEEN_S at most."""
    said: tuple[str, int, int] | None = None

    def tell(stage: str, done: int, of: int) -> None:
        nonlocal said
        said = (stage, done, of)

    report: Report | None = None
    refused: FsError | OSError | None = None
    gone: Exception | None = None

    async def check() -> None:
        nonlocal report, refused
        try:
            report = await fs.scrubber.check(tell=tell)
        except (OSError, Damaged) as error:
            # Raised outside: a nursery would wrap it into a group.
            refused = error
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
        while True:
            await trio.sleep(_BETWEEN_S)
            if said is not None:
                stage, done, of = said
                try:
                    await progress({"stage": stage, "done": done, "of": of})
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    gone = error
                    nursery.cancel_scope.cancel()
                    break
    if gone is not None:
        raise gone
    if refused is not None:
        raise refused
    assert report is not None
    return report
