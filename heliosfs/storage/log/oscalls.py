"""The system calls that the log makes, one labelled field for each call site.

A test replaces exactly one of them with a callable that fails, is short, or blocks. The fields hold the
plain `os` functions, so the seam costs the append path nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Bytes = bytes | bytearray | memoryview


@dataclass(slots=True)
class OsCalls:
    """Labelled operating system calls. Each may raise OSError, as its original does.

    Attributes:
        append: Writes one record; also seals and marks. (fd, buffers, offset) -> bytes written.
        cancel: Blanks the first bytes of a record whose append failed.
        begin_life: Writes the header of a new life.
        read: Reads headers, records in recovery, and payloads. (fd, length, offset) -> bytes.
        sync: fdatasync of one segment. Where a test replaces it the kernel is not asked to sync by itself.
        write_ahead: Zeros to blocks behind the end of the log. (fd, zeros, offset) -> bytes written.
        sync_directory: fsync of the directory, after a segment file was made in it.
        preallocate: Reserves a new segment's blocks. (fd, offset, length).
        truncate: Cuts a segment short that will not be used for a while. (fd, length).
        unlink: Removes a segment file.
        create_copy: Makes the file that a segment is moved to. (path, flags, mode) -> descriptor.
        copy: Writes to it. (fd, data, offset) -> bytes written.
        rename: Gives it the segment's name.
    """

    append: Callable[[int, Sequence[Bytes], int], int] = os.pwritev
    cancel: Callable[[int, bytes, int], int] = os.pwrite
    begin_life: Callable[[int, bytes, int], int] = os.pwrite
    read: Callable[[int, int, int], bytes] = os.pread
    sync: Callable[[int], None] = os.fdatasync
    write_ahead: Callable[[int, bytes, int], int] = os.pwrite
    sync_directory: Callable[[int], None] = os.fsync
    preallocate: Callable[[int, int, int], None] = os.posix_fallocate
    truncate: Callable[[int, int], None] = os.ftruncate
    unlink: Callable[[str], None] = os.unlink
    create_copy: Callable[[Path, int, int], int] = os.open
    copy: Callable[[int, bytes, int], int] = os.pwrite
    rename: Callable[[Path, Path], None] = os.rename
