"""What the kernel must forget after a change that did not come from it: planned here, sent from one thread.

A notification can wait for a page or a directory that another process's request has locked, and only the loop
can answer that request; so it is written from a thread while the loop serves on (docs/concurrency.md). One kind
waits for nothing and is written by the loop: `forget_attributes`.
Whoever publishes a change must hold no lock of the kernel's: control sees to that. Invariants: only nodes
that the kernel may know are told; what is still outstanding when nothing has moved for `patience_s` ends the
connection rather than hang the machine. Must not know: how a notification is written (`Notifier`), why
something changed.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import trio

from heliosfs.core.ids import INO_BITS, Ino, NodeId, ViewNo, node_id
from heliosfs.filesystem.types import Change
from heliosfs.transport.lookups import FUSE_ROOT, LookupTable

_log = logging.getLogger("heliosfs.transport")

PATIENCE_S: Final = 5.0
SETTLING_S: Final = 0.25
"""How long a directory's attributes are held back while no notification gets through."""
_SETTLE_S: Final = 0.001
_GONE: Final = frozenset({errno.ENOTCONN, errno.ENODEV, errno.ECONNABORTED, errno.EBADF, errno.EPERM})


class InvalInode(NamedTuple):
    """Forget an inode's attributes, and its pages if `data`. `node` as on the wire."""

    node: int
    data: bool


class InvalEntry(NamedTuple):
    """Forget what `name` in a directory leads to, or that it leads nowhere. `parent` as on the wire."""

    parent: int
    name: bytes


class GrowInode(NamedTuple):
    """Learn that a file is longer: forgetting attributes alone leaves mappings and appends at the old end."""

    node: int
    size: int


Notification: TypeAlias = InvalInode | InvalEntry | GrowInode


class Notifier(Protocol):
    """How one transport writes a notification. Called from a thread, where it may block."""

    def inode(self, node: int, data: bool) -> None:
        """Raises OSError; ENOENT if the kernel does not know the node."""

    def entry(self, parent: int, name: bytes) -> None:
        """Raises OSError; ENOENT if the kernel does not know the directory or the name."""

    def grow(self, node: int, size: int) -> None:
        """Extend the kernel's idea of a file to `size` > 0 bytes; its pages are forgotten afterwards."""


def plan_notifications(changes: Iterable[Change], lookups: LookupTable, root: NodeId) -> list[Notification]:
    """The notifications that make the kernel forget these changes, and nothing else.

    Args:
        changes: What differs; a change with ino 0 stands for every node of its view.
        lookups: Who the kernel knows. It knows the root always.
        root: The mounted branch's root, which is node 1 on the wire.

    Returns:
        Entries first (a walk that starts now asks again), then new sizes, then inodes, each at most once. Pure.
        O(changes).
    """
    entries: dict[InvalEntry, None] = {}
    inodes: dict[int, bool] = {}
    grown: dict[int, int] = {}
    knows = lookups.knows
    for change in changes:
        if change.ino == 0:
            # Every path into a dead view meets an inode whose attributes are gone, and so ESTALE: no entry is
            # needed.
            for ino in lookups.known(change.view):
                node = node_id(change.view, ino)
                inodes[FUSE_ROOT if node == root else node] = True
            continue
        node = NodeId(change.view << INO_BITS | change.ino)
        if node == root:
            wire = FUSE_ROOT
        elif knows(node):
            wire = node
        else:
            continue
        for name in change.names:
            entries[InvalEntry(wire, name)] = None
        # A directory's pages are its listing, where the kernel keeps one.
        inodes[wire] = inodes.get(wire, False) or change.data or change.gone or bool(change.names)
        if change.grown:
            grown[wire] = change.grown
    sizes = (GrowInode(wire, size) for wire, size in grown.items())
    return [*entries, *sizes, *(InvalInode(wire, data) for wire, data in inodes.items())]


class _Lane:
    """Notifications that wait for each other: one thread, in the order of publishing.

    Attributes:
        sent: How many have come through.
    """

    __slots__ = ("sent", "turn")

    def __init__(self) -> None:
        self.turn = trio.CapacityLimiter(1)
        self.sent = 0


