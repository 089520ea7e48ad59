"""The daemon's verbs `import` and `export`: long work for one client, who is told how far it is.

Invariants: progress lines are dropped rather than waited for; a client who hangs up ends neither. Must not
know: how a tree is stored or written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Final, TypeVar

import trio

from heliosfs.control.commands import check_owner
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ViewNo, view_of
from heliosfs.daemon.rpc import Progress, Request, Verb, success
from heliosfs.filesystem import Filesystem
from heliosfs.storage.exporting import ExportResult, export_tar, export_tree
from heliosfs.storage.importing import import_tree

_BETWEEN_S: Final = 0.1
"""Between two progress lines."""
_TAR: Final = "--tar"

_Value = TypeVar("_Value")


def transfer_verbs(fs: Filesystem) -> dict[str, Verb]:
    """`import DIR` into the request's branch; `export BRANCH[@SNAPSHOT] DEST [--tar]`."""

    async def importing(request: Request, progress: Progress) -> Mapping[str, object]:
        if len(request.argv) != 2 or not request.argv[1].startswith("/"):
            raise FsError(errno.EINVAL, "usage: import DIR, an absolute path")
        branch = request.branch
        check_owner(fs.branch(_view(fs, branch)), request.caller)
        directory = os.fsencode(request.argv[1])
        result = await _told(
            progress, lambda tell: import_tree(fs, directory, os.fsencode(branch), tell, request.caller)
        )
        return success("import", **{**asdict(result), "name": result.snapshot})

    async def exporting(request: Request, progress: Progress) -> Mapping[str, object]:
        words = [word for word in request.argv[1:] if word != _TAR]
        if len(words) != 2 or not words[1].startswith("/"):
            raise FsError(errno.EINVAL, "usage: export BRANCH[@SNAPSHOT] DEST [--tar], an absolute path")
        check_owner(fs.branch(_view(fs, words[0].partition("@")[0])), request.caller)
        view = await _version(fs, words[0])
        dest = os.fsencode(words[1])

        async def write(tell: Callable[[int, int], None]) -> ExportResult:
            if _TAR not in request.argv:
                return await export_tree(fs, view, dest, tell)
            # A pipe is opened only when somebody reads: off the loop.
            file = await trio.to_thread.run_sync(lambda: open(dest, "wb"))  # noqa: SIM115
            try:
                return await export_tar(fs, view, file, tell)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(file.close)

        return success("export", **asdict(await _told(progress, write)))

    return {"import": importing, "export": exporting}


async def _version(fs: Filesystem, what: str) -> ViewNo:
    """The view of BRANCH[@SNAPSHOT]."""
    branch, _, snapshot = what.partition("@")
    view = _view(fs, branch)
    if not snapshot:
        return view
    try:
        return view_of((await fs.snapshot_root(view, os.fsencode(snapshot))).node)
    except FsError as error:
        raise FsError(error.errno, error.reason or f"{branch} has no snapshot {snapshot}") from None


def _view(fs: Filesystem, branch: str) -> ViewNo:
    try:
        return fs.find_branch(os.fsencode(branch)).view
    except FsError as error:
        raise FsError(error.errno, error.reason or f"no branch is called {branch}") from None


async def _told(progress: Progress, work: Callable[[Callable[[int, int], None]], Awaitable[_Value]]) -> _Value:
    """Do the work, and send what it tells, one line each _BETWEEN_S at most."""
    last = (0, 0)
    changed = trio.Event()

    def tell(files: int, done_bytes: int) -> None:
        nonlocal last
        last = (files, done_bytes)
        changed.set()

    async def send() -> None:
        nonlocal changed
        while True:
            await changed.wait()
            changed = trio.Event()
            try:
                await progress({"files": last[0], "bytes": last[1]})
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            await trio.sleep(_BETWEEN_S)

    refused: FsError | OSError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            return await work(tell)
        except (FsError, OSError) as error:
            # Raised outside: a nursery would wrap it into a group.
            refused = error
        finally:
            nursery.cancel_scope.cancel()
    raise refused
