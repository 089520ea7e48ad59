"""The lives of a log that are still needed: read back verified, pinned, and released as a prefix.

Invariants: lives are released oldest first, and none that is pinned; whoever reads gets the bytes that were
appended, or an error. Releasing happens on the appending thread; `read` and `read_blocks` may be called from
others.
Must not know: how records are appended and synced, what they mean.
"""

from __future__ import annotations

import threading
from pathlib import Path

from heliosfs.core.ids import Lsn
from heliosfs.storage.errors import LifeReleased, LogDamaged
from heliosfs.storage.log.frame import BLOCK_BYTES, block_sums
from heliosfs.storage.log.oscalls import OsCalls
from heliosfs.storage.log.segment import Segment, SegmentFiles


class Lives:
    """Segments by the number of their life.

    Attributes:
        budget_bytes: What the log may hold before writers wait.
        used_bytes: Size of the segments in use.
    """

    _segment: Segment

    def __init__(self, files: SegmentFiles, budget_bytes: int, calls: OsCalls) -> None:
        self._files = files
        self._calls = calls
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._lives: dict[int, Segment] = {}
        self._lock = threading.Lock()
        self._dirty: list[Segment] = []
        self._released = Lsn(0)

    # --- reading -------------------------------------------------------------------------------------

    def locate(self, life: int) -> tuple[Path, bytes]:
        """(segment file, salt) of a life, for a worker's reader. Raises LifeReleased."""
        segment = self._life(life)
        return segment.file.path, segment.header.salt

    def _life(self, life: int) -> Segment:
        try:
            return self._lives[life]
        except KeyError:
            raise LifeReleased(life) from None

    def read(self, life: int, offset: int, length: int) -> bytes:
        """Raw bytes of a life. Blocks. Raises LifeReleased, OSError."""
        return self._calls.read(self._life(life).file.fd, length, offset)

    def read_blocks(
        self, life: int, payload_offset: int, payload_length: int, sums: bytes, start: int, length: int
    ) -> bytes:
        """Verified bytes [start, start + length) of a payload, which they may not exceed. Blocks.

        Raises:
            LogDamaged: Unreadable, or not what was written (EIO).
            LifeReleased: Not in the log any more; the data has been moved to chunks.

        From the page cache 4 KiB cost 6 us, most of that the checksum of the block.
        """
        segment = self._lives.get(life)
        if segment is None:
            raise LifeReleased(life)
        first = start // BLOCK_BYTES
        last = (start + length + BLOCK_BYTES - 1) // BLOCK_BYTES
        begin = first * BLOCK_BYTES
        stop = min(last * BLOCK_BYTES, payload_length)
        offset = payload_offset + begin
        try:
            data = self._calls.read(segment.file.fd, stop - begin, offset)
        except OSError as error:
            raise LogDamaged(life, offset, Lsn(segment.header.base + offset), str(error)) from error
        if len(data) != stop - begin or block_sums(data, segment.seed) != sums[first * 4 : last * 4]:
            raise LogDamaged(life, offset, Lsn(segment.header.base + offset))
        if begin == start and len(data) == length:
            return data
        return data[start - begin : start - begin + length]

    # --- releasing -----------------------------------------------------------------------------------

    def pin(self, life: int) -> None:
        """Keep a life's bytes until `unpin`. Raises LifeReleased."""
        self._life(life).pins += 1

    def pin_all(self) -> list[int]:
        """Pin every life there is; returns them, to be given to `unpin` one by one."""
        lives = list(self._lives)
        for life in lives:
            self._lives[life].pins += 1
        return lives

    def unpin(self, life: int) -> None:
        """Undo one `pin`; frees the life if it was released meanwhile."""
        segment = self._lives.get(life)
        if segment is None:
            # The log was closed meanwhile: nothing else drops a life that is pinned.
            return
        segment.pins -= 1
        if not segment.pins:
            self._free(segment)

    def release(self, lsn: Lsn) -> None:
        """Records below `lsn` are needed no longer."""
        self._released = max(self._released, lsn)
        for segment in list(self._lives.values()):
            self._free(segment)

    def _free(self, segment: Segment) -> None:
        if segment is self._segment or segment.pins or segment.end_lsn > self._released:
            return
        with self._lock:
            if segment.moving:
                return  # The next release comes back to it.
            del self._lives[segment.header.life]
            if segment in self._dirty:
                self._dirty.remove(segment)
        self.used_bytes -= segment.file.size
        segment.file.written = max(segment.file.written, segment.end)
        files = self._files
        spared = (len(files.spares) + 1) * files.segment_bytes
        files.give(segment.file, spare=self.used_bytes + spared <= self.budget_bytes)

    def wait_freed(self) -> None:
        """Return when the disk has back what releases gave it. Blocks; from any thread."""
        self._files.wait_freed()

    @property
    def has_reserve(self) -> bool:
        """Whether the reserve segment is there, as far as one is wanted."""
        return self._files.reserve is not None or not self._files.reserve_bytes

    def keep_reserve(self) -> bool:
        """Make the reserve segment again if it was used. Whether there is one. May fallocate: 50 us."""
        return self._files.keep_reserve()

    @property
    def over_budget(self) -> bool:
        """Whether writers should wait for a release: the next segment would be beyond the budget.

        Never for the current life, which no release frees.
        """
        return self.used_bytes + self._files.segment_bytes > self.budget_bytes and len(self._lives) > 1
