"""One mounted branch, served on /dev/fuse by ourselves: mount, agree, serve, unmount.

A session can also be made from a descriptor on which INIT has been answered, and what was agreed then: node ids
mean the same in every process, so nothing else has to be handed over. Invariants: the mount is gone when
`serve` returns, however it returns; the descriptor is closed only when no thread writes to it any more.
Must not know: where the filesystem comes from, how the daemon is started.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from heliosfs.core.ids import ROOT_INO, ViewNo, node_id
from heliosfs.transport import ending, mounts
from heliosfs.transport.errors import MountRefused
from heliosfs.transport.invalidate import CacheInvalidator
from heliosfs.transport.keeping import Found, Keeper, NobodyKeeps, kept_name
from heliosfs.transport.kernel import mount as mounting
from heliosfs.transport.kernel import wire
from heliosfs.transport.kernel.handlers import Handler
from heliosfs.transport.kernel.interrupts import Interrupts
from heliosfs.transport.kernel.negotiation import Connection, TooOld, negotiate
from heliosfs.transport.kernel.notify import KernelNotifier
from heliosfs.transport.kernel.operations import HeliosHandlers
from heliosfs.transport.kernel.pump import Pump
from heliosfs.transport.kernel.resent import Resent
from heliosfs.transport.kernel.sharing import SharedOpens, may_pass_through
from heliosfs.transport.kernel.tracing import RequestLog
from heliosfs.transport.lookups import LookupTable, UncountedLookups
from heliosfs.transport.registry import Registry
from heliosfs.transport.requests import AfterReply, MakeControl

if TYPE_CHECKING:
    from heliosfs.filesystem import Filesystem

_log = logging.getLogger("heliosfs.transport")

_NOBODY: Final = NobodyKeeps()
_NOTHING: Final[Mapping[str, Any]] = {}


class KernelSession:
    """Serves one view at one mountpoint until somebody unmounts it."""

    transport: str = "kernel"

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
        keeper: Keeper = _NOBODY,
        besides: Mapping[str, Any] = _NOTHING,
    ) -> None:
        """
        Args:
            registry: Of all sessions of this filesystem.
            make_control: Makes the session's control tree, given the way to do something after a reply, and whether
                reads go through the page cache.
            mountpoint: Absolute, its symlinks resolved.
            options: From transport.options.fuse_options.
            shared: Pass reads of stored files through to backing files (`-o cache=shared`).
            debug: Log every request.
            keeper: Holds the descriptor for the process that goes on when this one has died.
            besides: What else that process has to know.
        """
        self._fs = fs
        self._registry = registry
        self._make_control = make_control
        self._view = view
        self._options = options
        self._shared = shared
        self._trace = RequestLog() if debug else None
        self._besides = besides
        self._keeper = keeper
        self._name = kept_name(mountpoint)
        self._kept = False
        self._pump: Pump | None = None
        self._number: int | None = None
        self._stopping = False
        self._stop_asked = trio.Event()
        self.mountpoint = mountpoint

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Mount, say started, serve until unmounted or until `stop`, and leave nothing mounted.

        Raises:
            MountRefused: No /dev/fuse, no fusermount3, no permission, ...; nothing is mounted then.
        """
        kept = self._keeper.found(self._name)
        if kept is not None:
            await self._serve_kept(kept, task_status)
            return
        fd = await trio.to_thread.run_sync(mounting.mount, self.mountpoint, self._options)
        in_order = True
        try:
            mount = mounts.mount_at(self.mountpoint)
            self._number = mount.connection if mount is not None else None
            connection = await self._agree(fd)
            if mount is not None:
                for refused in mounts.tune(mount):
                    _log.info("not tuned: %s", refused)
            number = int.from_bytes(os.urandom(4), "little") | 1
            if connection.has(wire.Flag.HAS_RESEND):
                more = {
                    "agreed": connection.to_json(),
                    "number": self._number,
                    "connection": number,
                    **self._besides,
                }
                self._kept = self._keeper.keep(self._name, fd, more)
            await self.serve_agreed(fd, connection, number, task_status)
        except Exception:
            in_order = False
            raise
        finally:
            await self._let_go(fd, in_order)

    async def _serve_kept(self, kept: Found, task_status: trio.TaskStatus[None]) -> None:
        """Go on with the mount of a former process."""
        self._kept = True
        self._number = kept.more["number"]
        connection = Connection.from_json(kept.more["agreed"])
        in_order = True
        try:
            await self.serve_agreed(kept.fd, connection, kept.more["connection"], task_status, again=True)
        except Exception:
            in_order = False
            raise
        finally:
            await self._let_go(kept.fd, in_order)

    async def _let_go(self, fd: int, in_order: bool) -> None:
        """Close the descriptor, and unmount, unless another process is to go on.

        Args:
            in_order: It was unmounted or stopped; not what an error does.
        """
        with trio.CancelScope(shield=True):
            os.close(fd)
            if self._kept and (self._keeper.handing_over or not in_order):
                return
            await ending.leave_nothing(self.mountpoint, self._number)
            if self._kept:
                self._keeper.drop(self._name)

    async def serve_agreed(
        self,
        fd: int,
        connection: Connection,
        number: int = 0,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
        *,
        again: bool = False,
    ) -> None:
        """Serve a descriptor on which INIT has been answered; does not close it.

        Args:
            number: Of the connection, in the log's records; 0: it ends with this process.
            again: A former process has served it.

        Returns when the connection has ended, or after `stop` when what was read has been answered.
        """
        root = node_id(self._view, ROOT_INO)
        lookups = UncountedLookups() if again else LookupTable()
        notifier = KernelNotifier(fd)
        invalidator = CacheInvalidator(lookups, notifier, root, self._abort)
        after_reply = AfterReply()
        control = self._make_control(after_reply.add, True)
        registry = self._registry
        sharing = SharedOpens(fd, self._fs) if connection.has(wire.Flag.PASSTHROUGH) else None
        async with trio.open_nursery() as nursery:
            handlers = HeliosHandlers(
                self._fs,
                control,
                root,
                lookups,
                invalidator,
                after_reply,
                nursery,
                connection,
                registry.forgotten,
                sharing,
            )
            interrupts = Interrupts(fd, partial(handlers.uncount, count=1))
            table = handler_table(handlers)
            table[wire.INTERRUPT.opcode] = interrupts.interrupt
            resent: Resent | None = None
            if again:
                # Which of them were read, and so are in the page cache, is not known.
                handlers.read_tickets.update(control.known_tickets())
                resent = Resent(
                    handlers,
                    table,
                    number,
                    self._fs.unanswered,
                    refuse=self._keeper.refuse_resent,
                    caught_up=self._keeper.caught_up,
                )
            self._pump = Pump(
                fd,
                table,
                self._fs.settled,
                after_reply,
                partial(setattr, registry, "asking", lookups),
                self._fs.asker,
                number,
                self._fs.unanswered,
                self._fs,
                interrupts,
                self._trace,
                None if resent is None else resent.close,
                registry.wake_ups(),
            )
            if self._trace is not None and not connection.has(wire.Flag.SETXATTR_EXT):
                self._trace.setxattr = wire.Layouts.SETXATTR
            registry.add(self._view, lookups, invalidator)
            try:
                nursery.start_soon(self._stop_when_asked)
                nursery.start_soon(invalidator.run_posted)
                nursery.start_soon(interrupts.watch)
                if resent is not None:
                    notifier.resend()
                    nursery.start_soon(self._tell_again, resent, invalidator)
                else:
                    self._keeper.caught_up()
                task_status.started()
                self._fs.commit.watch(fd)
                await self._pump.run()
            except BaseException as error:
                if not isinstance(error, Exception):
                    # Cancelled, alone or in a group.
                    self._keeper.taken_down()
                raise
            finally:
                self._fs.commit.unwatch(fd)
                self._pump = None
                registry.remove(self._view, lookups, invalidator)
                with trio.CancelScope(shield=True):
                    if not await ending.quiet(invalidator):
                        _log.error("a cache notification still hangs: aborting")
                        self._abort()
                registry.released(lookups, handed_over=self._keeper.handing_over)
                if sharing is not None:
                    sharing.close()
                if self._trace is not None:
                    self._trace.ended()
                nursery.cancel_scope.cancel()

    async def _tell_again(self, resent: Resent, invalidator: CacheInvalidator) -> None:
        """Have the kernel drop what the former process may not have told it to; callers of commands wait for it.

        One of them may hold a directory's lock: the names follow the replies.
        """
        finish = await invalidator.begin(self._fs.continuation.changes)
        resent.told.set()
        await resent.answered()
        await finish()

    def hand_over(self) -> None:
        """Read nothing more, and leave the mount as it is: another process goes on. `serve` returns."""
        if self._pump is not None:
            self._pump.stop()

    @property
    def serving(self) -> bool:
        """Whether it is mounted and answers requests."""
        return self._pump is not None

    def stop(self) -> None:
        """End the session in good order: requests in progress are answered first. Idempotent.

        `serve` returns.
        """
        self._stop_asked.set()

    async def _stop_when_asked(self) -> None:
        """Unmount while the loop serves on: mappings may have to be written back. Then read nothing more."""
        await self._stop_asked.wait()
        with trio.move_on_after(ending.GRACE_S):
            unmount = partial(mounts.unmount_once, self.mountpoint, lazy=False)
            await trio.to_thread.run_sync(unmount, abandon_on_cancel=True)
        if self._pump is not None:
            self._pump.stop()

    async def _agree(self, fd: int) -> Connection:
        """Answer INIT. Raises MountRefused: the kernel is too old, or was unmounted before it asked."""
        buffer = bytearray(wire.REQUEST_MAX)
        while True:
            await trio.lowlevel.wait_readable(fd)
            try:
                end = os.readv(fd, [buffer])
            except BlockingIOError:
                continue
            except OSError as error:
                raise MountRefused(self.mountpoint, os.strerror(error.errno or 0)) from None
            head = wire.IN_HEADER.unpack_from(buffer)
            if head[1] != wire.INIT.opcode or end < wire.LEAST[wire.INIT.opcode]:
                os.write(fd, wire.OUT_HEADER.pack(wire.OUT_HEADER.size, -5, head[2]))
                continue
            try:
                connection, body = negotiate(
                    memoryview(buffer)[wire.BODY : end],
                    passthrough=self._shared,
                    trusted="default_permissions" not in self._options,
                )
            except TooOld as error:
                raise MountRefused(self.mountpoint, str(error)) from None
            os.write(fd, wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(body), 0, head[2]) + body)
            if connection is not None:
                if self._shared and not (connection.has(wire.Flag.PASSTHROUGH) and may_pass_through(fd)):
                    raise MountRefused(self.mountpoint, "cache=shared needs root, and Linux 6.9 or later")
                return connection

    def _abort(self) -> None:
        ending.abort(self.mountpoint, self._number)


def handler_table(handlers: HeliosHandlers) -> list[Handler | None]:
    """The handlers by opcode, as the pump wants them; an operation without one is ENOSYS."""
    table: list[Handler | None] = [None] * wire.OPCODES
    for operation in wire.OPERATIONS:
        table[operation.opcode] = getattr(handlers, operation.name.lower(), None)
    return table
