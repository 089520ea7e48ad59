"""crc32 as zlib computes it, by the quickest implementation that is installed.

ISA-L folds with the processor's carry-less multiplication: 1 MiB takes 95 us where zlib 1.2.13 takes 400, and a
record of 60 bytes 0.11 us instead of 0.26. The values are the same, so no format depends on which one is used.
Where no wheel of it exists for a platform, zlib serves.
"""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
