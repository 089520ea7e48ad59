"""Reads packs from end to end and says of every byte what it is: header, whole entry, damaged entry, none.

Unlike a scan for the index it does not stop at the first bytes that are no entry: it looks for the next one,
so that one flipped byte in a header hides nothing that lies behind it. An entry whose header is damaged may
be whole as a chunk; whoever knows its place can tell. Must not know: the index, files, who wants chunks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cas.checksum import crc32
from cas.codec import MAX_FRAME, decode
from cas.digest import ChunkId, chunk_id
from cas.errors import FrameDamaged, PackDamaged
from cas.packfile import (
    ENTRY_HEADER_BYTES,
    ENTRY_MAGIC,
    PACK_HEADER_BYTES,
    Place,
    check_pack_header,
    pack_path,
    read_entry_header,
)

_WINDOW: Final = 1 << 20

Pace = Callable[[int], None]
"""Called with the bytes just read; it may sleep, or raise to end the work."""


class Entry(NamedTuple):
    """An entry with a good header.

    Attributes:
        id: What its header names.
        place: Of its frame.
        raw_length: Of its content, bytes; 0 if it is damaged.
        problem: Why its content is not what it is named; "" if it is.
    """

    id: ChunkId
    place: Place
    raw_length: int
    problem: str


class Broken(NamedTuple):
    """Bytes that are no entry: a damaged header with its frame, or what a killed writer left at the end.

    Attributes:
        end: Where the next entry begins, or the file ends.
        last: Nothing follows.
        reason: What did not hold.
    """

    pack: int
    offset: int
    end: int
    last: bool
    reason: str


def scrub_pack(directory: Path, pack: int, pace: Pace) -> Iterator[Entry | Broken]:
    """Read a pack in order and verify every entry. O(bytes).

    Its header counts as Broken at offset 0 if it is damaged; entries are then found by their content alone.

    Raises:
        VersionUnknown: Written by a later version.
        FileNotFoundError: No such pack.
        OSError: It can't be opened. A range that can't be read is Broken.
    """
    path = pack_path(directory, pack)
    with open(path, "rb", buffering=0) as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        if size < PACK_HEADER_BYTES:
            if size:
                yield Broken(pack, 0, size, True, "shorter than a header")
            return
        seed: int | None = None
        try:
            seed = crc32(check_pack_header(path, os.pread(fd, PACK_HEADER_BYTES, 0)))
        except PackDamaged as error:
            yield Broken(pack, 0, PACK_HEADER_BYTES, size == PACK_HEADER_BYTES, f"pack header: {error.reason}")
        except OSError as error:
            yield Broken(pack, 0, PACK_HEADER_BYTES, False, f"pack header: {error}")
        pace(PACK_HEADER_BYTES)
        reader = _Reader(fd, pack, size, seed, pace)
        offset = PACK_HEADER_BYTES
        while offset < size:
            entry = reader.entry(offset)
            if entry is not None:
                yield entry
                offset = entry.place.offset + entry.place.length
                continue
            following = reader.next_entry(offset + 1)
            yield Broken(pack, offset, following, following == size, "no entry begins here")
            offset = following


def read_whole(directory: Path, id: ChunkId, place: Place) -> bytes | None:
    """The content of a chunk if a frame of it lies whole at `place`, else None. Never raises OSError."""
    if place.length > MAX_FRAME:
        return None
    try:
        with open(pack_path(directory, place.pack), "rb", buffering=0) as file:
            data = decode(os.pread(file.fileno(), place.length, place.offset))
    except (OSError, FrameDamaged):
        return None
    return data if chunk_id(data) == id else None


class _Reader:
    __slots__ = ("_fd", "_pace", "_pack", "_seed", "_size")

    def __init__(self, fd: int, pack: int, size: int, seed: int | None, pace: Pace) -> None:
        self._fd = fd
        self._pack = pack
        self._size = size
        self._seed = seed
        self._pace = pace

    def entry(self, offset: int) -> Entry | None:
        """The entry that begins at `offset`, or None if none does."""
        if offset + ENTRY_HEADER_BYTES > self._size:
            return None
        try:
            header = os.pread(self._fd, ENTRY_HEADER_BYTES, offset)
        except OSError:
            return None
        found = read_entry_header(header, self._seed)
        if found is None:
            return None
        id, length = found
        start = offset + ENTRY_HEADER_BYTES
        if length > MAX_FRAME or start + length > self._size:
            return None
        place = Place(self._pack, start, length)
        problem, raw = "", 0
        try:
            data = decode(os.pread(self._fd, length, start))
            raw = len(data)
            if chunk_id(data) != id:
                problem, raw = "content does not match its BLAKE3", 0
        except FrameDamaged as error:
            problem = error.reason
        except OSError as error:
            problem = error.strerror or str(error)
        self._pace(ENTRY_HEADER_BYTES + length)
        if problem and self._seed is None:
            # Without the salt only its content proves an entry.
            return None
        return Entry(id, place, raw, problem)

    def next_entry(self, offset: int) -> int:
        """Where the next entry begins, at or behind `offset`; the file's size if none does."""
        overlap = len(ENTRY_MAGIC) - 1
        while offset < self._size:
            try:
                window = os.pread(self._fd, _WINDOW, offset)
            except OSError:
                offset += _WINDOW
                continue
            self._pace(len(window))
            at = window.find(ENTRY_MAGIC)
            while at >= 0:
                if self.entry(offset + at) is not None:
                    return offset + at
                at = window.find(ENTRY_MAGIC, at + 1)
            if len(window) <= overlap:
                break
            offset += len(window) - overlap
        return self._size