class CacheInvalidator:
    """Tells one connection's kernel what to forget.

    Registered with the filesystem as one of its invalidators.

    Attributes:
        settling: Directories whose names the kernel is still to be told of, and what is set when it has been. No
            reply may give their attributes to keep, and who asks for them alone waits: see `begin`.
    """

    def __init__(
        self,
        lookups: LookupTable,
        notifier: Notifier,
        root: NodeId,
        abort: Callable[[], None],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """
        Args:
            abort: Ends the connection; called in the loop's thread when a notification hangs.
            patience_s: How long one notification may take.
        """
        self._lookups = lookups
        self._notifier = notifier
        self._root = root
        self._abort = abort
        self._patience_s = patience_s
        self._gate = _Lane()
        self._free = _Lane()
        # What the loop writes says nothing of whether the threads get on.
        self._own = _Lane()
        self._closed = False
        self._posted: dict[tuple[ViewNo, Ino, bool, tuple[bytes, ...]], Change] = {}
        self._wake = trio.Event()
        self.settling: dict[NodeId, trio.Event] = {}

    def post(self, change: Change) -> None:
        """Have `run_posted` make the kernel forget, soon; for what nobody waits for. Equal ones count once."""
        self._posted[change[:4]] = change
        self._wake.set()

    async def run_posted(self) -> None:
        """Send what was posted, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            posted, self._posted = self._posted, {}
            await self.invalidate(list(posted.values()))

    async def invalidate(self, changes: Sequence[Change]) -> None:
        """Make the kernel forget; returns when it has. Never raises for what a kernel answers.

        About 100 us for the thread and 3 us for each notification. The caller must not be inside a request
        that holds the lock of a directory or page concerned.
        """
        plan = plan_notifications(changes, self._lookups, self._root)
        if plan:
            await self._send(plan)

    async def begin(self, changes: Sequence[Change]) -> Callable[[], Awaitable[None]]:
        """The first half of `invalidate`, for a request whose caller holds directories' locks: all but names.

        Where the kernel checks permissions, nobody gets through a directory without its attributes, which it has
        to ask for now; and until it has been told of the names, `settled` keeps them waiting. So nobody who comes
        after the request's reply sees a name of before.

        Returns:
            The second half, to be called when the reply has gone out.
        """
        plan = plan_notifications(changes, self._lookups, self._root)
        names = [notification for notification in plan if isinstance(notification, InvalEntry)]
        first = [notification for notification in plan if not isinstance(notification, InvalEntry)]
        told = trio.Event()
        parents = {self._root if name.parent == FUSE_ROOT else NodeId(name.parent) for name in names}
        before = {parent: self.settling.get(parent) for parent in parents}
        self.settling.update(dict.fromkeys(parents, told))
        if first:
            await self._send(first)

        async def finish() -> None:
            try:
                if names:
                    await self._send(names)
                for earlier in before.values():
                    if earlier is not None:
                        await earlier.wait()
            finally:
                for parent in parents:
                    if self.settling.get(parent) is told:
                        del self.settling[parent]
                told.set()

        return finish

    async def settled(self, node: NodeId) -> None:
        """Return when the kernel has been told of a directory's names.

        Who asks may hold the lock that telling it takes: a file was about to be made there when the directory
        changed. When nothing gets through for SETTLING_S, nobody is kept waiting any longer.
        """
        while (told := self.settling.get(node)) is not None:
            before = self._gate.sent
            with trio.move_on_after(SETTLING_S):
                await told.wait()
            if not told.is_set() and self._gate.sent == before and self.settling.get(node) is told:
                del self.settling[node]

    async def drop_data(self, node: NodeId, grown: int = 0) -> None:
        """Forget one inode's pages and attributes: what was written into them is not what it holds.

        Args:
            grown: Its size, if that is more than the kernel knows.
        """
        wire = FUSE_ROOT if node == self._root else node
        sizes = [GrowInode(wire, grown)] if grown else []
        await self._send([*sizes, InvalInode(wire, True)])

    def forget_attributes(self, node: NodeId) -> None:
        """Forget one inode's attributes, at once and from this thread; 3 us.

        Only for the node of a request that is being answered: its caller holds the inode, and attributes alone take
        no lock, so that nothing is waited for. Never raises for what a kernel answers.
        """
        if not self._closed:
            self._perform([InvalInode(FUSE_ROOT if node == self._root else node, False)], self._own)

    async def close(self) -> None:
        """Send nothing more, and return when the thread has left its last notification."""
        self._closed = True
        async with self._gate.turn, self._free.turn:
            return

    async def _send(self, plan: Sequence[Notification]) -> None:
        """One plan at a time, but what takes no directory's lock never waits for what does.

        The names that an earlier request has changed may be waiting for a lock that the caller of this one holds.
        """
        if self._closed:
            return
        names = any(isinstance(notification, InvalEntry) for notification in plan)
        lane = self._gate if names else self._free
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, lane)
            unknown = await self._in_thread(self._perform, plan, lane)
            again = [inode for inode in unknown if self._lookups.knows(NodeId(inode.node))]
            if again:
                # A LOOKUP was answered a moment ago and the caller has not yet woken up to make the inode: it
                # would make it with the attributes of before.
                await self._in_thread(self._perform_settled, again, lane)
            nursery.cancel_scope.cancel()

    async def _in_thread(
        self,
        work: Callable[[Sequence[Any], _Lane], list[InvalInode]],
        plan: Sequence[Any],
        lane: _Lane,
    ) -> list[InvalInode]:
        """One at a time; abandoned when the session ends.

        A hung notification must not keep the daemon alive.
        """
        return await trio.to_thread.run_sync(work, plan, lane, limiter=lane.turn, abandon_on_cancel=True)

    def _perform(self, plan: Sequence[Notification], lane: _Lane) -> list[InvalInode]:
        """In the thread: send all, return the inodes that the kernel claims not to know."""
        unknown = []
        notify_inode, notify_entry = self._notifier.inode, self._notifier.entry
        for notification in plan:
            if self._closed:
                break
            try:
                if isinstance(notification, InvalInode):
                    notify_inode(notification.node, notification.data)
                elif isinstance(notification, GrowInode):
                    self._notifier.grow(notification.node, notification.size)
                else:
                    notify_entry(notification.parent, notification.name)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    if isinstance(notification, InvalInode):
                        unknown.append(notification)
                elif error.errno in _GONE:
                    break
                else:
                    _log.error("the kernel refused %r: %s", notification, error)
            lane.sent += 1
        return unknown

    def _perform_settled(self, plan: Sequence[InvalInode], lane: _Lane) -> list[InvalInode]:
        time.sleep(_SETTLE_S)
        return self._perform(plan, lane)

    async def _watch(self, lane: _Lane) -> None:
        while True:
            before = lane.sent
            await trio.sleep(self._patience_s)
            if lane.sent == before and not self._closed:
                _log.critical("a cache notification hangs for %s s: ending the connection", self._patience_s)
                self._closed = True
                self._abort()
                return
