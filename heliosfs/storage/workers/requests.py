"""The request to cut, written by the daemon: the one place here that knows how the log seeds its checksums.

A worker is told a seed and a block size for each segment file, and so needs neither the log's code nor its
imports. Must not know: sockets, what becomes of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from heliosfs.storage.log.frame import BLOCK_BYTES, seed_of
from heliosfs.storage.workers.jobs import CutRun, LogSource
from heliosfs.storage.workers.protocol import (
    CHUNK,
    KIND_CHUNK,
    KIND_LOG,
    LOG,
    RUN,
    U32,
    segment_record,
)

_STEP: Final = 256
"""Sources between two yields: 0.3 ms."""


def cut_request(runs: Sequence[CutRun]) -> Iterator[bytes]:
    """The body of CUT, in parts small enough to let others run in between. 1 us a source."""
    segments: dict[bytes, int] = {}
    pack_log, pack_chunk = LOG.pack, CHUNK.pack
    parts: list[bytes] = [U32.pack(len(runs))]
    count = 0
    for sources, resync in runs:
        parts.append(RUN.pack(len(sources), len(resync)))
        parts.append(b"".join([offset.to_bytes(8, "little") for offset in resync]))
        for source in sources:
            if type(source) is LogSource:
                path, salt, offset, payload_length, sums, start, length = source
                segment = segments.get(salt)
                if segment is None:
                    segment = segments[salt] = len(segments)
                    parts.append(segment_record(seed_of(salt), BLOCK_BYTES, path))
                parts.append(pack_log(KIND_LOG, segment, offset, payload_length, len(sums), start, length))
                parts.append(sums)
            else:
                pack, offset, frame_length, id_, start, length = source  # type: ignore[misc]
                parts.append(pack_chunk(KIND_CHUNK, pack, offset, frame_length, start, id_, length))
            count += 1
            if count % _STEP == 0:
                yield b"".join(parts)
                parts = []
    yield b"".join(parts)
