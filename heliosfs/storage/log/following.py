"""Following a log that another process appends to: its records, replayed while they are written.

What is replayed here needs no replay when this process takes the log over; recovery then begins behind it (`Seen`).
Nothing is taken on trust that recovery would not find, too: a record counts when the next one is there, for the
writer makes them one after another, or when the life that follows names its end; where that life is there already,
nothing behind its beginning counts, be it whole (a power cut takes from the middle). Invariants: nothing is
written; no file stays open but the current life's; what was replayed and turns out not to count is `FollowLost`,
never mended. Must not know: what records mean, when to look.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from heliosfs.core.ids import Lsn
from heliosfs.storage.log.frame import (
    FIRST_INTERNAL_KIND,
    HEADER_BYTES,
    RECORD_BYTES,
    LifeHeader,
    NewerFormat,
    Place,
    Record,
    decode_header,
    decode_record,
    marker_of,
    peek_meta_length,
    seed_of,
)
from heliosfs.storage.log.recovery import OnRecord, chain_of
from heliosfs.storage.log.seen import Seen, SeenLife
from heliosfs.storage.log.segment import segment_paths

_WINDOW_MIN: Final = 1 << 14
_WINDOW_MAX: Final = 1 << 18
_TURNS: Final = 100
"""From life to life without a record."""
_PEEK: Final = 8
"""Checksum and marker: enough to know a record again."""


class FollowLost(Exception):
    """The log can't be followed any more: begin anew, or recover it."""


class _Next(NamedTuple):
    """A record that is there; it counts when something follows it."""

    lsn: int
    end: int
    offset: int
    mark: bytes
    kind: int
    body: bytes
    place: Place


