"""Where a worker finds the bytes it is to cut: log segments and packs, read and verified there.

Invariant: no byte is handed on that its block's checksum or its chunk's BLAKE3 does not vouch for.
Must not know: what the bytes belong to, the layout of log records.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from cas.checksum import crc32
from cas.digest import ChunkId
from cas.errors import CasError
from cas.packs import PackReader, Place
from heliosfs.storage.workers.protocol import CHUNK, KIND_CHUNK, KIND_LOG, KIND_SEGMENT, LOG, RUN, SEGMENT, U32

_OPEN_MAX: Final = 64


class Unreadable(Exception):
    """Bytes that can't be had.

    Attributes:
        errno: EIO, or what the system said.
        reason: Which bytes.
    """

    def __init__(self, errno_: int, reason: str) -> None:
        super().__init__(errno_, reason)
        self.errno = errno_
        self.reason = reason


class _Segment(NamedTuple):
    path: bytes
    seed: int
    block_bytes: int


@dataclass(slots=True, frozen=True)
class LogRange:
    """Bytes [start, start + length) of a payload at `offset` of a segment file."""

    segment: _Segment
    offset: int
    payload_length: int
    sums: bytes
    start: int
    length: int


@dataclass(slots=True, frozen=True)
class ChunkRange:
    """Bytes [start, start + length) of a stored chunk."""

    id: ChunkId
    place: Place
    start: int
    length: int


@dataclass(slots=True, frozen=True)
class Run:
    """A run to cut: see jobs.CutRun."""

    sources: list[LogRange | ChunkRange]
    resync: frozenset[int]
    length: int


def read_cut(body: bytes) -> Iterator[Run]:
    """The runs that `requests.cut_request` wrote.

    Raises:
        struct.error, ValueError: That is no such request.
    """
    (count,) = U32.unpack_from(body)
    at = 4
    segments: list[_Segment] = []
    for _ in range(count):
        wanted, stops = RUN.unpack_from(body, at)
        at += RUN.size
        resync = frozenset(struct.unpack_from(f"<{stops}Q", body, at))
        at += 8 * stops
        sources: list[LogRange | ChunkRange] = []
        total = 0
        while len(sources) < wanted:
            kind = body[at]
            if kind == KIND_LOG:
                _, segment, offset, payload_length, sums_length, start, length = LOG.unpack_from(body, at)
                at += LOG.size
                sums = body[at : at + sums_length]
                at += sums_length
                sources.append(LogRange(segments[segment], offset, payload_length, sums, start, length))
            elif kind == KIND_CHUNK:
                _, pack, offset, frame_length, start, id_, length = CHUNK.unpack_from(body, at)
                at += CHUNK.size
                sources.append(ChunkRange(ChunkId(id_), Place(pack, offset, frame_length), start, length))
            elif kind == KIND_SEGMENT:
                _, seed, block_bytes, path_length = SEGMENT.unpack_from(body, at)
                at += SEGMENT.size
                segments.append(_Segment(body[at : at + path_length], seed, block_bytes))
                at += path_length
                continue
            else:
                raise ValueError(f"a source of kind {kind}")
            total += length
        yield Run(sources, resync, total)


class SourceReader:
    """Reads ranges. Keeps segment files open for the length of a job (`forget`): they may be removed."""

    __slots__ = ("_open", "_packs")

    def __init__(self, packs: PackReader) -> None:
        self._packs = packs
        self._open: dict[bytes, int] = {}

    def read(self, source: LogRange | ChunkRange) -> bytes:
        """The bytes of a range, verified.

        Raises:
            Unreadable: They are damaged or can't be read.
        """
        if type(source) is LogRange:
            return self._read_log(source)
        assert type(source) is ChunkRange
        try:
            data = self._packs.get(source.id, source.place)
        except CasError as error:
            raise Unreadable(errno.EIO, str(error)) from error
        except OSError as error:
            reason = f"chunk {source.id.hex()}: {error.strerror}"
            raise Unreadable(error.errno or errno.EIO, reason) from error
        stop = source.start + source.length
        if stop > len(data):
            raise Unreadable(errno.EIO, f"chunk {source.id.hex()} has {len(data)} bytes, {stop} are asked for")
        return data if source.length == len(data) else data[source.start : stop]

    def forget(self) -> None:
        """Close the segment files."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _read_log(self, source: LogRange) -> bytes:
        path, seed, block = source.segment
        start = source.start
        stop = start + source.length
        payload_length = source.payload_length
        first = start // block * block
        last = min((stop + block - 1) // block * block, payload_length)
        where = f"log {os.fsdecode(path)} offset {source.offset}"
        if stop > payload_length or len(source.sums) < (last + block - 1) // block * 4:
            raise Unreadable(errno.EIO, f"{where}: a range beyond its payload")
        try:
            data = os.pread(self._fd(path), last - first, source.offset + first)
        except OSError as error:
            raise Unreadable(error.errno or errno.EIO, f"{where}: {error.strerror}") from error
        if len(data) != last - first:
            raise Unreadable(errno.EIO, f"{where}: the segment ends early")
        view = memoryview(data)
        sums = source.sums
        for at in range(0, len(data), block):
            number = (first + at) // block
            if crc32(view[at : at + block], seed).to_bytes(4, "little") != sums[number * 4 : number * 4 + 4]:
                raise Unreadable(errno.EIO, f"{where}: damaged block at {first + at}")
        return data if source.length == len(data) else data[start - first : stop - first]

    def _fd(self, path: bytes) -> int:
        fd = self._open.get(path)
        if fd is None:
            if len(self._open) >= _OPEN_MAX:
                self.forget()
            fd = self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return fd
