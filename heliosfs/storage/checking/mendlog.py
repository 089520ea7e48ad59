"""A log that cannot be replayed made one that can: a record that cannot be applied is voided, what lies behind
a place that cannot be read is cut off. Every file that is changed is copied to quarantine first.

Must not know: what records mean.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cas.checksum import crc32
from heliosfs.storage.checking.quarantine import Quarantine
from heliosfs.storage.errors import LogDamaged
from heliosfs.storage.log.frame import (
    HEADER_BYTES,
    KIND_MARK,
    RECORD_BYTES,
    decode_record,
    encode_record,
    pack_u32,
    peek_meta_length,
)
from heliosfs.storage.log.log import SEGMENT_BYTES
from heliosfs.storage.log.oscalls import OsCalls
from heliosfs.storage.log.segment import Segment, SegmentFiles

KIND_VOID: Final = 0xFD
"""A record that a repair took out of the replay."""

_KIND_AT: Final = 12


def cut_log(store: Path, damage: LogDamaged, quarantine: Quarantine) -> None:
    """End the log where it can't be read: all that follows goes to quarantine. OSError."""
    files, segments = _segments(store)
    try:
        if damage.life not in segments or damage.offset < HEADER_BYTES:
            behind = list(segments.values())
        else:
            behind = [segment for life, segment in segments.items() if life > damage.life]
            last = segments[damage.life]
            quarantine.copy(last.file.path)
            _end_at(last, damage.offset, damage.lsn)
        for segment in behind:
            quarantine.move(segment.file.path)
        quarantine.did(
            f"log ended at position {damage.lsn} (life {damage.life} offset {damage.offset}): what followed is "
            f"in quarantine, {len(behind)} segments of it whole"
        )
    finally:
        _close(files, segments)


def void_record(store: Path, position: int, quarantine: Quarantine, reason: str) -> bool:
    """Take one record out of the replay. False if it can't be found. OSError."""
    files, segments = _segments(store)
    try:
        for segment in segments.values():
            header = segment.header
            offset = position - header.base
            if not HEADER_BYTES <= offset < header.size:
                continue
            fd = segment.file.fd
            head = os.pread(fd, RECORD_BYTES, offset)
            if len(head) < RECORD_BYTES:
                continue
            meta = peek_meta_length(head, 0, segment.marker, position, header.size - offset)
            window = os.pread(fd, meta, offset) if meta else b""
            if not meta or decode_record(window, 0, meta, segment.seed) is None:
                continue
            quarantine.keep(f"log-record-{position}", window)
            rest = window[4:_KIND_AT] + bytes([KIND_VOID]) + window[_KIND_AT + 1 :]
            os.pwrite(fd, pack_u32(crc32(rest, segment.seed)) + rest, offset)
            os.fsync(fd)
            quarantine.did(f"log record at {position} left out: {reason}")
            return True
        return False
    finally:
        _close(files, segments)


def _end_at(segment: Segment, offset: int, position: int) -> None:
    """Blank what follows, and leave a mark: the records before it were durable, and stay so."""
    fd = segment.file.fd
    size = segment.header.size
    at = offset
    while at < size:
        length = min(1 << 20, size - at)
        os.pwrite(fd, bytes(length), at)
        at += length
    if offset + RECORD_BYTES <= size:
        mark = encode_record(segment.seed, segment.marker, position, position, KIND_MARK, b"")
        os.pwrite(fd, mark, offset)
    os.fsync(fd)


def _segments(store: Path) -> tuple[SegmentFiles, dict[int, Segment]]:
    files = SegmentFiles(store / "log", OsCalls(), SEGMENT_BYTES, 0)
    found: dict[int, Segment] = {}
    for file in files.open_all():
        header = files.read_header(file)
        if header is None or header.life in found:
            os.close(file.fd)
            continue
        found[header.life] = Segment.of(file, header)
    return files, found


def _close(files: SegmentFiles, segments: dict[int, Segment]) -> None:
    for segment in segments.values():
        os.close(segment.file.fd)
    files.close()
