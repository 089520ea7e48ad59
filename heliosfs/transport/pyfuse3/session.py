"""One mounted branch, served through libfuse: mount, serve, unmount.

pyfuse3 keeps its session in module variables, so a process has one. Invariants: the mount is gone when
`serve` returns, however it returns; libfuse's session is freed only when no thread writes to it any more.
Must not know: where the filesystem comes from, how the daemon is started.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyfuse3
import trio

from heliosfs.core.ids import ROOT_INO, ViewNo, node_id
from heliosfs.transport import ending, mounts
from heliosfs.transport.errors import MountRefused
from heliosfs.transport.invalidate import CacheInvalidator
from heliosfs.transport.keeping import Keeper
from heliosfs.transport.lookups import LookupTable
from heliosfs.transport.pyfuse3 import pumping
from heliosfs.transport.pyfuse3.operations import HeliosOperations
from heliosfs.transport.registry import Registry
from heliosfs.transport.requests import AfterReply, MakeControl

if TYPE_CHECKING:
    from heliosfs.filesystem import Filesystem

_log = logging.getLogger("heliosfs.transport")

_MIN_TASKS: Final = 2
_MAX_TASKS: Final = 500
"""Requests in progress at a time: each fsync and each cold read holds a task while it waits."""


class Pyfuse3Session:
    """Serves one view at one mountpoint until somebody unmounts it."""

    transport: str = "pyfuse3"

    def __init__(
        self,
        fs: Filesystem,
        registry: Registry,
        make_control: MakeControl,
        view: ViewNo,
        mountpoint: Path,
        options: set[str],
        *,
        shared: bool = False,
        debug: bool = False,
        keeper: Keeper | None = None,
        besides: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            registry: Of all sessions of this filesystem.
            make_control: Makes the session's control tree, given the way to do something after a reply, and whether
                reads go through the page cache.
            mountpoint: Absolute, its symlinks resolved.
            options: From transport.options.fuse_options.
            shared: Refused: libfuse 3.14 cannot pass reads through.
            debug: Have libfuse print every request to standard error.
            keeper, besides: Not used: libfuse's session can't be taken over.
        """
        if shared:
            raise MountRefused(mountpoint, "cache=shared needs transport=kernel")
        self._fs = fs
        self._registry = registry
        self._make_control = make_control
        self._view = view
        self.mountpoint = mountpoint
        self._options = options | {"debug"} if debug else options
        self._connection: int | None = None
        self._serving: trio.CancelScope | None = None

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Mount, say started, serve until unmounted or until `stop`, and leave nothing mounted.

        Raises:
            MountRefused: No /dev/fuse, no fusermount3, no permission, ...; nothing is mounted then.
        """
        root = node_id(self._view, ROOT_INO)
        lookups = LookupTable()
        invalidator = CacheInvalidator(lookups, _LibfuseNotifier(), root, self._abort)
        after_reply = AfterReply()
        control = self._make_control(after_reply.add, False)
        async with trio.open_nursery() as nursery:
            operations = HeliosOperations(self._fs, control, root, lookups, invalidator, after_reply, nursery)
            self._mount(operations)
            self._registry.add(self._view, lookups, invalidator)
            try:
                nursery.start_soon(self._tune, operations)
                with trio.CancelScope() as self._serving:
                    task_status.started()
                    await pyfuse3.main(min_tasks=_MIN_TASKS, max_tasks=_MAX_TASKS)
            finally:
                self._serving = None
                self._registry.remove(self._view, lookups, invalidator)
                with trio.CancelScope(shield=True):
                    await self._unmount(invalidator)
                self._registry.released(lookups)
                nursery.cancel_scope.cancel()

    @property
    def serving(self) -> bool:
        """Whether it is mounted and answers requests."""
        return self._serving is not None

    def stop(self) -> None:
        """End the session in good order: requests in progress are answered first. Idempotent.

        `serve` returns.
        """
        if self._serving is not None and self._serving.deadline == math.inf:
            self._serving.deadline = trio.current_time() + ending.GRACE_S
            pyfuse3.terminate()

    def hand_over(self) -> None:
        """Not on this transport: nobody could go on."""
        raise AssertionError("a pyfuse3 session ends with its process")

    def _mount(self, operations: HeliosOperations) -> None:
        pumping.install(self._registry.wake_ups())
        with _stderr_captured() as said:
            try:
                pyfuse3.init(operations, os.fspath(self.mountpoint), self._options)
            except RuntimeError as error:
                raise MountRefused(self.mountpoint, said() or str(error)) from None
        mount = mounts.mount_at(self.mountpoint)
        self._connection = mount.connection if mount is not None else None

    async def _tune(self, operations: HeliosOperations) -> None:
        await operations.initialised.wait()
        # INIT is answered right after its handler has returned; the kernel then sets its own read-ahead.
        await trio.sleep(0)
        mount = mounts.mount_at(self.mountpoint)
        if mount is not None:
            for refused in mounts.tune(mount):
                _log.info("not tuned: %s", refused)

    async def _unmount(self, invalidator: CacheInvalidator) -> None:
        if await ending.quiet(invalidator):
            pyfuse3.close(unmount=True)
        else:
            _log.error("a cache notification still hangs: aborting, and leaving libfuse's session as it is")
            self._abort()
        # libfuse takes an aborted connection for an unmounted one.
        await ending.leave_nothing(self.mountpoint, self._connection)

    def _abort(self) -> None:
        ending.abort(self.mountpoint, self._connection)


class _LibfuseNotifier:
    """Notifications by way of libfuse. The calls release the interpreter's lock."""

    def inode(self, node: int, data: bool) -> None:
        pyfuse3.invalidate_inode(node, attr_only=not data)

    def entry(self, parent: int, name: bytes) -> None:
        pyfuse3.invalidate_entry(parent, name)

    def grow(self, node: int, size: int) -> None:
        # One byte behind the old end moves the end; the page it lies in is not up to date, and is dropped next.
        pyfuse3.notify_store(node, size - 1, b"\0")


@contextmanager
def _stderr_captured() -> Iterator[Callable[[], str]]:
    """Catch what libfuse and fusermount3 write to descriptor 2: the only place where they say why."""
    kept = os.dup(2)
    caught = os.memfd_create("stderr")
    try:
        os.dup2(caught, 2)
        yield lambda: os.pread(caught, 4096, 0).decode(errors="replace").strip().replace("\n", "; ")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(caught)
