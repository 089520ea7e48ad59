"""Segments of the log: whatever they hold, opening is a log, damage that is named, or a later version's."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from zlib import crc32

from heliosfs.core.ids import Lsn
from heliosfs.storage.errors import LogDamaged, StoreNewer
from heliosfs.storage.log import Log, Place
from heliosfs.storage.log.frame import COPY_OFFSETS, HEADER_BYTES, RECORD_BYTES, decode_header, marker_of, seed_of
from tests.support.mutation import fuzzed, memory_below

SEGMENT = 8192
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "log" / "seg-0001"
_HEADER = 80


def two_lives() -> bytes:
    """Two segments, one behind the other: a record of 3,000 bytes in each, and short ones."""
    with tempfile.TemporaryDirectory() as name:
        log = Log.open(Path(name), budget_bytes=1 << 20, start=Lsn(0), on_record=_ignore, segment_bytes=SEGMENT)
        for number in range(4):
            log.append(2, b"body%d" % number, bytes([number]) * 1500)
            log.append(3, b"short")
            if number == 1:
                log.sync()
        log.close()
        return b"".join((Path(name) / f"seg-000{number}").read_bytes() for number in (1, 2))


def _ignore(lsn: Lsn, end: Lsn, kind: int, body: memoryview, place: Place) -> None:
    bytes(body)


def repaired(data: bytes) -> bytes:
    """Segments whose sums are right, whatever headers and heads of records say."""
    out = bytearray(data)
    for first in range(0, len(out) - HEADER_BYTES, SEGMENT):
        for copy in COPY_OFFSETS:
            at = first + copy
            struct.pack_into("<I", out, at + _HEADER, crc32(out[at : at + _HEADER]))
        header = None
        try:
            header = decode_header(bytes(out[first : first + HEADER_BYTES]))
        except Exception:
            continue
        if header is None:
            continue
        seed = seed_of(header.salt)
        at = first + HEADER_BYTES
        while at + RECORD_BYTES <= min(first + SEGMENT, len(out)):
            out[at + 4 : at + 8] = marker_of(seed)
            length, _, _, _, body, payload = struct.unpack_from("<IBBHII", out, at + 8)
            meta = RECORD_BYTES + body + (payload + 16383) // 16384 * 4
            if at + meta <= len(out):
                struct.pack_into("<I", out, at, crc32(out[at + 4 : at + meta], seed))
            if not 0 < length <= SEGMENT:
                break
            at += length
    return bytes(out)


@fuzzed("segments", [two_lives(), GOLDEN.read_bytes()], weight=2)
def test_segments(data: bytes) -> None:
    """As they are, and with their sums put right; from the beginning, and from the middle."""
    for segments in (data, repaired(data)):
        for start in (0, 4096 + 1600):
            with tempfile.TemporaryDirectory() as name, memory_below(4 << 20):
                directory = Path(name)
                for number, at in enumerate(range(0, len(segments), SEGMENT), 1):
                    (directory / f"seg-{number:04d}").write_bytes(segments[at : at + SEGMENT])
                try:
                    log = Log.open(
                        directory,
                        budget_bytes=1 << 20,
                        start=Lsn(start),
                        on_record=_ignore,
                        segment_bytes=SEGMENT,
                    )
                except (LogDamaged, StoreNewer):
                    continue
                log.append(2, b"goes on")
                log.close()
