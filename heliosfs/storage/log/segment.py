"""Segment files, and the lives they lead.

`SegmentFiles` owns the directory: it makes files with all their blocks reserved, keeps a few spare ones and
removes the rest. A `Segment` is one life of one file. A file's next life overwrites its header; nothing
else of it is erased, because the new salt makes the old records void.
Must not know: what records mean, who pins a life.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from heliosfs.core.ids import Lsn
from heliosfs.storage.errors import StoreNewer
from heliosfs.storage.log.frame import (
    HEADER_BYTES,
    LifeHeader,
    NewerFormat,
    decode_header,
    encode_header,
    marker_of,
    seed_of,
)
from heliosfs.storage.log.oscalls import OsCalls

_NAME: Final = re.compile(r"seg-([0-9]{4,})\Z")
_MODE: Final = 0o600


@dataclass(slots=True, eq=False)
class SegmentFile:
    """One file of the log, open for reading and writing.

    Attributes:
        number: Of its name.
        size: Bytes reserved.
    """

    number: int
    path: Path
    fd: int
    size: int


@dataclass(slots=True, eq=False)
class Segment:
    """One life of a segment file.

    Attributes:
        header: What the file's header says.
        seed: Start value of its checksums.
        marker: First bytes that its records share.
        end: Offset after its last record; `HEADER_BYTES` while there is none.
        sealed: No record will follow.
        pins: Holders of its payload bytes.
    """

    file: SegmentFile
    header: LifeHeader
    seed: int
    marker: bytes
    end: int = HEADER_BYTES
    sealed: bool = True
    pins: int = 0

    @classmethod
    def of(cls, file: SegmentFile, header: LifeHeader) -> Segment:
        """The life that a header announces."""
        seed = seed_of(header.salt)
        return cls(file, header, seed, marker_of(seed))

    @property
    def end_lsn(self) -> Lsn:
        """Position after its last record."""
        return Lsn(self.header.base + self.end)


@dataclass(slots=True)
class SegmentFiles:
    """The directory of segment files.

    Attributes:
        directory: Where they are.
        segment_bytes: Size of the files it makes and keeps spare.
        spare_limit: How many unused files it keeps, ready for a next life.
        unsynced: A file was made since `sync_directory`.
        spares: Unused files.
    """

    directory: Path
    calls: OsCalls
    segment_bytes: int
    spare_limit: int
    directory_fd: int = field(init=False)
    unsynced: bool = field(init=False, default=False)
    spares: list[SegmentFile] = field(init=False, default_factory=list)
    _numbers: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        if self.segment_bytes < 2 * HEADER_BYTES or self.segment_bytes % HEADER_BYTES:
            raise ValueError(f"segment size {self.segment_bytes} is not a multiple of {HEADER_BYTES} above it")
        self.directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_all(self) -> list[SegmentFile]:
        """Open every segment file there is, by number. Other names are left alone.

        Raises:
            OSError: As open(2) and fstat(2) do; what was opened is closed again.
        """
        files: list[SegmentFile] = []
        try:
            for name in os.listdir(self.directory):
                match = _NAME.match(name)
                if match is None:
                    continue
                path = self.directory / name
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                files.append(SegmentFile(int(match[1]), path, fd, 0))
                files[-1].size = os.fstat(fd).st_size
        except OSError:
            for file in files:
                os.close(file.fd)
            raise
        files.sort(key=lambda file: file.number)
        self._numbers.update(file.number for file in files)
        # Whoever made them may have been killed before the directory was synced.
        self.unsynced = bool(files)
        return files

    def read_header(self, file: SegmentFile) -> LifeHeader | None:
        """The life a file leads or led last, or None if it has no whole header.

        Raises:
            StoreNewer: It was written by a later version.
            OSError: The read failed.
        """
        try:
            return decode_header(self.calls.read(file.fd, HEADER_BYTES, 0))
        except NewerFormat as error:
            raise StoreNewer(self.directory.parent, error.version) from None

    def take(self) -> SegmentFile:
        """A file for a new life: a spare one, or one made now with all its blocks reserved.

        Raises:
            OSError: ENOSPC and others; no file is left behind.

        A spare one costs nothing. A new one: open, fallocate.
        """
        if self.spares:
            return self.spares.pop()
        number = 1
        while number in self._numbers:
            number += 1
        path = self.directory / f"seg-{number:04d}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        try:
            self.calls.preallocate(fd, 0, self.segment_bytes)
        except OSError:
            os.close(fd)
            os.unlink(path)
            raise
        self._numbers.add(number)
        self.unsynced = True
        return SegmentFile(number, path, fd, self.segment_bytes)

    def give(self, file: SegmentFile) -> None:
        """Take a file back whose life is over: kept as a spare, or removed."""
        if file.size != self.segment_bytes or len(self.spares) >= self.spare_limit:
            try:
                self.calls.unlink(str(file.path))
            except OSError:
                # It stays on disk with a life that is over: harmless, and the next open offers it again.
                pass
            else:
                self._numbers.discard(file.number)
            # Closing frees the blocks, which takes milliseconds: not on the appending thread.
            threading.Thread(target=os.close, args=(file.fd,), name="close segment").start()
            return
        self.spares.append(file)

    def begin_life(self, file: SegmentFile, header: LifeHeader) -> Segment:
        """Write the header of a new life over whatever the file held.

        Raises:
            OSError: Not written, or not wholly (EIO); the file may be used for another life.
        """
        block = encode_header(header)
        if self.calls.begin_life(file.fd, block, 0) != len(block):
            raise OSError(errno.EIO, "short write of a segment header")
        segment = Segment.of(file, header)
        segment.sealed = False
        return segment

    def sync_directory(self) -> None:
        """Make the names of new files durable. Blocks; OSError as fsync(2)."""
        if self.unsynced:
            # Cleared first: a file made meanwhile by the appending thread sets it again.
            self.unsynced = False
            try:
                self.calls.sync_directory(self.directory_fd)
            except OSError:
                self.unsynced = True
                raise

    def discard(self, files: list[SegmentFile]) -> None:
        """Close files without a word about their lives: the log is not going to be opened."""
        for file in files:
            os.close(file.fd)

    def close(self) -> None:
        """Close the spare files and the directory. Idempotent."""
        for file in self.spares:
            os.close(file.fd)
        self.spares.clear()
        if self.directory_fd >= 0:
            os.close(self.directory_fd)
            self.directory_fd = -1