class LogFollower:
    """One log, followed from a position on. Not thread-safe; may be forked, for it only reads at offsets.

    Attributes:
        seen: What has been replayed.
    """

    def __init__(self, directory: Path, start: Lsn, on_record: OnRecord) -> None:
        """`start` and `on_record` are as for `Log.open`."""
        self._directory = directory
        self._start = start
        self._on_record = on_record
        self.seen = Seen()
        self._header: LifeHeader | None = None
        self._current = SeenLife(b"", 0)
        self._fd = -1
        self._seed = 0
        self._marker = b""
        self._limit = 0
        self._offset = 0
        self._next: _Next | None = None
        self._window = b""
        self._at = 0
        self._step = _WINDOW_MIN
        self._replayed = 0

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def written_ns(self) -> int:
        """When the current life was last written to, by the kernel's coarse clock; 0: there is none. One call."""
        return 0 if self._fd < 0 else os.fstat(self._fd).st_mtime_ns

    def advance(self, most: int) -> int:
        """Replay up to `most` records that count. How many; fewer than `most`: no more are there yet.

        Raises:
            FollowLost: A life is gone that was still to be replayed, or what was replayed does not count.
            Exception: What `on_record` raises.
        """
        try:
            return self._advance(most)
        except (OSError, NewerFormat) as error:
            raise FollowLost(str(error)) from error

    def _advance(self, most: int) -> int:
        before = self._replayed
        if self._header is None and not self._enter():
            return 0
        turns = 0
        while self._replayed - before < most:
            found = self._look()
            if found is not None:
                self._settle()
                self._next = found
                self._offset = found.end - self._base
                turns = 0
            elif not self._follow_on():
                break
            else:
                turns += 1
                if turns > _TURNS:
                    raise FollowLost("the lives of the log do not lead anywhere")
        return self._replayed - before

    @property
    def _base(self) -> int:
        assert self._header is not None
        return self._header.base

    def _settle(self) -> None:
        """The record that waits counts: replay it."""
        waiting, self._next = self._next, None
        current = self._current
        if waiting is None:
            return
        current.end = waiting.end - self._base
        if waiting.end <= self._start or waiting.kind >= FIRST_INTERNAL_KIND:
            return
        self._on_record(Lsn(waiting.lsn), Lsn(waiting.end), waiting.kind, memoryview(waiting.body), waiting.place)
        current.records += 1
        current.bytes += waiting.end - waiting.lsn
        self._replayed += 1

    # --- records -------------------------------------------------------------------------------------

    def _look(self) -> _Next | None:
        """The record behind the last one, if it is there."""
        found = self._decoded()
        if found is None and self._window:
            # The window may be from before it was written.
            self._window = b""
            self._step = _WINDOW_MIN
            found = self._decoded()
        return found

    def _decoded(self) -> _Next | None:
        offset, size = self._offset, self._limit
        if offset + RECORD_BYTES > size:
            return None
        here = offset - self._at
        if not 0 <= here <= len(self._window) - RECORD_BYTES:
            # Blocks that were only reserved are not to fill the page cache.
            if os.pread(self._fd, _PEEK, offset)[4:] != self._marker:
                return None
            self._load(offset, RECORD_BYTES)
            here = 0
            if len(self._window) < RECORD_BYTES:
                return None
        lsn = self._base + offset
        meta = peek_meta_length(self._window, here, self._marker, lsn, size - offset)
        if not meta:
            return None
        if here + meta > len(self._window):
            self._load(offset, meta)
            here = 0
            if len(self._window) < meta:
                return None
        record = decode_record(self._window, here, meta, self._seed)
        return None if record is None else self._taken(record, here, lsn)

    def _taken(self, record: Record, here: int, lsn: int) -> _Next:
        self.seen.known = max(self.seen.known, record.durable)
        window = self._window
        body_at = here + RECORD_BYTES
        sums_at = body_at + record.body_length
        end = lsn + record.length
        place = Place(
            Lsn(lsn),
            Lsn(end),
            self._life,
            self._offset + record.meta_length,
            record.payload_length,
            window[sums_at : here + record.meta_length],
            record.connection,
            record.request,
        )
        mark = window[here : here + _PEEK]
        return _Next(lsn, end, self._offset, mark, record.kind, window[body_at:sums_at], place)

    def _load(self, offset: int, least: int) -> None:
        length = max(least, min(self._step, self._limit - offset))
        self._window = os.pread(self._fd, length, offset)
        self._at = offset
        self._step = min(self._step * 2, _WINDOW_MAX)

    # --- lives ---------------------------------------------------------------------------------------

    @property
    def _life(self) -> int:
        assert self._header is not None
        return self._header.life

    def _enter(self) -> bool:
        """Begin with the life that holds the start. False: there is none yet."""
        with self._headers() as found:
            chain = self._chain(found)
            if not chain:
                if found and self._start > 0:
                    raise FollowLost(f"no life of the log holds position {self._start}")
                return False
            self._use(0, chain, found)
        self._offset = max(self._start - self._base, HEADER_BYTES)
        self._current.end = self._offset
        return True

    def _follow_on(self) -> bool:
        """Where the current life has ended, go on with the next. Whether there is anything new to look at."""
        waiting = self._next
        if waiting is not None and os.pread(self._fd, _PEEK, waiting.offset) != waiting.mark:
            # Its append was short and was taken back; another record may be there instead.
            self._next = None
            self._offset = waiting.offset
            self._window = b""
            return True
        here = self._base + self._offset
        with self._headers() as found:
            chain = self._chain(found)
            lives = [header.life for header in chain]
            if self._life not in lives:
                if not chain or max(lives) < self._life:
                    # Its first block is being rewritten, or it rests on being read again.
                    raise FollowLost(f"life {self._life} of the log is gone")
                self._step_back()
                return True
            place = lives.index(self._life)
            if place + 1 == len(lives):
                return self._moved(found[self._life][1])
            following = chain[place + 1]
            if following.prev_end > here:
                # Appended between our look at the records and that at the headers.
                return self._look_again()
            if following.prev_end < here:
                if waiting is None or following.prev_end != waiting.lsn:
                    raise FollowLost(f"records behind {following.prev_end} do not count")
                self._next = None
            self._settle()
            self._use(place + 1, chain, found)
        self._offset = HEADER_BYTES
        return True

    def _moved(self, fd: int) -> bool:
        """Whether the life is in another file now: a sync of the first has failed."""
        if os.fstat(fd).st_ino == os.fstat(self._fd).st_ino:
            return False
        self.close()
        self._fd = os.dup(fd)
        self._window = b""
        return True

    def _look_again(self) -> bool:
        self._window = b""
        if self._decoded() is None:
            raise FollowLost(f"a record at {self._base + self._offset} can't be read")
        return True

    def _step_back(self) -> None:
        """The current life had no record that counts, and the log goes on elsewhere from the one before it."""
        if self._current.records:
            raise FollowLost(f"life {self._life} of the log does not count")
        del self.seen.lives[self._life]
        if not self.seen.lives:
            self.close()
            self._header = None
            if not self._enter():
                raise FollowLost("the log has no lives")
            return
        life, self._current = next(reversed(self.seen.lives.items()))
        with self._headers() as found:
            chain = self._chain(found)
            place = next((place for place, header in enumerate(chain) if header.life == life), -1)
            if place < 0 or chain[place].salt != self._current.salt:
                raise FollowLost(f"life {life} of the log is gone")
            current = self._current
            self._use(place, chain, found)
            self._current = self.seen.lives[life] = current
        self._offset = self._current.end

    def _chain(self, found: dict[int, tuple[LifeHeader, int]]) -> list[LifeHeader]:
        return chain_of({life: header for life, (header, _) in found.items()}, self._start)

    def _use(self, place: int, chain: list[LifeHeader], found: dict[int, tuple[LifeHeader, int]]) -> None:
        header = chain[place]
        self.close()
        self._fd = os.dup(found[header.life][1])
        self._header = header
        self._seed = seed_of(header.salt)
        self._marker = marker_of(self._seed)
        self._limit = chain[place + 1].prev_end - header.base if place + 1 < len(chain) else header.size
        self._window = b""
        self._next = None
        self._current = self.seen.lives[header.life] = SeenLife(header.salt, HEADER_BYTES)

    @contextmanager
    def _headers(self) -> Iterator[dict[int, tuple[LifeHeader, int]]]:
        """Header and descriptor of every life that the files announce now."""
        opened: list[int] = []
        try:
            found: dict[int, tuple[LifeHeader, int]] = {}
            for path in segment_paths(self._directory):
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                except FileNotFoundError:
                    continue
                opened.append(fd)
                header = decode_header(os.pread(fd, HEADER_BYTES, 0))
                if header is not None:
                    found[header.life] = (header, fd)
            yield found
        finally:
            for fd in opened:
                os.close(fd)
