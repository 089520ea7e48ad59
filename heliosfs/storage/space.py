"""Room on the disk under a store: how large its parts may be, what ordinary writes may take, and the reserve.

What is acknowledged lies in the log and has to become chunks some day, so a write is taken in only while there
is room to store it a second time: else a full disk could not be cut, and a log that can't be cut can't be
freed. The reserve is a file with blocks: it is given up for the way out of a full disk (opening, a cut,
garbage collection) and made again once there is room.
Must not know: what the log, packs and database hold.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

RESERVE_NAME: Final = "reserve"
_MIB: Final = 1 << 20


def _power_of_two(size: int) -> int:
    """The greatest that does not exceed `size` (> 0)."""
    return 1 << (size.bit_length() - 1)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a store's parts, in bytes, chosen each time it is opened, for the disk it then lies on.

    Attributes:
        segment: Of the log's segment files; a write of 1 MiB must fit.
        log: What the log may hold before writers wait.
        spares: How many unused segment files are kept while there is work.
        reserve_segment: Of the one segment that is kept for the way out of a full disk.
        reserve: Of the reserve file.
        pack: Length from which a pack file gets no further entries.
        write_buffer: Of the database.
    """

    segment: int = 16 * _MIB
    log: int = 1 << 30
    spares: int = 4
    reserve_segment: int = 2 * _MIB
    reserve: int = 8 * _MIB
    pack: int = 256 * _MIB
    write_buffer: int = 4 * _MIB

    @classmethod
    def for_disk(cls, total: int, log: int) -> Self:
        """Sizes on a disk of `total` bytes, where the log may have `log` at most. A quarter of a disk is its most.

        On 64 MiB: segments of 2 MiB, a log of 16, a reserve of 4 + 2, a write buffer of 1.
        """
        whole = cls()
        segment = min(whole.segment, max(2 * _MIB, _power_of_two(max(total // 32, 1))))
        budget = min(log, max(total // 4, 4 * segment))
        return cls(
            segment=segment,
            log=budget,
            spares=min(whole.spares, max(1, budget // (8 * segment))),
            reserve=min(whole.reserve, max(2 * _MIB, total // 16)),
            pack=min(whole.pack, max(2 * _MIB, total // 32)),
            write_buffer=min(whole.write_buffer, max(_MIB // 2, total // 64)),
        )

    @property
    def cut(self) -> int:
        """What a cut needs beside the file data: pages, index records, a compaction of the database."""
        return 2 * self.write_buffer

    @property
    def margin(self) -> int:
        """What ordinary writes leave alone: the needs of a cut, and the segment that the log begins meanwhile."""
        return self.segment + self.cut


@dataclass(frozen=True, slots=True)
class Disk:
    """What statvfs(2) says of the disk, in bytes; `free` is what an unprivileged user could still take."""

    total: int
    free: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """As it is now. 2 us."""
        found = os.statvfs(path)
        return cls(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


class Space:
    """The room of one open store.

    Attributes:
        sizes: Of its parts.
        reserved: Bytes that the reserve file has now.
    """

    def __init__(self, store: Path, log_bytes: int, *, disk: Callable[[Path], Disk] = Disk.of) -> None:
        """Look at the disk and at the reserve.

        Args:
            store: The store's directory.
            log_bytes: What the log may hold at most.
            disk: Tells how full the disk is; a test puts its own here.
        """
        self._store = store
        self._disk = disk
        self.sizes = Sizes.for_disk(disk(store).total, log_bytes)
        try:
            self.reserved = os.stat(store / RESERVE_NAME).st_size
        except FileNotFoundError:
            self.reserved = 0

    @property
    def missing(self) -> int:
        """Bytes that the reserve lacks."""
        return max(self.sizes.reserve - self.reserved, 0)

    def taken(self, unstored: int) -> int:
        """Bytes of the disk that are free and yet spoken for, while `unstored` bytes of log are in no cut."""
        return unstored + unstored // 32 + self.sizes.margin + self.missing

    def room(self, unstored: int) -> int:
        """How many bytes ordinary writes may still append; negative when they may not. 2 us."""
        return self._disk(self._store).free - self.taken(unstored)

    def tight(self, unstored: int) -> bool:
        """Whether a cut of `unstored` bytes could meet a full disk."""
        return self._disk(self._store).free < unstored + unstored // 32 + self.sizes.cut

    def release(self) -> int:
        """Give the reserve to whoever frees space with it. The bytes given; 0 if there are none any more."""
        given = self.reserved
        if given:
            # Not removed: a directory entry could need a block that there is none for.
            with contextlib.suppress(OSError):
                os.truncate(self._store / RESERVE_NAME, 0)
                self.reserved = 0
                return given
        return 0

    def refill(self, unstored: int) -> bool:
        """Make the reserve whole if there is room for it. Whether it is whole now. Blocks: for a thread."""
        if self.missing and self.room(unstored) >= 0:
            with contextlib.suppress(OSError):
                self._allocate()
        return not self.missing

    def _allocate(self) -> None:
        fd = os.open(self._store / RESERVE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                os.posix_fallocate(fd, 0, self.sizes.reserve)
            except OSError:
                # Half a reserve that a file system counts as taken would be no reserve: the next try is whole.
                os.ftruncate(fd, 0)
                self.reserved = 0
                raise
            self.reserved = os.fstat(fd).st_size
        finally:
            os.close(fd)
