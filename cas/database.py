"""RocksDB as we open it: one database of raw bytes, small in memory, made for point reads by hashed keys.

Invariants: opened under the store's lock (a second opener would get a plain Exception that tells nothing);
keys are told apart by their first byte, each owned by one module. Must not know: what is kept in it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, RdictIter, WriteBatch

BATCH_RECORDS: Final = 100
"""Records of a write batch: it holds the interpreter lock throughout, 0.1 ms for 100, 0.64 ms for 1,000."""

_WRITE_BUFFER_BYTES: Final = 4 << 20
_BLOCK_CACHE_BYTES: Final = 8 << 20
_WAL_BYTES: Final = 64 << 20


def open_database(path: Path) -> Rdict:
    """Open the database at `path`, made if there is none (its parent exists). 5 ms.

    Raises:
        Exception: RocksDB's own, without a class: locked, damaged, no space.
    """
    table = BlockBasedOptions()
    # Keys are hashes: without a filter every miss ("do we have this chunk?") reads a block from each level.
    table.set_bloom_filter(10, False)
    table.set_block_cache(Cache(_BLOCK_CACHE_BYTES))
    # Index and filters count against the cache's budget, else they grow with the store.
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    # The same for what is not in files yet: a miss takes 0.3 us instead of 0.8.
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(0.05)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    # Hashes, and frames that are compressed already.
    options.set_compression_type(DBCompressionType.none())
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_total_wal_size(_WAL_BYTES)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    return Rdict(str(path), options)


def write(db: Rdict, batch: WriteBatch) -> None:
    """Write a batch, unsynced. Raises OSError (ENOSPC, else EIO) where RocksDB has an Exception without a class."""
    try:
        db.write(batch)
    except Exception as error:
        raise disk_error(error) from error


def sync(db: Rdict) -> None:
    """Make every write so far survive power loss. Blocks, without the interpreter lock. Raises OSError."""
    try:
        db.flush_wal(True)
    except Exception as error:
        raise disk_error(error) from error


def records(db: Rdict, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Every record whose key begins with `prefix`, in order, from `start` on if that is given.

    Raises:
        OSError: EIO: a block of the database is damaged. RocksDB's iterators, and `Rdict.items`, end there as
            if nothing followed.
    """
    iterator = db.iter()
    iterator.seek(start or prefix)
    while iterator.valid():
        key = iterator.key()
        if not key.startswith(prefix):
            return
        yield key, iterator.value()
        iterator.next()
    check(iterator)


def check(iterator: RdictIter) -> None:
    """Raise OSError (EIO) if an iterator that is not valid any more has ended at damage, not at the end."""
    try:
        iterator.status()
    except Exception as error:
        raise disk_error(error) from error


def compact(db: Rdict) -> None:
    """Rewrite the files so that deleted records give their room back. Blocks, without the interpreter lock.

    Needs as much free space as the live records take. 0.5 s for 120 MB. Raises OSError.
    """
    try:
        db.compact_range(None, None)
    except Exception as error:
        raise disk_error(error) from error


def disk_error(error: Exception) -> OSError:
    """What RocksDB's error is for a caller."""
    full = "No space left" in str(error)
    return OSError(errno.ENOSPC if full else errno.EIO, f"database: {error}")
