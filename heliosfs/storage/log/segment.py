"""Segment files, and the lives they lead.

`SegmentFiles` owns the directory: it makes files with all their blocks reserved, keeps a few spare ones and
removes the rest. One small file is kept in reserve, for records that lead out of a full disk. A `Segment` is
one life of one file. A file's next life overwrites its header; nothing else of it is erased, because the new
salt makes the old records void.
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
_COPY_NAME: Final = re.compile(r"seg-[0-9]{4,}\.new\Z")
_MODE: Final = 0o600


def segment_paths(directory: Path) -> list[Path]:
    """Every segment file there is now, in no order. OSError."""
    return [directory / name for name in os.listdir(directory) if _NAME.match(name)]


@dataclass(slots=True, eq=False)
class SegmentFile:
    """One file of the log, open for reading and writing.

    Attributes:
        number: Of its name.
        size: Bytes reserved.
        written: Bytes from its start on that are known to have been written to since they were reserved.
    """

    number: int
    path: Path
    fd: int
    size: int
    written: int = 0


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
        moving: Its bytes are being moved to another file: it must not be let go.
    """

    file: SegmentFile
    header: LifeHeader
    seed: int
    marker: bytes
    end: int = HEADER_BYTES
    sealed: bool = True
    pins: int = 0
    moving: bool = False

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
        reserve_bytes: Size of the file kept in reserve; 0 for none.
        unsynced: A file was made since `sync_directory`.
        spares: Unused files.
        reserve: The file kept in reserve, while there is one.
    """

    directory: Path
    calls: OsCalls
    segment_bytes: int
    spare_limit: int
    reserve_bytes: int = 0
    directory_fd: int = field(init=False)
    unsynced: bool = field(init=False, default=False)
    spares: list[SegmentFile] = field(init=False, default_factory=list)
    reserve: SegmentFile | None = field(init=False, default=None)
    _numbers: set[int] = field(init=False, default_factory=set)
    _closing: list[threading.Thread] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.segment_bytes < 2 * HEADER_BYTES or self.segment_bytes % HEADER_BYTES:
            raise ValueError(f"segment size {self.segment_bytes} is not a multiple of {HEADER_BYTES} above it")
        self.directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_all(self) -> list[SegmentFile]:
        """Open every segment file there is, by number; unfinished copies are removed, other names left alone.

        Raises:
            OSError: As open(2) and fstat(2) do; what was opened is closed again.
        """
        files: list[SegmentFile] = []
        try:
            for name in os.listdir(self.directory):
                match = _NAME.match(name)
                if match is None:
                    if _COPY_NAME.match(name):
                        # A move that was killed before it changed the name.
                        os.unlink(self.directory / name)
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

    def take(self, *, releasing: bool = False) -> SegmentFile:
        """A file for a new life: a spare one, or one made now with all its blocks reserved.

        Args:
            releasing: What is to be written leads to free space: where no file can be made it gets the reserve.

        Raises:
            OSError: ENOSPC and others; no file is left behind.

        A spare one costs nothing. A new one: open, fallocate.
        """
        if self.spares:
            return self.spares.pop()
        try:
            return self._make(self.segment_bytes)
        except OSError:
            if not releasing or self.reserve is None:
                raise
            file, self.reserve = self.reserve, None
            return file

    def keep_reserve(self) -> bool:
        """Have a file in reserve, made now if need be. Whether there is one, as far as one is wanted."""
        if self.reserve is None and self.reserve_bytes:
            try:
                self.reserve = self._make(self.reserve_bytes)
            except OSError:
                return False
        return True

    def _make(self, size: int) -> SegmentFile:
        number = 1
        while number in self._numbers:
            number += 1
        path = self.directory / f"seg-{number:04d}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        try:
            self.calls.preallocate(fd, 0, size)
        except OSError:
            os.close(fd)
            os.unlink(path)
            raise
        self._numbers.add(number)
        self.unsynced = True
        return SegmentFile(number, path, fd, size)

    def give(self, file: SegmentFile, *, spare: bool = True) -> None:
        """Take a file back whose life is over: kept in reserve or, if `spare`, for another life, or removed."""
        if self.reserve is None and file.size == self.reserve_bytes:
            self.reserve = file
        elif spare and file.size == self.segment_bytes and len(self.spares) < self.spare_limit:
            self.spares.append(file)
        else:
            self._remove(file)

    def drop_unused(self) -> None:
        """Remove spare files and the reserve: their names may not be on the disk. Others are made when needed."""
        self.drop_spares()
        reserve, self.reserve = self.reserve, None
        if reserve is not None:
            self._remove(reserve)

    def drop_spares(self) -> None:
        """Remove the spare files: nothing will need them soon. The reserve stays."""
        while self.spares:
            self._remove(self.spares.pop())

    def _remove(self, file: SegmentFile) -> None:
        try:
            self.calls.unlink(str(file.path))
        except OSError:
            # It stays on disk with a life that is over: harmless, and the next open offers it again.
            pass
        else:
            self._numbers.discard(file.number)
        # Closing frees the blocks, which takes milliseconds: not on the appending thread.
        thread = threading.Thread(target=os.close, args=(file.fd,), name="close segment")
        self._closing = [other for other in self._closing if other.is_alive()]
        self._closing.append(thread)
        thread.start()

    def wait_freed(self) -> None:
        """Return when the blocks of removed files are free. Blocks; from any thread."""
        for thread in list(self._closing):
            thread.join()

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
        for file in (*self.spares, *((self.reserve,) if self.reserve is not None else ())):
            os.close(file.fd)
        self.spares.clear()
        self.reserve = None
        if self.directory_fd >= 0:
            os.close(self.directory_fd)
            self.directory_fd = -1
