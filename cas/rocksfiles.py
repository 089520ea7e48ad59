"""A look at RocksDB's log files before RocksDB itself opens them.

One flipped byte can make every open hang for ever: where the type byte of a record in the write-ahead log or the
MANIFEST becomes one of the "recyclable" ones (5 to 8, 11), whose log number then does not fit, its reader loops
(seen with all of them, 2026-11, rocksdict 0.3.29). We never recycle logs, so such a record is damage.
Must not know: what the records hold.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

_BLOCK: Final = 32768
_HEADER: Final = struct.Struct("<IHB")  # crc, length, type
_LOOPING: Final = frozenset((5, 6, 7, 8, 11))
_PATCH: Final = 0xFF
"""A type that RocksDB takes for what it is: no record."""


def looping_records(data: bytes) -> list[int]:
    """Offsets of the type bytes that would make RocksDB hang. O(records): 0.3 us each."""
    found: list[int] = []
    at, size = 0, len(data)
    while at + _HEADER.size <= size:
        left = _BLOCK - at % _BLOCK
        if left < _HEADER.size:
            at += left
            continue
        _, length, kind = _HEADER.unpack_from(data, at)
        if kind in _LOOPING:
            found.append(at + 6)
        if not kind or _HEADER.size + length > left:
            # No record: RocksDB goes on with the next block, if it goes on.
            at += left
            continue
        at += _HEADER.size + length
    return found


def patched(data: bytes, offsets: list[int]) -> bytes:
    """The same file with these type bytes made ones that end the reading instead."""
    changed = bytearray(data)
    for at in offsets:
        changed[at] = _PATCH
    return bytes(changed)


def is_log(name: str) -> bool:
    """Whether a file of a database is a write-ahead log."""
    return name.endswith(".log")


def is_manifest(name: str) -> bool:
    """Whether a file of a database is a MANIFEST."""
    return name.startswith("MANIFEST-")


def make_openable(path: Path) -> None:
    """Prepare a database for being opened to be used: what would hang ends RocksDB's log there, as a torn one.

    Raises:
        ValueError: The MANIFEST is damaged: there is no opening it.
        OSError: A file can't be read or patched.
    """
    if not path.is_dir():
        return
    for name in os.listdir(path):
        if not (is_log(name) or is_manifest(name)):
            continue
        file = path / name
        data = file.read_bytes()
        bad = looping_records(data)
        if bad and is_manifest(name):
            raise ValueError(f"{name} is damaged at {bad[0]}")
        if bad:
            with open(file, "r+b", buffering=0) as log:
                for at in bad:
                    os.pwrite(log.fileno(), bytes([_PATCH]), at)
                os.fsync(log.fileno())
