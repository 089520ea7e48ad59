"""Reading files of another filesystem into chunks, holes kept.

Must not know: the socket, packs, what the files are imported into.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from cas.chunker import SMALL_MAX, Cutter
from cas.digest import ChunkId
from heliosfs.storage.workers.jobs import StoredFile

_READ_BYTES: Final = 1 << 20
_ONE_BLOCK: Final = 1024
"""Bytes; no filesystem has smaller blocks, so what has a block and is no longer has no hole."""
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def store_file(path: bytes, keep: Callable[[bytes], ChunkId]) -> StoredFile:
    """Read a regular file, cut each of its data runs, and give every piece to `keep`.

    A file that is written to meanwhile is read once more; if it changes again, what was read stands and
    `changed` is set. Memory: at most 1.6 MiB.

    Raises:
        OSError: It can't be read; EINVAL: no regular file; ELOOP: a symbolic link.
    """
    fd = _open(path)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        for attempt in (0, 1):
            extents = _store_runs(fd, before, keep)
            after = os.fstat(fd)
            same = (
                after.st_mtime_ns == before.st_mtime_ns
                and after.st_size == before.st_size
                and after.st_ctime_ns == before.st_ctime_ns
            )
            if same or attempt:
                break
            before = after
        if extents and extents[-1][0] + extents[-1][1] > before.st_size:
            raise AssertionError("an extent beyond the end")
        return StoredFile(before.st_size, before.st_mtime_ns, before.st_ctime_ns, not same, extents)
    finally:
        os.close(fd)


def _open(path: bytes) -> int:
    try:
        # Not to be seen reading is the owner's privilege; the others get EPERM.
        return os.open(path, _FLAGS | os.O_NOATIME)
    except PermissionError:
        return os.open(path, _FLAGS)


def _store_runs(
    fd: int, status: os.stat_result, keep: Callable[[bytes], ChunkId]
) -> list[tuple[int, int, ChunkId]]:
    extents: list[tuple[int, int, ChunkId]] = []
    for offset, length in _data_runs(fd, status):
        if length <= SMALL_MAX:
            data = os.pread(fd, length, offset)
            if data:
                extents.append((offset, len(data), keep(data)))
            continue
        cutter = Cutter()
        at = offset
        end = offset + length
        position = offset
        while position < end:
            data = os.pread(fd, min(_READ_BYTES, end - position), position)
            if not data:
                break  # It shrank: the second look at its times tells.
            position += len(data)
            for piece in cutter.feed(data):
                extents.append((at, len(piece), keep(piece)))
                at += len(piece)
        for piece in cutter.finish():
            extents.append((at, len(piece), keep(piece)))
            at += len(piece)
    return extents


def _data_runs(fd: int, status: os.stat_result) -> Iterator[tuple[int, int]]:
    """(offset, length) of what lies between holes, within the size that `status` has."""
    size = status.st_size
    if size <= _ONE_BLOCK and status.st_blocks:
        if size:
            yield 0, size
        return
    # st_blocks can't tell whether there are holes: it counts the blocks of xattrs, too.
    position = 0
    while position < size:
        try:
            begin = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                yield position, size - position
                return
            raise
        if begin >= size:
            return
        position = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        if position <= begin:
            return
        yield begin, position - begin
