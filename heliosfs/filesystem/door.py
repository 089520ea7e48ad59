"""What every operation shares: plan against loaded pages, append, apply.

    record = plan(...)             # FsError: nothing happened
    place = log.append(record)     # OSError: nothing happened
    reply = apply(engine, record, place)   # cannot fail

The reply may go out between the two latter (`promise`, `keep`). Before it plans, a change waits for room (`admit`),
unless it is one that leads to more of it (`try_release`).
Between a successful plan and its apply there is no await, so no other change comes between (docs/concurrency.md).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import trio

from heliosfs.core.apply import apply
from heliosfs.core.diff import Change
from heliosfs.core.effects import changes_of
from heliosfs.core.engine import Engine
from heliosfs.core.errors import NeedPages
from heliosfs.core.ids import Lsn, PageId
from heliosfs.core.oplog import Record
from heliosfs.core.unanswered import Applied, Unanswered
from heliosfs.storage.breath import Breath
from heliosfs.storage.collecting.reads import ReadsUnderWay
from heliosfs.storage.log import GroupCommit, Log, Place
from heliosfs.storage.pagecache import PageCache
from heliosfs.storage.persist import Persister
from heliosfs.storage.space import Space

T = TypeVar("T")
_PATIENCE: Final = 24
"""Retries of one plan before its pages are loaded on the loop: a plan that walks the whole tree would
otherwise start again for each of them."""
_GRANT: Final = 4 << 20
"""Bytes of log after which a writer looks at the disk again, at most: others fill it, too."""
_RECORD_ROOM: Final = 1 << 14
"""Beside a payload, a record has at most so much: names, an xattr."""


class NeedRoom(Exception):
    """The log is over its budget, or the disk is full: wait for room and call again.

    Nothing has changed.

    Attributes:
        length: Bytes of payload that are to be appended.
    """

    def __init__(self, length: int = 0) -> None:
        super().__init__("no room")
        self.length = length


class Door:
    """The engine behind its log.

    Attributes:
        watcher: Told what each file operation is about to change, where somebody else than who asked must know.
        owed: What has been promised and not yet applied.
        spare: Frees so many bytes of the disk, if what is only kept there for speed has as many; how many it were.
    """

    spare: Callable[[int], int] = staticmethod(lambda wanted: 0)
    watcher: Callable[[list[Change]], None] | None = None
    owed: tuple[Record, Place] | None = None

    def __init__(
        self,
        engine: Engine,
        log: Log,
        commit: GroupCommit,
        cache: PageCache,
        persister: Persister,
        reads: ReadsUnderWay,
        space: Space,
    ) -> None:
        self.engine = engine
        self.log = log
        self.commit = commit
        self.cache = cache
        self.persister = persister
        self.reads = reads
        self.space = space
        self._granted = 0
        self._loading: dict[PageId, trio.Event] = {}

    @property
    def asker(self) -> Log:
        """Where a transport says whose request goes on: the log writes it down."""
        return self.log

    @property
    def unanswered(self) -> Unanswered:
        """See Engine."""
        return self.engine.unanswered

    def now(self) -> int:
        """Nanoseconds since 1970, greater than every time before: two changes never have one ctime."""
        engine = self.engine
        now = time.time_ns()
        if now <= engine.last_ns:
            now = engine.last_ns + 1
        engine.last_ns = now
        return now

    async def planned(self, plan: Callable[..., T], *args: Any) -> T:
        """What `plan(*args)` gives, its pages loaded off the loop as it asks for them."""
        for _ in range(_PATIENCE):
            try:
                return plan(*args)
            except NeedPages as need:
                await self.load(need.ids)
        with self.cache.blocking():
            return plan(*args)

    async def settled(self, act: Callable[..., T], *args: Any) -> T:
        """What `act(*args)` gives: an operation of immediate.py, provided with pages and room as it asks."""
        tries = 0
        while True:
            try:
                if tries < _PATIENCE:
                    return act(*args)
                with self.cache.blocking():
                    return act(*args)
            except NeedPages as need:
                tries += 1
                await self.load(need.ids)
            except NeedRoom as need:
                await self.admit(need.length)

    async def load(self, ids: tuple[PageId, ...]) -> None:
        """Bring pages into the cache; each is read once however many wait. Raises Damaged."""
        with self.reads.read():
            await self._load(ids)

    async def _load(self, ids: tuple[PageId, ...]) -> None:
        others = [event for page_id in ids if (event := self._loading.get(page_id)) is not None]
        mine = [page_id for page_id in ids if page_id not in self._loading]
        for page_id in mine:
            self._loading[page_id] = trio.Event()
        if mine:
            try:
                breath = Breath()
                for page_id, encoded in zip(mine, await trio.to_thread.run_sync(self._read, mine), strict=True):
                    self.cache.add(page_id, encoded)
                    await breath.take()
            finally:
                for page_id in mine:
                    self._loading.pop(page_id).set()
        # Only now: somebody who waits for these may be whom the others wait for.
        for event in others:
            await event.wait()

    def _read(self, ids: list[PageId]) -> list[bytes]:
        return [self.cache.load(page_id) for page_id in ids]

    @property
    def crowded(self) -> bool:
        """Whether a change has to wait for room first (`admit`)."""
        return (self.log.end >= self._granted or self.log.over_budget) and not self._grant(0)

    def crowded_by(self, length: int) -> bool:
        """As `crowded`, for a record with `length` bytes of payload."""
        return (self.log.end >= self._granted or self.log.over_budget) and not self._grant(length)

    def _grant(self, length: int) -> bool:
        """Let the next changes in without a look if there is room for one with `length` bytes. 5 us."""
        if self.log.over_budget:
            return False
        room = self.space.room(self.persister.unstored)
        if room < length + _RECORD_ROOM:
            return False
        self._granted = self.log.end + min(room // 4, _GRANT)
        return True

    async def admit(self, length: int = 0) -> None:
        """Return when there is room for a record with `length` bytes of payload, in the log and on the disk.

        Suspends only where there is none.

        Raises:
            OSError: ENOSPC; or what keeps the log from being emptied.
        """
        log, persister = self.log, self.persister
        while True:
            if log.over_budget:
                await persister.wait_for_room()
            if self._grant(length):
                return
            if not log.over_budget and self.spare(length):
                continue
            if not await persister.make_room():
                raise OSError(errno.ENOSPC, "no space left on the disk of the store")

    def promise(self, record: Record, payload: bytes | memoryview = b"", *, releasing: bool = False) -> None:
        """Append a planned record, which makes it true; `keep` applies it. What it does can be told meanwhile.

        A transport replies in between, so that applying takes none of its caller's time. Nothing may look at the
        state before `keep`, and nothing be awaited. Where others must be told before the caller, it is applied
        at once, and nothing is owed.

        Args:
            payload: The bytes of a write.
            releasing: It leads to free space, and may use the log's reserve for that.

        Raises:
            OSError: The log cannot take it: nothing has happened.
        """
        assert self.owed is None
        place = self._append(record, payload, releasing)
        if self.watcher is None:
            self.owed = (record, place)
        else:
            self._apply(record, place)

    def keep(self) -> None:
        """Apply what is owed, if anything is."""
        owed = self.owed
        if owed is not None:
            self.owed = None
            self._apply(*owed)

    def carry_out(self, record: Record, payload: bytes | memoryview = b"", *, releasing: bool = False) -> Any:
        """Append and apply a planned record; what its rule returns. Arguments and errors as of `promise`."""
        return self._apply(record, self._append(record, payload, releasing))

    def _append(self, record: Record, payload: bytes | memoryview, releasing: bool) -> Place:
        body = record.encode()
        place = self.log.append(record.KIND, body, payload, releasing=releasing)
        if self.engine.unanswered:
            self._note(record.KIND, body, place)
        return place

    def _apply(self, record: Record, place: Place) -> Any:
        self.cache.begin_blocking()
        try:
            if self.watcher is not None:
                self.watcher(changes_of(self.engine, record))
            return apply(self.engine, record, place)
        finally:
            self.cache.end_blocking()

    def _note(self, kind: int, body: bytes, place: Place) -> None:
        """A request that is under way for longer has changed something."""
        records = self.engine.unanswered.get((place.connection, place.request))
        if records is not None:
            records.append(Applied(kind, body, place.lsn, place.length))

    def try_change(self, plan: Callable[..., Record], *args: Any) -> Any:
        """Plan and carry out, at once. Raises NeedRoom, NeedPages, as the plan and the log."""
        if self.crowded:
            raise NeedRoom
        return self.carry_out(plan(*args))

    def try_release(self, plan: Callable[..., Record], *args: Any) -> Any:
        """As `try_change`, for what leads to free space: works on a full disk, as far as the reserve goes.

        Never waits for room: its records are small, and where the log can't be emptied they are the way out.
        """
        return self.carry_out_release(plan(*args))

    def carry_out_release(self, record: Record) -> Any:
        """As `carry_out`, with the reserve. Raises OSError: the log cannot take it, nor could the reserve."""
        return self._with_reserve(self.carry_out, record)

    def promise_release(self, record: Record) -> None:
        """As `promise`, with the reserve. Raises OSError: the log cannot take it, nor could the reserve."""
        self._with_reserve(self.promise, record)

    def _with_reserve(self, act: Callable[..., T], record: Record) -> T:
        try:
            return act(record, releasing=True)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.space.release():
                raise
        return act(record, releasing=True)

    def durable(self, lsn: int) -> bool:
        """Whether what ended at `lsn` survives power loss."""
        return lsn <= self.log.durable_lsn or lsn <= self.persister.persisted

    async def wait_durable(self, lsn: Lsn) -> None:
        """Return when what ended at `lsn` survives power loss. Raises OSError (EIO) if it cannot."""
        if not self.durable(lsn):
            await self.commit.wait_durable(lsn)
