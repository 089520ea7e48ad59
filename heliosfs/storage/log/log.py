"""The log: records appended to the current life, which gives way to the next when it is full.

What was appended is made durable by syncing.py, read and released by lives.py. Invariants: a record is whole or
absent; `end` moves only when a record is whole on the file; after a life that was left nothing is appended to it.
Appending and releasing happen on one thread; `sync`, `read` and `read_blocks` may be called from others.
Must not know: what records mean, filesystems, the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from cas.checksum import crc32
from heliosfs.core.ids import Lsn
from heliosfs.storage.log.frame import (
    BLOCK_BYTES,
    HEADER_BYTES,
    KIND_MARK,
    KIND_SEAL,
    RECORD_BYTES,
    LifeHeader,
    Place,
    block_sums,
    encode_record,
    pack_rest,
    pack_u32,
)
from heliosfs.storage.log.oscalls import Bytes, OsCalls
from heliosfs.storage.log.recovery import OnRecord, Recovery, recover
from heliosfs.storage.log.seen import Seen
from heliosfs.storage.log.segment import Segment, SegmentFiles
from heliosfs.storage.log.syncing import Syncing
from heliosfs.storage.note import StoreNote

SEGMENT_BYTES: Final = 16 << 20
SPARES: Final = 4
_SEAL_ROOM: Final = RECORD_BYTES + 8
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
_PADDING: Final = [bytes(n) for n in range(8)]
_place: Final[Callable[[tuple[object, ...]], Place]] = partial(tuple.__new__, Place)
"""Place(*fields), 0.3 us quicker: every change comes here."""


class Log(Syncing):
    """An append-only log over recycled segment files.

    Attributes:
        recovery: What opening found.
        current_life: Number of the life that is appended to.
        epoch: Number of the writer, in each record's header: the first life that it began. Of two writers the
            later one has the higher.
        connection, request: Who asks for what is appended next, in its header; 0, 0 for nobody.
        appends: Records appended since it was opened.
    """

    def __init__(self, files: SegmentFiles, budget_bytes: int, calls: OsCalls) -> None:
        super().__init__(files, budget_bytes, calls)
        self.recovery = Recovery()
        self.current_life = 0
        self.epoch = 0
        self.connection = 0
        self.request = 0
        self.appends = 0
        self._resting = False
        self._last_life = 0
        self._limit = 0
        self._due: tuple[int, int, int] | None = None
        """Where the fresh life after a recovery begins, and what it follows, until there is room for it."""

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        budget_bytes: int,
        start: Lsn,
        on_record: OnRecord,
        segment_bytes: int = SEGMENT_BYTES,
        spares: int = SPARES,
        reserve_bytes: int = 0,
        calls: OsCalls | None = None,
        seen: Seen | None = None,
        note: StoreNote | None = None,
    ) -> Log:
        """Replay what ends above `start` through `on_record`, then go on in a fresh life.

        On a disk without room for one nothing can be appended until there is: what was replayed can be read.

        Args:
            spares: How many unused segment files are kept.
            reserve_bytes: Size of a segment that only this and appends with `releasing` may use; 0 for none.
            seen: What has been replayed already, by a `LogFollower` with the same start; with a note of the process
                that has written the log.
            note: How far the log is durable is noted there.

        Raises:
            SeenOtherwise: The log is not what was seen; nothing has been replayed.
            LogDamaged: A record below the durable position is wrong.
            StoreNewer: A segment of a later version.
            OSError: Reading, or beginning the fresh life; ENOSPC only of a log that holds nothing.
        """
        calls = calls or OsCalls()
        files = SegmentFiles(directory, calls, segment_bytes, spares, reserve_bytes)
        log = cls(files, budget_bytes, calls)
        claimed = Lsn(note.durable) if note is not None and seen is not None else None
        try:
            found = recover(files, calls, start, on_record, seen, claimed)
            log.recovery = found.recovery
            for segment in found.lives:
                log._lives[segment.header.life] = segment
                log.used_bytes += segment.file.size
            log.note = note
            log._now_durable(found.durable)
            log._dirty = [segment for segment in found.lives if segment.end_lsn > found.durable]
            log._last_life = found.last_life
            log._due = (max(found.end, HEADER_BYTES), found.prev_life, found.prev_end)
            try:
                log._begin_life(*log._due, releasing=True)
            except OSError as error:
                if error.errno not in _FULL or not found.lives:
                    raise
                log._use(found.lives[-1])
                log._limit = 0
                log.end = max(log.end, found.end)
        except BaseException:
            log._close_files()
            raise
        return log

    def _begin_life(self, position: int, prev: int, prev_end: int, *, releasing: bool) -> None:
        file = self._files.take(releasing=releasing)
        # A number is used up even if its header then fails: half of that may be on the disk.
        life = self._last_life = self._last_life + 1
        header = LifeHeader(
            life,
            position - HEADER_BYTES,
            file.size,
            self.durable_lsn,
            prev,
            prev_end,
            os.urandom(16),
        )
        try:
            segment = self._files.begin_life(file, header)
        except OSError:
            self._files.give(file)
            # That header may be on the disk all the same, and it names our end: what came behind that in the
            # old life would be lost. So the next append, however small, tries to begin a life again.
            self._limit = 0
            raise
        self._lives[life] = segment
        self.used_bytes += file.size
        self._resting = False
        self._due = None
        if not self.epoch:
            self.epoch = life & 0xFFFF_FFFF
        # At once: a sync that saw the new life dirty but not current would take it for done with.
        with self._lock:
            self._dirty.append(segment)
            self._use(segment)

    def _use(self, segment: Segment) -> None:
        self._segment = segment
        self.current_life = segment.header.life
        self._fd = segment.file.fd
        self._base = segment.header.base
        self._seed = segment.seed
        self._marker = segment.marker
        self._offset = segment.end
        self._limit = segment.header.size - _SEAL_ROOM
        self.end = Lsn(self._base + self._offset)

    # --- appending -----------------------------------------------------------------------------------

    def append(
        self, kind: int, body: bytes, payload: bytes | bytearray | memoryview = b"", *, releasing: bool = False
    ) -> Place:
        """Append one record, whole or not at all. It survives SIGKILL when this returns.

        Args:
            kind: Below FIRST_INTERNAL_KIND.
            releasing: The record leads to free space (a removal): on a full disk it may use the reserve.

        Raises:
            OSError: ENOSPC, EIO, ...: nothing has happened; EROFS: the log has failed before.
        """
        if self.failed is not None:
            raise OSError(errno.EROFS, f"the log is read-only: {self.failed}")
        size = len(payload)
        used = RECORD_BYTES + len(body) + size
        if size:
            used += (size + BLOCK_BYTES - 1) // BLOCK_BYTES * 4
        length = (used + 7) & ~7
        offset = self._offset
        if offset + length > self._limit:
            self._roll(length, releasing)
            offset = self._offset
        seed, connection, request = self._seed, self.connection, self.request
        lsn = self._base + offset
        rest = (
            self._marker
            + pack_rest(length, kind, 0, 0, len(body), size, lsn, self.durable_lsn, request, self.epoch, connection)
            + body
        )
        buffers: tuple[Bytes, ...]
        if size:
            sums = block_sums(payload, seed)
            rest += sums
            buffers = (pack_u32(crc32(rest, seed)), rest, payload, _PADDING[length - used])
        else:
            sums = b""
            buffers = (pack_u32(crc32(rest, seed)) + rest + _PADDING[length - used],)
        # 0.1 us; somebody else has it only while a segment whose sync failed changes its file.
        with self._appending:
            try:
                written = self._calls.append(self._fd, buffers, offset)
            except OSError:
                self._cancel(offset)
                raise
            if written != length:
                self._cancel(offset)
                raise OSError(errno.ENOSPC, "short append to the log")
            self._offset = self._segment.end = offset + length
            self.end = end = Lsn(lsn + length)
        self.appends += 1
        at = offset + length - size - len(_PADDING[length - used])
        return _place((lsn, end, self.current_life, at, size, sums, connection, request))

    def _cancel(self, offset: int) -> None:
        """Blank a record that may be half there: it must not be replayed."""
        try:
            self._calls.cancel(self._fd, bytes(RECORD_BYTES), offset)
        except OSError as error:
            self._uncancelled = True
            self.failed = OSError(
                error.errno or errno.EIO, f"a record that was refused can't be taken back: {error}"
            )

    def rest(self) -> None:
        """Give the disk back what a log without work needs not: spare files, and the blocks of a new life.

        Only where everything was released. The next append takes them again, 50 us later; ENOSPC comes there.
        """
        if self._resting or self._due is not None or self.failed is not None:
            return
        self._files.drop_spares()
        if self._released < self.end:
            return
        old = self._segment
        try:
            if old.end > HEADER_BYTES:
                self._begin_life(self.end + _SEAL_ROOM, self.current_life, self.end, releasing=False)
                old.sealed = True
                self._free(old)
                self._files.drop_spares()
            self._calls.truncate(self._fd, HEADER_BYTES)
            self._segment.file.written = HEADER_BYTES
        except OSError:
            # Without room for another file, or where it can't be cut short, it goes on as it is.
            return
        self._resting = True
        self._limit = 0

    def _wake(self) -> None:
        """Have all blocks of the current life again. Raises OSError ENOSPC: it rests on."""
        self._calls.preallocate(self._fd, 0, self._segment.header.size)
        self._resting = False
        self._limit = self._segment.header.size - _SEAL_ROOM

    def _roll(self, length: int, releasing: bool) -> None:
        if self._resting:
            try:
                self._wake()
            except OSError:
                if not releasing:
                    raise
            if self._offset + length <= self._limit:
                return
        if length + HEADER_BYTES + _SEAL_ROOM > self._files.segment_bytes:
            raise OSError(errno.EFBIG, "record larger than a segment")
        old, old_end, due = self._segment, self.end, self._due
        position, prev, prev_end = due or (old_end + _SEAL_ROOM, self.current_life, old_end)
        self._begin_life(position, prev, prev_end, releasing=releasing)
        # To a former process's life nothing is written: what was torn off it lies behind its end.
        if due is None:
            old.sealed = True
            seal = encode_record(
                old.seed,
                old.marker,
                old_end,
                self.durable_lsn,
                KIND_SEAL,
                self.current_life.to_bytes(8, "little"),
            )
            # Lying behind the end that the new header names, it is a hint to people and never read by recovery
            # unless that header is lost: its failure costs nothing.
            with contextlib.suppress(OSError):
                self._calls.append(old.file.fd, [seal], old.end)
        if self._offset + length > self._limit:
            raise OSError(errno.ENOSPC, "the log's reserve is too small for this record")

    # --- closing -------------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Counts since the start."""
        return {
            "appends": self.appends,
            "syncs": self._syncs,
            "moves": self.moves,
            "segments": len(self._lives),
            "used_bytes": self.used_bytes,
        }

    def close(self) -> None:
        """Sync what is not durable and close the files; afterwards it refuses everything. Idempotent."""
        try:
            if self.failed is None or self.mend():
                self.sync()
                self._mark()
        finally:
            self._close_files()

    def _mark(self) -> None:
        """Leave a claim behind the last records, so that damage to them is not taken for a torn tail."""
        if self._offset + RECORD_BYTES > self._limit:
            return
        mark = encode_record(self._seed, self._marker, self.end, self.durable_lsn, KIND_MARK, b"")
        with contextlib.suppress(OSError):
            self._calls.append(self._fd, [mark], self._offset)

    def _close_files(self) -> None:
        # A sync that is under way still uses the directory.
        with self._syncing:
            if self.failed is None:
                self.failed = OSError(errno.EBADF, "closed")
            self._unsyncable.clear()
            self._nameless = self._uncancelled = False
            for segment in self._lives.values():
                os.close(segment.file.fd)
            self._lives.clear()
            self._dirty.clear()
            self._files.close()
