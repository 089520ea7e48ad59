"""What a collection did, as replies and `status` tell it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(slots=True)
class Report:
    """One collection, or what one would do.

    Attributes:
        dry_run: Nothing was changed; the figures are what would be.
        time_ns: When it began, ns since 1970.
        seconds: How long it took.
        freed_chunks, freed_pages, freed_records: What was deleted; records are keys of the database.
        freed_chunk_bytes: Frames of the chunks; freed_page_bytes: of the pages.
        live_chunks, live_pages: What stays; live_bytes: frames of the chunks; live_raw_bytes: decoded.
        claimed_chunks, claimed_pages: Of these, what only running work counts on.
        packs_removed, packs_rewritten: Files.
        pack_bytes_freed: Of both, less what rewriting wrote.
        copied_bytes: Frames that rewriting copied.
        damaged_chunks: Could not be copied, so their packs stay: `heliosfs fsck` tells what they belong to.
        waste_bytes: Dead bytes in packs that stay: too few to be worth a copy, or still being written.
        disk_before_bytes, disk_after_bytes: Of packs and database.
        stopped: Why it did not do everything, or None.
    """

    dry_run: bool
    time_ns: int
    seconds: float = 0.0
    freed_chunks: int = 0
    freed_chunk_bytes: int = 0
    freed_pages: int = 0
    freed_page_bytes: int = 0
    live_chunks: int = 0
    live_bytes: int = 0
    live_raw_bytes: int = 0
    live_pages: int = 0
    claimed_chunks: int = 0
    claimed_pages: int = 0
    packs_removed: int = 0
    packs_rewritten: int = 0
    pack_bytes_freed: int = 0
    copied_bytes: int = 0
    damaged_chunks: int = 0
    waste_bytes: int = 0
    disk_before_bytes: int = 0
    disk_after_bytes: int = 0
    stopped: str | None = None

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def disk_bytes(*directories: Path) -> int:
    """What the files of directories occupy, by their blocks. 3 us a file."""
    total = 0
    for directory in directories:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                except FileNotFoundError:
                    continue
    return total
