"""Recovery: which lives the segments hold, and the replay of their records.

A life names the one before it and where that ended, so the lives that count are a chain back from the
newest. A bad record above the last durable position is a torn tail: it and what follows are dropped. Below
it, it is damage. Nothing is written here, so it may be killed and run again at any time.
Must not know: what records mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from heliosfs.core.ids import Lsn
from heliosfs.storage.errors import LogDamaged
from heliosfs.storage.log.frame import (
    FIRST_INTERNAL_KIND,
    HEADER_BYTES,
    RECORD_BYTES,
    Place,
    decode_record,
    peek_meta_length,
    sums_length,
)
from heliosfs.storage.log.oscalls import OsCalls
from heliosfs.storage.log.segment import Segment, SegmentFile, SegmentFiles

OnRecord: TypeAlias = Callable[[Lsn, Lsn, int, memoryview, Place], None]
"""(start, end, kind, body, place) of a record."""

_WINDOW: Final = 1 << 20


@dataclass(slots=True)
class Recovery:
    """What a recovery did.

    Attributes:
        records: Replayed.
        bytes: Of log that they lie in.
        torn_bytes: Behind the last good record, up to the end of what a later life promised.
        lives: That were read.
        seconds: Wall time.
    """

    records: int = 0
    bytes: int = 0
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
    """

    lives: list[Segment] = field(default_factory=list)
    end: Lsn = Lsn(0)  # noqa: RUF009 - a NewType of int
    durable: Lsn = Lsn(0)  # noqa: RUF009 - a NewType of int
    last_life: int = 0
    prev_life: int = 0
    recovery: Recovery = field(default_factory=Recovery)


def recover(files: SegmentFiles, calls: OsCalls, start: Lsn, on_record: OnRecord) -> Found:
    """Replay the records that end above `start`; files of other lives become spares.

    Raises:
        LogDamaged: A record below the durable position is wrong.
        StoreNewer: A segment of a later version. OSError: Reading.
    """
    began = time.perf_counter()
    found = Found(end=start)
    segments: dict[int, Segment] = {}
    unused: list[SegmentFile] = []
    for file in files.open_all():
        header = files.read_header(file)
        if header is None:
            unused.append(file)
        else:
            segments[header.life] = Segment.of(file, header)
    found.last_life = max(segments, default=0)
    chain = _chain(segments, start)
    found.durable = Lsn(max((segment.header.durable for segment in chain), default=0))
    for index, segment in enumerate(chain):
        promised = chain[index + 1].header.prev_end if index + 1 < len(chain) else 0
        whole = _replay(segment, calls, start, on_record, found, promised)
        found.lives.append(segment)
        if not whole:
            break
    kept = {segment.header.life for segment in found.lives if segment.end_lsn > start}
    found.lives = [segment for segment in found.lives if segment.header.life in kept]
    found.prev_life = found.lives[-1].header.life if found.lives else 0
    for life, segment in segments.items():
        if life not in kept:
            unused.append(segment.file)
    for file in unused:
        files.give(file)
    found.recovery.lives = len(found.lives)
    found.recovery.seconds = time.perf_counter() - began
    return found


def _chain(segments: dict[int, Segment], start: Lsn) -> list[Segment]:
    """The lives from the one that holds `start` to the newest."""
    chain: list[Segment] = []
    life = max(segments, default=0)
    while life in segments:
        segment = segments[life]
        chain.append(segment)
        if segment.header.base + HEADER_BYTES <= start or segment.header.prev == 0:
            break
        if segment.header.prev not in segments and segment.header.prev_end > start:
            raise LogDamaged(segment.header.prev, 0, start, "a segment of the log is missing")
        life = segment.header.prev
    chain.reverse()
    return chain


def _replay(segment: Segment, calls: OsCalls, start: Lsn, on_record: OnRecord, found: Found, promised: int) -> bool:
    """Replay one life. False where it is torn, so that later lives do not count."""
    header = segment.header
    at = HEADER_BYTES
    window = b""
    window_at = at
    while at + RECORD_BYTES <= header.size:
        if at + RECORD_BYTES > window_at + len(window):
            window_at = at
            window = calls.read(segment.file.fd, min(_WINDOW, header.size - at), at)
        meta = peek_meta_length(window, at - window_at, segment.marker, header.base + at, header.size - at)
        if not meta:
            break
        if at + meta > window_at + len(window):
            window_at = at
            window = calls.read(segment.file.fd, max(meta, min(_WINDOW, header.size - at)), at)
        record = decode_record(window, at - window_at, meta, segment.seed)
        if record is None:
            break
        lsn = Lsn(header.base + at)
        end = Lsn(lsn + record.length)
        if record.durable > found.durable:
            found.durable = Lsn(record.durable)
        if end > start and record.kind < FIRST_INTERNAL_KIND:
            body_at = at - window_at + RECORD_BYTES
            body = memoryview(window)[body_at : body_at + record.body_length]
            sums_at = body_at + record.body_length
            sums = window[sums_at : sums_at + sums_length(record.payload_length)]
            place = Place(lsn, end, header.life, at + meta, record.payload_length, sums)
            on_record(lsn, end, record.kind, body, place)
            found.recovery.records += 1
            found.recovery.bytes += record.length
        at += record.length
        segment.end = at
    end_lsn = segment.end_lsn
    found.end = max(found.end, end_lsn)
    if end_lsn < found.durable and end_lsn < max(promised, found.durable) and not promised:
        raise LogDamaged(header.life, segment.end, end_lsn, "a record that was durable cannot be read")
    if promised and end_lsn < promised - (RECORD_BYTES + 8):
        if end_lsn < found.durable:
            raise LogDamaged(header.life, segment.end, end_lsn, "a record that was durable cannot be read")
        found.recovery.torn_bytes += promised - end_lsn
        return False
    return True
