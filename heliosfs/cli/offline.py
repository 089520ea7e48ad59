"""Works on a store that no daemon has open: opens it in this process, does one thing, closes it.

Invariants: the store's lock is held throughout; what was done is stored when a function here returns. Only
verbs that found no daemon import this module, for it imports the whole stack (about 0.3 s).
Must not know: what any verb means.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import trio

from heliosfs.cli.client import Progress
from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.output import Reply, local_reply
from heliosfs.cli.stores import store_error
from heliosfs.control.reply import Reply as ControlReply
from heliosfs.control.runner import Commands
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ViewNo, view_of
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.storage.errors import StoreError

_Value = TypeVar("_Value")


def _ourselves() -> Caller:
    return Caller(os.getuid(), os.getgid(), os.getpid())


def _leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real failure of those that tasks ended with together."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _refused(error: FsError, absent: str) -> CliError:
    """A refusal of the filesystem; `absent` says in words what ENOENT means."""
    name = errno.errorcode.get(error.errno)
    code = Exit.DAMAGED if error.errno == errno.EIO else Exit.ERROR
    return CliError(absent if error.errno == errno.ENOENT else str(error), code=code, errno_name=name)


def _view(fs: Filesystem, branch: str) -> ViewNo:
    """The view of a branch. Raises CliError: there is none."""
    try:
        return fs.find_branch(os.fsencode(branch)).view
    except FsError as error:
        raise _refused(error, f"no branch is called {branch}") from error


def _opened(store: bytes, act: Callable[[Filesystem], Awaitable[_Value]], *, background: bool) -> _Value:
    """Open a store, act on it, close it.

    Raises:
        CliError: It can't be opened (exit 10 to 13), or a system call failed.
    """

    async def work() -> _Value:
        async with open_filesystem(Path(os.fsdecode(store)), background=background) as fs:
            return await act(fs)

    try:
        try:
            return trio.run(work)
        except BaseExceptionGroup as group:
            raise _leaf(group) from group
    except StoreError as error:
        raise store_error(error) from error
    except OSError as error:
        raise CliError.from_os(error) from error
    except FsError as error:
        raise _refused(error, str(error)) from error


def run_words(store: bytes, branch: str, words: Sequence[str]) -> Reply:
    """One command of control's table on one branch.

    Returns:
        The reply, of a refusal, too.

    Raises:
        CliError: No such branch, or the store can't be opened.
    """

    async def act(fs: Filesystem) -> ControlReply:
        commands = Commands(fs)
        return await commands.run_words(_view(fs, branch), words, _ourselves())

    return _opened(store, act, background=False).as_dict()


def import_directory(store: bytes, directory: bytes, branch: str, progress: Progress) -> Reply:
    """Make a branch equal to a directory.

    Raises:
        CliError: No such branch, the directory can't be read, or the store can't take it; the branch is as
            it was.
    """
    from heliosfs.storage.importing import import_tree

    async def act(fs: Filesystem) -> Reply:
        _view(fs, branch)
        result = await import_tree(fs, directory, os.fsencode(branch), progress, _ourselves())
        return local_reply("import", **{**asdict(result), "name": result.snapshot})

    return _opened(store, act, background=False)


def export(
    store: bytes, branch: str, snapshot: str | None, destination: bytes, as_tar: bool, progress: Progress
) -> Reply:
    """Write a branch or a snapshot of it as a tree or a tar.

    Args:
        destination: A directory that is new or empty; with `as_tar` a file, or a name of an open one in /proc.

    Raises:
        CliError: No such branch or snapshot; it can't be written.
    """
    from heliosfs.storage.exporting import ExportResult, export_tar, export_tree

    async def act(fs: Filesystem) -> ExportResult:
        view = _view(fs, branch)
        if snapshot is not None:
            try:
                view = view_of((await fs.snapshot_root(view, os.fsencode(snapshot))).node)
            except FsError as error:
                raise _refused(error, f"{branch} has no snapshot {snapshot}") from error
        if not as_tar:
            return await export_tree(fs, view, destination, progress)
        with open(destination, "wb") as file:
            return await export_tar(fs, view, file, progress)

    return local_reply("export", **asdict(_opened(store, act, background=False)))
