"""Moving a segment to another file, after a sync of it has failed.

A failed fdatasync says that bytes did not reach the disk; the kernel drops them from its books, and a second one
reports success. So nothing is synced again: the life is copied to a fresh file, what is not known to be durable
record by record as its checksums prove it, and that file takes the name. Life, offsets and positions stay the
same: no extent notices.

Invariants: the old file keeps its name until the new one holds every record; what was appended meanwhile is
copied while nobody appends. A process killed at any step leaves one whole file under the name.
Must not know: what records mean, who waits for the sync.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import Final

from heliosfs.storage.log.frame import (
    HEADER_BYTES,
    RECORD_BYTES,
    block_sums,
    decode_record,
    encode_header,
    peek_meta_length,
)
from heliosfs.storage.log.oscalls import OsCalls
from heliosfs.storage.log.segment import Segment, SegmentFiles

_STEP: Final = 1 << 20
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class SegmentMove:
    """One attempt to save a segment whose sync failed."""

    def __init__(self, segment: Segment, files: SegmentFiles, calls: OsCalls, durable: int) -> None:
        """Nothing is done yet.

        Args:
            durable: Position below which everything is known to be on the disk; it is copied as it is.
        """
        self._segment = segment
        self._files = files
        self._calls = calls
        self._copied = max(HEADER_BYTES, durable - segment.header.base)
        self._durable_end = self._copied

    def run(self, appending: threading.Lock) -> None:
        """Copy, swap and sync. Blocks; holds `appending` for the length of the tail that came meanwhile.

        Raises:
            OSError: It can't be saved: no room or no second file (its errno), or what is to be copied can't be
                read as it was written (EIO). If the name was not changed, the old file is as it was.
        """
        file = self._segment.file
        path = file.path.with_name(file.path.name + ".new")
        fd = self._calls.create_copy(
            path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            try:
                self._calls.preallocate(fd, 0, file.size)
                self._write(fd, encode_header(self._segment.header), 0)
                self._copy_plainly(fd)
                self._copy_records(fd, self._segment.end)
                self._calls.sync(fd)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                raise
            with appending:
                self._copy_records(fd, self._segment.end)
                self._calls.rename(path, file.path)
                # The number of the descriptor stays: whoever reads or appends by it meets the new file.
                os.dup2(fd, file.fd, inheritable=False)
                file.written = self._copied
            self._calls.sync(fd)
            self._calls.sync_directory(self._files.directory_fd)
        finally:
            os.close(fd)

    def _copy_plainly(self, fd: int) -> None:
        """What is durable, damage included: whoever reads it finds out by its checksums."""
        at = HEADER_BYTES
        end = min(self._durable_end, self._segment.end)
        while at < end:
            data = self._calls.read(self._segment.file.fd, min(_STEP, end - at), at)
            if not data:
                raise OSError(errno.EIO, "the segment ends early")
            self._write(fd, data, at)
            at += len(data)

    def _copy_records(self, fd: int, end: int) -> None:
        """Records up to `end`, each proved by its checksums."""
        segment = self._segment
        old = segment.file.fd
        while self._copied < end:
            at = self._copied
            head = self._calls.read(old, RECORD_BYTES, at)
            meta = 0
            if len(head) == RECORD_BYTES:
                lsn = segment.header.base + at
                meta = peek_meta_length(head, 0, segment.marker, lsn, segment.header.size - at)
            window = self._calls.read(old, meta, at) if meta else b""
            record = decode_record(window, 0, meta, segment.seed) if meta and len(window) == meta else None
            if record is None:
                raise OSError(errno.EIO, f"a record at {at} of {segment.file.path.name} is not there any more")
            payload = self._calls.read(old, record.payload_length, at + meta) if record.payload_length else b""
            sums = window[RECORD_BYTES + record.body_length :]
            if block_sums(payload, segment.seed) != sums:
                raise OSError(errno.EIO, f"data at {at} of {segment.file.path.name} is not there any more")
            self._write(fd, (window + payload).ljust(record.length, b"\0"), at)
            self._copied = at + record.length

    def _write(self, fd: int, data: bytes, offset: int) -> None:
        if self._calls.copy(fd, data, offset) != len(data):
            raise OSError(errno.ENOSPC, "short write of a copied segment")
