"""Making the log durable: one fdatasync for all who wait, and a way on where it fails.

Invariants: the durable position never exceeds what was synced; one sync at a time; no fdatasync that failed is
tried again: its segment can only be moved, at once or later (`mend`); until then the log takes no changes. Syncs
may run in any thread; one that the appending thread begins and somebody else performs (`begin_sync`) is ended by
whoever knows its outcome.
Must not know: who waits, how records are appended.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from dataclasses import dataclass
from typing import Final

from heliosfs.core.ids import Lsn
from heliosfs.storage.log.frame import RECORD_BYTES
from heliosfs.storage.log.lives import Lives
from heliosfs.storage.log.moving import SegmentMove
from heliosfs.storage.log.oscalls import OsCalls
from heliosfs.storage.log.segment import Segment, SegmentFiles
from heliosfs.storage.note import StoreNote

_log = logging.getLogger(__name__)

_AHEAD: Final = bytes(256 << 10)
_LITTLE_AHEAD: Final = 8 << 10
_MANY_BYTES: Final = 64 << 10
_PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class BegunSync:
    """A sync that `begin_sync` has begun.

    Attributes:
        segment: What is synced.
        fd: Its descriptor, when the sync began.
        end: What will be durable.
    """

    segment: Segment
    fd: int
    end: Lsn


class Syncing(Lives):
    """What is durable, and how more becomes so.

    Attributes:
        end: Position of the next record.
        durable_lsn: All records that end at or below it survive power loss.
        failed: The error that made the log read-only, or None. `mend` may end that.
        moves: How many segments were moved to another file because a sync of them failed.
        note: Where the durable position is noted for the next process.
    """

    end: Lsn
    _limit: int
    _fd: int
    _offset: int

    def __init__(self, files: SegmentFiles, budget_bytes: int, calls: OsCalls) -> None:
        super().__init__(files, budget_bytes, calls)
        self.durable_lsn = Lsn(0)
        self.failed: OSError | None = None
        self.moves = 0
        self.note: StoreNote | None = None
        self._syncs = 0
        # What stands in the way: lives to be moved, names that may not be durable, a record that is half there.
        self._unsyncable: set[int] = set()
        self._nameless = False
        self._uncancelled = False
        self._syncing = threading.Lock()
        self._appending = threading.Lock()

    def sync(self) -> None:
        """Make every record appended so far survive power loss. Blocks.

        A segment whose fdatasync fails is moved to another file (moving.py), never synced again.

        Raises:
            OSError: It can't be made so, nor moved; the log is read-only from now on.
        """
        with self._syncing:
            if self.failed is not None:
                raise OSError(errno.EROFS, f"the log is read-only: {self.failed}")
            self._sync()

    def _sync(self) -> None:
        fds: list[int] = []
        with self._lock:
            end = self.end
            if end <= self.durable_lsn:
                return
            current = self._segment
            dirty = list(self._dirty)
            try:
                # Descriptors of our own: a life released meanwhile has its file closed by the other thread.
                for segment in dirty:
                    fds.append(os.dup(segment.file.fd))
            except OSError:
                for fd in fds:
                    os.close(fd)
                raise
        try:
            self._sync_names(dirty)
            for segment, fd in zip(dirty, fds, strict=True):
                if segment.header.life in self._unsyncable:
                    self._move(segment, self.failed or OSError(errno.EIO, os.strerror(errno.EIO)))
                    continue
                try:
                    self._calls.sync(fd)
                except OSError as error:
                    self._move(segment, error)
        finally:
            for fd in fds:
                os.close(fd)
        with self._lock:
            # What was appended to while the sync ran stays, though it may be sealed by now.
            self._dirty = [s for s in self._dirty if s is current or s not in dirty]
        self._syncs += 1
        self._now_durable(end)

    def _sync_names(self, dirty: list[Segment]) -> None:
        try:
            self._files.sync_directory()
        except OSError as error:
            # The next sync of the directory may report success for names that this one has lost: all of those that
            # are needed are made anew, by moving their segments; the others are given up.
            self._nameless = True
            self._unsyncable.update(segment.header.life for segment in dirty)
            self.failed = OSError(error.errno or errno.EIO, f"names of its files could not be synced: {error}")
            raise

    def _now_durable(self, end: Lsn) -> None:
        if self.note is not None:
            # Before any record can claim it.
            self.note.durable = end
        self.durable_lsn = end

    def _move(self, segment: Segment, cause: OSError) -> None:
        """Save a segment whose sync failed. Raises `cause` where that can't be done: the log is read-only then."""
        life = segment.header.life
        with self._lock:
            if life not in self._lives:
                self._unsyncable.discard(life)
                return  # Let go meanwhile: everything in it is stored.
            segment.moving = True
        try:
            SegmentMove(segment, self._files, self._calls, self.durable_lsn).run(self._appending)
        except OSError as error:
            path = segment.file.path
            if life not in self._unsyncable:
                _log.critical("%s can't be synced (%s) nor moved: %s", path, cause, error)
            self._unsyncable.add(life)
            why = f"{path.name} could not be synced ({cause}) nor moved to another file ({error})"
            self.failed = OSError(cause.errno or errno.EIO, why)
            raise cause from error
        finally:
            segment.moving = False
        self._unsyncable.discard(life)
        self.moves += 1
        _log.error("%s could not be synced (%s) and was moved to another file", segment.file.path, cause)

    # --- a log that takes no more --------------------------------------------------------------------

    @property
    def mendable(self) -> bool:
        """Whether it is read-only for a reason that may pass."""
        return bool(self._unsyncable or self._nameless or self._uncancelled)

    def mend(self) -> bool:
        """Try again what has made the log read-only: the disk may be well, or have room. Blocks.

        Nothing is synced twice: segments are moved, their records proved one by one; what the kernel has dropped
        can't be, and then the log stays as it is. Whether it takes changes.
        """
        with self._syncing:
            if self.failed is None or not self.mendable:
                return self.failed is None
            try:
                if self._uncancelled:
                    with self._appending:
                        self._calls.cancel(self._fd, bytes(RECORD_BYTES), self._offset)
                        self._uncancelled = False
                if self._nameless:
                    self._files.drop_unused()
                    self._nameless = False
                self._sync()
            except OSError:
                return False
            # Moved by now, or stored and let go.
            self._unsyncable.clear()
            _log.warning("the log takes changes again; it did not because of this: %s", self.failed)
            self.failed = None
            return True

    # --- a sync that somebody else performs ----------------------------------------------------------

    def begin_sync(self) -> BegunSync | None:
        """Begin a sync that is one fdatasync(2) of one file; to be called by the appending thread.

        Whoever gets it performs that and tells `end_sync` in any case. Never blocks.

        None: it takes more (several segments, names of new files, a sync that is under way, an error): `sync`.
        """
        if self.failed is not None or not self._syncing.acquire(blocking=False):
            return None
        with self._lock:
            if not self._files.unsynced and self._dirty == [self._segment]:
                self._write_ahead()
                return BegunSync(self._segment, self._segment.file.fd, self.end)
        self._syncing.release()
        return None

    def end_sync(self, begun: BegunSync, error: OSError | None) -> None:
        """Take what has become of a sync. Blocks where it failed, and then only: the segment is moved.

        Raises:
            OSError: As `sync`.
        """
        try:
            if error is not None:
                self._move(begun.segment, error)
            self._syncs += 1
            self._now_durable(begun.end)
        finally:
            self._syncing.release()

    def abandon_sync(self, begun: BegunSync) -> None:
        """Nothing was done of it, so `sync` may do it."""
        self._syncing.release()

    def _write_ahead(self) -> None:
        """Write zeros to blocks that the next records will be written to, where syncs follow each other closely.

        Blocks that were reserved and never written have to be marked as written by the sync that writes them first,
        which is a transaction of the disk's filesystem: 300 us instead of 170 for each. Done here for 256 KiB at
        once, it takes one in some sixty syncs. What was overwritten is never a record: its life is over.
        """
        segment = self._segment
        file = segment.file
        offset = segment.end
        written = max(file.written, offset)
        if written - offset >= _LITTLE_AHEAD or self.end - self.durable_lsn > _MANY_BYTES:
            return
        until = min(written + len(_AHEAD), self._limit) & -_PAGE
        if until > written:
            with contextlib.suppress(OSError):
                file.written = written + self._calls.write_ahead(file.fd, _AHEAD[: until - written], written)
