"""Recovery: which lives the segments hold, and the replay of their records.

A life names the one before it and where that one's last record ended, so the lives that count are a chain
back from the newest; nothing behind such an end ever counts. Where a record is bad before it, the log ends:
a *torn tail* if nothing claims that the disk had it, *damage* if a header or a record does. Claims stand in
what follows, so the rest of the life and all later ones are searched before anything is cut off.

Invariants: no record and no header is written here, so it may be killed and run again at any time, and
finds the same; a life given up is not replayed again.
Must not know: what records mean, how the log goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from heliosfs.core.ids import Lsn
from heliosfs.storage.errors import LogDamaged
from heliosfs.storage.log.frame import (
    FIRST_INTERNAL_KIND,
    HEADER_BYTES,
    RECORD_BYTES,
    LifeHeader,
    Place,
    Record,
    block_sums,
    decode_record,
    peek_meta_length,
)
from heliosfs.storage.log.oscalls import OsCalls
from heliosfs.storage.log.seen import Seen, SeenOtherwise
from heliosfs.storage.log.segment import Segment, SegmentFile, SegmentFiles

OnRecord: TypeAlias = Callable[[Lsn, Lsn, int, memoryview, Place], None]
"""(start, end, kind, body, place) of a record."""

_WINDOW: Final = 1 << 18


@dataclass(slots=True)
class Recovery:
    """What a recovery did.

    Attributes:
        records: Replayed, what had been followed before included.
        bytes: Of log that they lie in.
        followed: Records of these that had been replayed before.
        torn_bytes: Cut off: whole records behind the end, and the broken one if its length could be read.
        lives: That go on being needed.
        seconds: Wall time, the caller's applying included.
    """

    records: int = 0
    bytes: int = 0
    followed: int = 0
    torn_bytes: int = 0
    lives: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Found:
    """What the log goes on from.

    Attributes:
        lives: Those still needed, oldest first.
        end: Position after the last good record.
        durable: The last durable position that is written anywhere.
        last_life: Greatest number of any life, dead ones included.
        prev_life: Number of the last life needed, or 0.
        prev_end: Position of its end; without one, where the replay began.
    """

    lives: list[Segment] = field(default_factory=list)
    end: Lsn = Lsn(0)  # noqa: RUF009 - a NewType of int
    durable: Lsn = Lsn(0)  # noqa: RUF009 - a NewType of int
    last_life: int = 0
    prev_life: int = 0
    prev_end: Lsn = Lsn(0)  # noqa: RUF009 - a NewType of int
    recovery: Recovery = field(default_factory=Recovery)


def recover(
    files: SegmentFiles,
    calls: OsCalls,
    start: Lsn,
    on_record: OnRecord,
    seen: Seen | None = None,
    claimed: Lsn | None = None,
) -> Found:
    """Replay the records that end above `start`; files of other lives become spares.

    Args:
        start: 0, or a position that `Log.end` had and that is durable: a record begins there, or nothing.
        seen: What has been replayed already, from the same start on; the rest goes to `on_record`.
        claimed: The highest durable position that any record can claim, where that is known: nothing is searched.

    Raises:
        LogDamaged: A record, or a whole life, is bad that the disk had.
        SeenOtherwise: The log is not what was seen; nothing has been replayed.
        StoreNewer: A segment of a later version. OSError: Reading.

    Reads heads and bodies from `start` on, and the payloads of what is not yet known to be durable.
    """
    began = time.perf_counter()
    segments: dict[int, Segment] = {}
    unused: list[SegmentFile] = []
    opened = files.open_all()
    try:
        for file in opened:
            header = files.read_header(file)
            if header is None:
                unused.append(file)
            elif header.life in segments:
                raise LogDamaged(header.life, 0, Lsn(header.base), "two segments lead the same life")
            else:
                # A header is not believed beyond its file: memory is taken by this length.
                segments[header.life] = Segment.of(file, replace(header, size=min(header.size, file.size)))
        found = _Replay(calls, segments, start, on_record, seen or Seen(), claimed).run()
    except BaseException:
        files.discard(opened)
        raise
    kept = {segment.header.life for segment in found.lives}
    unused.extend(segment.file for life, segment in segments.items() if life not in kept)
    for file in unused:
        files.give(file)
    found.recovery.seconds = time.perf_counter() - began
    return found


def chain_of(headers: dict[int, LifeHeader], start: int) -> list[LifeHeader]:
    """The lives from the one that holds `start` to the newest whose predecessors are all there.

    A newer one, whose predecessor's header never reached the disk, is passed over: if that was durable, its
    claims will tell.
    """
    for head in sorted(headers, reverse=True):
        chain: list[LifeHeader] = []
        life = head
        while life in headers:
            header = headers[life]
            chain.append(header)
            if header.base + HEADER_BYTES <= start or header.prev_end <= start:
                chain.reverse()
                return chain
            if header.prev >= life:
                break
            life = header.prev
    return []


class _Replay:
    """One recovery under way.

    `_known` is the highest durable position that anything seen so far claims, `_end` where the log is whole
    up to.
    """

    __slots__ = (
        "_calls",
        "_end",
        "_exact",
        "_known",
        "_on_record",
        "_recovery",
        "_searched",
        "_seen",
        "_segments",
        "_start",
    )

    def __init__(
        self,
        calls: OsCalls,
        segments: dict[int, Segment],
        start: int,
        on_record: OnRecord,
        seen: Seen,
        claimed: Lsn | None,
    ) -> None:
        self._calls = calls
        self._segments = segments
        self._start = start
        self._on_record = on_record
        self._recovery = Recovery()
        self._searched = False
        self._end = start
        self._seen = seen.lives
        self._known = max((segment.header.durable for segment in segments.values()), default=0)
        self._known = max(self._known, seen.known, claimed or 0)
        self._exact = claimed is not None

    def run(self) -> Found:
        found = Found(prev_end=Lsn(self._start), recovery=self._recovery)
        headers = {life: segment.header for life, segment in self._segments.items()}
        chain = [self._segments[header.life] for header in chain_of(headers, self._start)]
        self._compare(chain)
        last: Segment | None = None
        for index, last in enumerate(chain):
            limit = chain[index + 1].header.prev_end if index + 1 < len(chain) else 0
            replayed = self._recovery.records
            self._count_seen(last)
            self._end = self._walk(last, limit)
            whole = limit and self._end >= limit
            # A last one without records to replay is given up, else every idle mount would hold one more file.
            if whole or self._recovery.records > replayed:
                found.lives.append(last)
                found.prev_life = last.header.life
                found.prev_end = last.end_lsn
            if not whole:
                break
        self._search(last)
        if self._end < self._known:
            life = last.header.life if last is not None else 0
            offset = last.end if last is not None else 0
            raise LogDamaged(life, offset, Lsn(self._end), "log records that were durable cannot be read")
        found.end = Lsn(self._end)
        found.durable = Lsn(self._known)
        found.last_life = max(self._segments, default=0)
        self._recovery.lives = len(found.lives)
        return found

    def _compare(self, chain: list[Segment]) -> None:
        """Raises SeenOtherwise, unless what was seen is the beginning of what is to be replayed."""
        left = dict(self._seen)
        for index, segment in enumerate(chain):
            life = left.pop(segment.header.life, None)
            if life is None:
                break
            ends = chain[index + 1].header.prev_end - segment.header.base if index + 1 < len(chain) else 0
            if life.salt != segment.header.salt or (ends and (life.end > ends or (left and life.end != ends))):
                raise SeenOtherwise
        if any(life.records for life in left.values()):
            raise SeenOtherwise

    def _count_seen(self, segment: Segment) -> None:
        seen = self._seen.get(segment.header.life)
        if seen is not None:
            self._recovery.records += seen.records
            self._recovery.followed += seen.records
            self._recovery.bytes += seen.bytes

    def _walk(self, segment: Segment, limit_lsn: int) -> int:
        """Replay one life up to `limit_lsn` (0: unknown). The position after its last good record."""
        header = segment.header
        base, size, life, seed, marker = header.base, header.size, header.life, segment.seed, segment.marker
        fd, read, on_record, start = segment.file.fd, self._calls.read, self._on_record, self._start
        recovery = self._recovery
        offset = max(start - base, HEADER_BYTES)
        if life in self._seen:
            offset = max(offset, self._seen[life].end)
        limit = limit_lsn - base if limit_lsn else size
        window = b""
        at = offset
        while offset < limit and offset + RECORD_BYTES <= size:
            if offset + RECORD_BYTES > at + len(window):
                at = offset
                window = read(fd, min(_WINDOW, size - offset), offset)
                if len(window) < RECORD_BYTES:
                    break
            lsn = base + offset
            meta = peek_meta_length(window, offset - at, marker, lsn, size - offset)
            if not meta:
                break
            if offset + meta > at + len(window):
                at = offset
                window = read(fd, max(meta, min(_WINDOW, size - offset)), offset)
                if len(window) < meta:
                    break
            here = offset - at
            record = decode_record(window, here, meta, seed)
            if record is None:
                break
            if record.durable > self._known:
                self._known = record.durable
            end = lsn + record.length
            body_at = here + RECORD_BYTES
            sums_at = body_at + record.body_length
            sums = window[sums_at : here + meta]
            if (
                sums
                and end > self._known
                and not self._payload_whole(
                    segment, offset, record, sums, window[here + meta : here + meta + record.payload_length]
                )
            ):
                break
            if end > start and record.kind < FIRST_INTERNAL_KIND:
                place = Place(
                    Lsn(lsn),
                    Lsn(end),
                    life,
                    offset + meta,
                    record.payload_length,
                    sums,
                    record.connection,
                    record.request,
                )
                on_record(Lsn(lsn), Lsn(end), record.kind, memoryview(window)[body_at:sums_at], place)
                recovery.records += 1
                recovery.bytes += record.length
            offset += record.length
        segment.end = offset
        return base + offset

    def _payload_whole(self, segment: Segment, offset: int, record: Record, sums: bytes, payload: bytes) -> bool:
        """Whether a payload is there that nothing read so far claims the disk had.

        One that had reached it and is damaged since counts as there: whoever reads it will find out, so that
        damage costs its own range alone.
        """
        if len(payload) < record.payload_length:
            payload = self._calls.read(segment.file.fd, record.payload_length, offset + record.meta_length)
        if len(payload) == record.payload_length and block_sums(payload, segment.seed) == sums:
            return True
        segment.end = offset + record.length
        self._search(segment)
        if segment.header.base + segment.end <= self._known:
            # The replay goes on, so nothing is torn yet. Comes once: what is below the claim found isn't asked.
            self._searched = False
            self._recovery.torn_bytes = 0
            return True
        self._recovery.torn_bytes += record.length
        return False

    def _search(self, last: Segment | None) -> None:
        """Look for claims in whole records behind the end of `last`, and in all later lives. Once."""
        if self._searched or self._exact:
            return
        self._searched = True
        number = 0
        if last is not None:
            number = last.header.life
            self._search_one(last, last.end)
        for life, other in self._segments.items():
            if life > number:
                self._search_one(other, HEADER_BYTES)

    def _search_one(self, segment: Segment, offset: int) -> None:
        header = segment.header
        window = self._calls.read(segment.file.fd, max(header.size - offset, 0), offset)
        marker = segment.marker
        found = window.find(marker)
        while found >= 0:
            here = found - 4
            following = found + 1
            if here >= 0 and here % 8 == 0 and here + RECORD_BYTES <= len(window):
                position = header.base + offset + here
                meta = peek_meta_length(window, here, marker, position, header.size - offset - here)
                record = decode_record(window, here, meta, segment.seed) if 0 < meta <= len(window) - here else None
                if record is not None:
                    self._known = max(self._known, record.durable)
                    following = here + record.length
                    if record.kind < FIRST_INTERNAL_KIND:
                        self._recovery.torn_bytes += record.length
            found = window.find(marker, following)
