"""Pack files: append-only files of frames, each behind a header that names its chunk.

The format is packfile.py's. Invariants:
- a pack has one writer in its life; a process that starts makes a pack of its own;
- bytes behind the writer's tracked offset mean nothing: a failed append is overwritten by the next;
- an entry never changes, and its place is handed out only when it was written in full;
- what is read is decoded and checked against its BLAKE3 before anyone sees it.
Must not know: the index, which chunks are wanted, files and trees.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Final

from cas.checksum import crc32
from cas.codec import MAX_FRAME, decode
from cas.digest import ChunkId, verify
from cas.errors import ChunkDamaged, FrameDamaged
from cas.packfile import (
    ENTRY_HEADER_BYTES,
    PACK_HEADER_BYTES,
    SALT_BYTES,
    Place,
    Stored,
    entry_header,
    pack_header,
    pack_numbers,
    pack_path,
    scan_pack,
)

__all__ = ["ROLL_BYTES", "PackCalls", "PackReader", "PackWriter", "Place", "Stored"]

ROLL_BYTES: Final = 256 << 20
"""A pack at least this long gets no further entries (a batch may run past it)."""

_PAIRS_PER_WRITE: Final = 512
"""Header and frame of each: IOV_MAX is 1024."""


@dataclass(slots=True)
class PackCalls:
    """The system calls of a pack writer, labelled: a test replaces exactly one with a callable that fails.

    Attributes:
        create: Makes a pack. (path, flags, mode) -> descriptor.
        append: Writes entries. (fd, buffers, offset) -> bytes written.
        rest: Writes what a short append left, and a new pack's header. (fd, data, offset) -> bytes written.
        truncate: Cuts off a failed append.
        sync: fdatasync of one pack.
        sync_directory: fsync of the directory, after a pack was made in it.
    """

    create: Callable[[Path, int, int], int] = os.open
    append: Callable[[int, Sequence[bytes], int], int] = os.pwritev
    rest: Callable[[int, memoryview, int], int] = os.pwrite
    truncate: Callable[[int, int], None] = os.ftruncate
    sync: Callable[[int], None] = os.fdatasync
    sync_directory: Callable[[int], None] = os.fsync


class PackWriter:
    """Appends to packs of its own; several in one directory, in any processes, don't disturb each other.

    For one thread at a time. The first pack is made by the first append.

    Attributes:
        made: Numbers of the packs that it made.
    """

    __slots__ = (
        "_calls",
        "_directory",
        "_fd",
        "_new_name",
        "_offset",
        "_pack",
        "_refusal",
        "_retired",
        "_roll_bytes",
        "_salt",
        "_seed",
        "_unsynced",
        "_writer",
        "made",
    )

    def __init__(
        self,
        directory: Path,
        writer: int,
        *,
        roll_bytes: int = ROLL_BYTES,
        salt: Callable[[int], bytes] = os.urandom,
        calls: PackCalls | None = None,
    ) -> None:
        """Write in `directory`, which exists.

        Args:
            directory: Of the packs.
            writer: Number of this writer, told in the header of its packs; means nothing to readers.
            roll_bytes: Length from which a pack is left for the next.
            salt: Called with a number of bytes, returns that many random ones.
            calls: System calls, for tests.
        """
        self._calls = calls or PackCalls()
        self._directory = directory
        self._writer = writer
        self._roll_bytes = roll_bytes
        self._salt = salt
        self._fd = -1
        self._pack = 0
        self._offset = 0
        self._seed = 0
        self._retired: list[int] = []
        self._new_name = False
        self._unsynced = False
        self._refusal: OSError | None = None
        self.made: list[int] = []

    def append(self, id: ChunkId, frame: bytes) -> Place:
        """`append_many` of one."""
        return self.append_many(((id, frame),))[0]

    def append_many(self, entries: Sequence[tuple[ChunkId, bytes]]) -> list[Place]:
        """Append frames in order, all in one pack, by one pwritev for 512 of them.

        Returns:
            The place of each. They can be read at once, by any process; `sync` makes them safe.

        Raises:
            OSError: ENOSPC, EIO, ...: none was appended, and the next append may be tried.
        """
        self._check()
        if not entries:
            return []
        if self._fd < 0 or self._offset >= self._roll_bytes:
            self._roll()
        seed, offset = self._seed, self._offset
        offsets: list[int] = []
        lengths: list[int] = []
        buffers: list[bytes] = []
        for id, frame in entries:
            length = len(frame)
            buffers += (entry_header(id, length, seed), frame)
            offset += ENTRY_HEADER_BYTES
            offsets.append(offset)
            lengths.append(length)
            offset += length
        self._write(buffers)
        self._offset = offset
        self._unsynced = True
        return list(map(Place, repeat(self._pack), offsets, lengths))

    def sync(self) -> None:
        """Make everything appended power-safe, names of new packs included.

        Raises:
            OSError: It is not, and can't be made so: the kernel may have dropped it and would report
                success the second time. From now on every call of this writer raises.
        """
        self._check()
        if not self._unsynced:
            return
        try:
            while self._retired:
                self._calls.sync(self._retired[-1])
                os.close(self._retired.pop())
            self._calls.sync(self._fd)
            if self._new_name:
                self._sync_directory()
                self._new_name = False
        except OSError as error:
            self._refusal = error
            raise
        self._unsynced = False

    def close(self) -> None:
        """Sync and release the descriptors, which happens even if the sync raises. Idempotent."""
        try:
            if self._refusal is None:
                self.sync()
        finally:
            for fd in (*self._retired, self._fd):
                if fd >= 0:
                    os.close(fd)
            self._retired = []
            self._fd = -1
            self._unsynced = False

    def abandon(self) -> None:
        """Release the descriptors without a sync: what was appended is of no use. Idempotent."""
        self._unsynced = False
        self.close()

    def _check(self) -> None:
        if self._refusal is not None:
            raise OSError(self._refusal.errno, "an earlier sync of these packs failed") from self._refusal

    def _write(self, buffers: list[bytes]) -> None:
        """Put `buffers` at the tracked offset, or raise and leave that offset the end of the pack."""
        fd, offset = self._fd, self._offset
        step = 2 * _PAIRS_PER_WRITE
        try:
            for start in range(0, len(buffers), step):
                group = buffers[start : start + step]
                wanted = sum(map(len, group))
                written = self._calls.append(fd, group, offset)
                if written < wanted:
                    # The rest, alone, either goes or tells why not.
                    self._write_all(fd, memoryview(b"".join(group))[written:], offset + written)
                offset += wanted
        except OSError:
            with contextlib.suppress(OSError):
                self._calls.truncate(fd, self._offset)
            raise

    def _roll(self) -> None:
        """Leave the current pack, if any, and make the next."""
        numbers = pack_numbers(self._directory)
        pack = numbers[-1] + 1 if numbers else 1
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        while True:
            path = pack_path(self._directory, pack)
            try:
                fd = self._calls.create(path, flags, 0o600)
                break
            except FileExistsError:
                pack += 1
        try:
            salt = self._salt(SALT_BYTES)
            self._write_all(fd, memoryview(pack_header(pack, self._writer, salt)), 0)
        except BaseException:
            os.close(fd)
            path.unlink()
            raise
        self.made.append(pack)
        if self._fd >= 0:
            self._retired.append(self._fd)
        self._fd = fd
        self._pack = pack
        self._offset = PACK_HEADER_BYTES
        self._seed = crc32(salt)
        self._new_name = True

    def _write_all(self, fd: int, data: memoryview, offset: int) -> None:
        while data:
            written = self._calls.rest(fd, data, offset)
            data = data[written:]
            offset += written

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._calls.sync_directory(fd)
        finally:
            os.close(fd)


class _Descriptor:
    """An open pack, closed when its last user lets go: no reader's descriptor is closed under it."""

    __slots__ = ("fd",)

    def __init__(self, path: Path) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class PackReader:
    """Reads packs, those still being written included. Thread-safe.

    Keeps at most `open_max` descriptors, the least recently used are closed first.
    """

    __slots__ = ("_directory", "_lock", "_open", "_open_max")

    def __init__(self, directory: Path, *, open_max: int = 128) -> None:
        self._directory = directory
        self._open_max = open_max
        self._open: OrderedDict[int, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def read_frame(self, place: Place) -> bytes:
        """The bytes at `place`, unverified, by one pread (releases the interpreter lock).

        Raises:
            FrameDamaged: The pack is gone or ends before, or the place is longer than a frame can be.
            OSError: The read failed.
        """
        pack, offset, length = place
        if length > MAX_FRAME:
            raise FrameDamaged(f"a place of {length} bytes")
        descriptor = self._descriptor(pack)
        frame = os.pread(descriptor.fd, length, offset)
        if len(frame) != length:
            raise FrameDamaged(f"pack {pack} ends {length - len(frame)} bytes early")
        return frame

    def get(self, id: ChunkId, place: Place) -> bytes:
        """The content of chunk `id`, whose frame lies at `place`, verified.

        Raises:
            ChunkDamaged: What lies there is not this chunk.
            OSError: The read failed.

        Cost, page cache warm: 9 us for 4 KiB, 28 us for 64 KiB of text.
        """
        try:
            data = decode(self.read_frame(place))
        except FrameDamaged as error:
            raise ChunkDamaged(id, f"pack {place.pack} at {place.offset}: {error.reason}") from error
        verify(id, data)
        return data

    def get_if_cached(self, id: ChunkId, place: Place) -> bytes | None:
        """As `get`, but None where the kernel would have to read from the disk: never blocks. 12 us for 4 KiB."""
        pack, offset, length = place
        if length > MAX_FRAME:
            raise ChunkDamaged(id, f"a place of {length} bytes")
        frame = bytearray(length)
        try:
            read = os.preadv(self._descriptor(pack).fd, [frame], offset, os.RWF_NOWAIT)
        except (OSError, FrameDamaged):
            return None
        if read != length:
            return None
        try:
            data = decode(bytes(frame))
        except FrameDamaged as error:
            raise ChunkDamaged(id, f"pack {pack} at {offset}: {error.reason}") from error
        verify(id, data)
        return data

    def packs(self) -> list[int]:
        """Numbers of the packs that exist, ascending."""
        return pack_numbers(self._directory)

    def scan(self, pack: int, *, verified: bool = True) -> Iterator[Stored]:
        """Enumerate the entries of a pack in order, for an index that has to be made again.

        Stops at the first bytes that are no entry: the torn tail, where there is one. What a sync covered
        lies before that. O(bytes); with `verified` False it reads headers only.

        Args:
            pack: Its number.
            verified: Pass over entries whose content is not what their header names.

        Raises:
            PackDamaged: The pack's own header is no header. (Too short for one: no entries.)
            VersionUnknown: Written by a later version.
            FileNotFoundError: No such pack.
        """
        return scan_pack(self._directory, pack, verified=verified)

    def forget(self, pack: int) -> None:
        """Release the descriptor of a pack that was removed. Reads under way finish."""
        with self._lock:
            self._open.pop(pack, None)

    def close(self) -> None:
        """Release all descriptors. Idempotent; a later read opens anew."""
        with self._lock:
            self._open.clear()

    def _descriptor(self, pack: int) -> _Descriptor:
        descriptors = self._open
        with self._lock:
            descriptor = descriptors.get(pack)
            if descriptor is not None:
                descriptors.move_to_end(pack)
                return descriptor
            try:
                descriptor = _Descriptor(pack_path(self._directory, pack))
            except FileNotFoundError:
                raise FrameDamaged(f"pack {pack} does not exist") from None
            descriptors[pack] = descriptor
            if len(descriptors) > self._open_max:
                descriptors.popitem(last=False)
            return descriptor
