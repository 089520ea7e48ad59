"""When to collect without being asked: when there may be enough garbage, and nobody would notice.

How much garbage there is only a mark can tell, which costs a read of every page. So it is guessed from what is
known for nothing: how much was stored since the last collection, whether snapshots or branches went, whether
anything was stored at all. Must not know: how a collection works, clocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GROWN_BYTES: Final = 64 << 20
GROWN_SHARE: Final = 0.5
"""Stored since the last collection, of what lived then: at worst so much of the disk is garbage."""
AFTER_DROP_S: Final = 600.0
"""A snapshot or branch went: collect when the last one is so long ago."""
ANYWAY_S: Final = 3600.0
"""Something was stored: files may have been removed or rewritten."""
REST: Final = 20.0
"""Times its own length between two collections: 5 % of the time at most."""
SHORT_SHARE: Final = 0.05
"""Free space of the disk below which nobody waits for a quiet moment."""


@dataclass(slots=True)
class Watch:
    """What is known of the last collection.

    Attributes:
        ended_s: When it ended, by the clock that `due` is asked with; at first: the start.
        took_s: How long it took.
        live_bytes: Frames of the chunks that lived; at first: all.
        position: Log position up to which things were stored then.
        dropped: How many snapshots and branches had gone by then.
    """

    ended_s: float
    took_s: float
    live_bytes: int
    position: int
    dropped: int

    def due(
        self, now_s: float, *, stored_bytes: int, position: int, dropped: int, quiet: bool, free_share: float
    ) -> bool:
        """Whether to collect now.

        Args:
            stored_bytes, position, dropped: The same sums as they are now.
            quiet: Nothing was written for a while.
            free_share: Of the disk.
        """
        since = now_s - self.ended_s
        if since < self.took_s * REST:
            return False
        grown = stored_bytes - self.live_bytes > max(GROWN_BYTES, self.live_bytes * GROWN_SHARE)
        changed = position != self.position
        if free_share < SHORT_SHARE and changed and since > AFTER_DROP_S / 10:
            return True
        if not quiet:
            return False
        return grown or (dropped != self.dropped and since > AFTER_DROP_S) or (changed and since > ANYWAY_S)
