"""RocksDB as we open it: one database of raw bytes, small in memory, made for point reads by hashed keys.

An error of a write or a sync leaves RocksDB refusing everything: `Database` says so in `failed`, and `reopen`
brings it back without its users noticing more than the error. What it holds after that lies in synced table
files; pairs whose loss would hurt (`again`) are put once more from memory.

Invariants: opened under the store's lock (a second opener would get a plain Exception that tells nothing);
keys are told apart by their first byte, each owned by one module; of what was written unsynced with `again`
nothing is missing after a reopen. Must not know: what is kept in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from rocksdict import AccessType, BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, RdictIter, WriteBatch

from cas.rocksfiles import make_openable

BATCH_RECORDS: Final = 100
"""Records of a write batch: it holds the interpreter lock throughout, 0.1 ms for 100, 0.64 ms for 1,000."""

WRITE_BUFFER_BYTES: Final = 4 << 20
_BLOCK_CACHE_BYTES: Final = 8 << 20
_WAL_BUFFERS: Final = 16
_INFO_LOG_BYTES: Final = 1 << 20


def _options(write_buffer_bytes: int) -> Options:
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
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_total_wal_size(_WAL_BUFFERS * write_buffer_bytes)
    options.set_max_open_files(256)
    # By default it starts 16 threads to open a handful of files.
    options.set_max_file_opening_threads(1)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(_INFO_LOG_BYTES)
    return options


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[None]:
    """One process at a time opens a database: even a reader renames its LOG, and rewrites rocksdict's own file."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _open(path: Path, write_buffer_bytes: int, read_only: bool) -> Rdict:
    access = AccessType.read_only() if read_only else AccessType.read_write()
    with _opening(path):
        make_openable(path)
        return Rdict(str(path), _options(write_buffer_bytes), access_type=access)


def open_beside(path: Path) -> Rdict:
    """A database that another process writes, for reading, as it is now. 15 ms.

    It changes nothing, so it needs no lock; a file that the other removes meanwhile can be missing later.

    Raises:
        Exception: RocksDB's own, without a class.
    """
    with _opening(path):
        return Rdict(str(path), _options(WRITE_BUFFER_BYTES), access_type=AccessType.read_only())


def _sync(db: Rdict) -> None:
    db.flush_wal(True)


@dataclass(slots=True)
class DatabaseCalls:
    """The calls into RocksDB, labelled: a test replaces exactly one with a callable that fails.

    Attributes:
        open: (path, bytes of a write buffer, read-only?) -> the open database.
        get, write: As Rdict's.
        sync: Makes what was written survive power loss.
    """

    open: Callable[[Path, int, bool], Rdict] = _open
    get: Callable[[Rdict, bytes], Any] = Rdict.get
    write: Callable[[Rdict, WriteBatch], None] = Rdict.write
    sync: Callable[[Rdict], None] = _sync


class Database:
    """An open database that outlives its errors. Every method may be called from any thread.

    Attributes:
        path: Its directory.
        failed: The error that made it refuse writes, until `reopen` has succeeded.
        read_only: It could only be opened for reading (a full disk).
        calls: Into RocksDB, for tests.
    """

    _db: Rdict

    def __init__(
        self,
        path: Path,
        *,
        write_buffer_bytes: int = WRITE_BUFFER_BYTES,
        calls: DatabaseCalls | None = None,
        later: bool = False,
    ) -> None:
        """Open the database at `path`, made if there is none (its parent exists). 5 to 40 ms.

        On a full disk one that exists is opened for reading alone, `failed` until a `reopen` succeeds.

        Args:
            later: Only when it is used first; what would be raised here is then an OSError (EIO) of that use.

        Raises:
            OSError: ENOSPC.
            Exception: RocksDB's own, without a class: locked, damaged. ValueError: Its MANIFEST would hang it.
        """
        self.path = path
        self.failed: OSError | None = None
        self.read_only = False
        self.calls = calls or DatabaseCalls()
        self._write_buffer_bytes = write_buffer_bytes
        self._lock = threading.RLock()
        self._again: dict[bytes, bytes] = {}
        self._again_bytes = 0
        self._listeners: list[Callable[[], None]] = []
        self._opened = 1
        self._closed = False
        if not later:
            self._open()

    def _open(self) -> None:
        try:
            self._db = self.calls.open(self.path, self._write_buffer_bytes, False)
        except Exception as error:
            if not is_full(error):
                raise
            self.failed = disk_error(error)
            self._open_for_reading()
            if not self.read_only:
                raise self.failed from error

    @property
    def opened(self) -> bool:
        """Whether it has been opened."""
        return "_db" in self.__dict__

    def ensure(self) -> None:
        """Have it open. Blocks. OSError: it can't be."""
        if self.opened:
            return
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the database is closed")
            if self.opened:
                return
            try:
                self._open()
            except Exception as error:
                raise disk_error(error) from error
            for listener in self._listeners:
                listener()

    # --- reading -------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Any:
        """The value, or None. Raises OSError (EIO): it can't be read now. 0.6 us."""
        opened = self._opened
        try:
            value = self.calls.get(self._db, key)
        except Exception as error:
            value = self._retried(error, opened, lambda: self.calls.get(self._db, key))
        if value is None and self._again:
            return self._again.get(key)
        return value

    def __getitem__(self, key: bytes) -> Any:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.put(key, value)
        self.write(batch)

    def __contains__(self, key: bytes) -> bool:
        """Whether there is a value. 0.6 us."""
        opened = self._opened
        try:
            found = key in self._db
        except Exception as error:
            found = bool(self._retried(error, opened, lambda: key in self._db))
        return found or key in self._again

    def iter(self) -> Any:
        """RocksDB's iterator, over what is there now. Let go of it soon: it keeps a reopen waiting."""
        opened = self._opened
        try:
            return self._db.iter()
        except Exception as error:
            return self._retried(error, opened, lambda: self._db.iter())

    def items(self, from_key: bytes) -> Iterator[tuple[Any, Any]]:
        """(key, value) from a key on, in order of keys."""
        return iter(self._db.items(from_key=from_key))

    def __getattr__(self, name: str) -> Any:
        if name == "_db":
            self.ensure()
            return self.__dict__["_db"]
        # Whatever else Rdict offers.
        return getattr(self._db, name)

    def _retried(self, error: Exception, opened: int, read: Callable[[], Any]) -> Any:
        """A read that met a reopen is made again; any other error is the caller's."""
        with self._lock:
            if self._opened != opened:
                try:
                    return read()
                except Exception as second:
                    raise disk_error(second) from second
        raise disk_error(error) from error

    # --- writing -------------------------------------------------------------------------------------

    @property
    def unsynced_bytes(self) -> int:
        """Of the pairs that are kept in memory until the next `sync`."""
        return self._again_bytes

    def write(self, batch: WriteBatch, *, again: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Write a batch, unsynced.

        Args:
            again: Pairs of it that are there from now on, whatever happens: kept in memory until the next sync
                and put once more by a reopen before it.

        Raises:
            OSError: ENOSPC, else EIO: but for `again`, nothing of it counts, though a part may be there.
        """
        if again:
            with self._lock:
                self._again.update(again)
                self._again_bytes = sum(len(key) + len(value) for key, value in self._again.items())
        if self.failed is not None:
            raise OSError(self.failed.errno, f"database: {self.failed.strerror}")
        try:
            self.calls.write(self._db, batch)
        except Exception as error:
            raise self._fail(error) from error

    def sync(self) -> None:
        """Make every write so far survive power loss. Blocks, without the interpreter lock. Raises OSError."""
        if self.failed is not None:
            raise OSError(self.failed.errno, f"database: {self.failed.strerror}")
        with self._lock:
            safe = list(self._again)
        try:
            self.calls.sync(self._db)
        except Exception as error:
            raise self._fail(error) from error
        with self._lock:
            for key in safe:
                self._again.pop(key, None)
            self._again_bytes = sum(len(key) + len(value) for key, value in self._again.items())

    def _fail(self, error: Exception) -> OSError:
        failure = disk_error(error)
        self.failed = failure
        return failure

    # --- coming back ---------------------------------------------------------------------------------

    def on_reopen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called after each reopen, by the thread that does it."""
        self._listeners.append(listener)

    def reopen(self) -> None:
        """Close and open again after an error; reads that come meanwhile wait. Blocks: for a thread.

        What is read afterwards is what a power cut could not take, and pairs written with `again`.

        Raises:
            OSError: It can't be written to, yet. It was opened for reading alone, or, if that failed too,
                refuses everything until the next try.
        """
        with self._lock:
            with contextlib.suppress(Exception):
                # It reports the error once more, and is closed all the same.
                if self.opened:
                    self._db.close()
            self._opened += 1
            try:
                self._db = self.calls.open(self.path, self._write_buffer_bytes, False)
                self.read_only = False
                if self._again:
                    batch = WriteBatch(raw_mode=True)
                    for key, value in self._again.items():
                        batch.put(key, value)
                    self.calls.write(self._db, batch)
                    self.calls.sync(self._db)
                    self._again.clear()
                    self._again_bytes = 0
            except Exception as error:
                self.failed = disk_error(error)
                with contextlib.suppress(Exception):
                    if self.opened:
                        self._db.close()
                self._open_for_reading()
                raise self.failed from error
            self.failed = None
            for listener in self._listeners:
                listener()

    def _open_for_reading(self) -> None:
        with contextlib.suppress(Exception):
            self._db = self.calls.open(self.path, self._write_buffer_bytes, True)
            self.read_only = True

    def close(self) -> None:
        """Close it, whatever happens. Idempotent. A full disk costs nothing: what was synced lies in the WAL.

        Raises:
            OSError: EIO: an error that nobody has been told of.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if not self.opened:
                return
            try:
                self._db.close()
            except Exception as error:
                if self.failed is None and not is_full(error):
                    raise disk_error(error) from error


def open_database(
    path: Path,
    *,
    write_buffer_bytes: int = WRITE_BUFFER_BYTES,
    calls: DatabaseCalls | None = None,
    later: bool = False,
) -> Database:
    """Open the database at `path`, made if there is none (its parent exists), as `Database` does."""
    return Database(path, write_buffer_bytes=write_buffer_bytes, calls=calls, later=later)


class Iterates(Protocol):
    """What gives an iterator as RocksDB's over its keys, in order."""

    def iter(self) -> Any: ...


def write(db: Database | Rdict, batch: WriteBatch) -> None:
    """Write a batch, unsynced. Raises OSError (ENOSPC, else EIO)."""
    try:
        db.write(batch)
    except Exception as error:
        raise disk_error(error) from error


def sync(db: Database | Rdict) -> None:
    """Make every write so far survive power loss. Blocks, without the interpreter lock. Raises OSError."""
    if isinstance(db, Database):
        db.sync()
        return
    try:
        _sync(db)
    except Exception as error:
        raise disk_error(error) from error


def is_full(error: Exception) -> bool:
    """Whether RocksDB's error, which has no class, tells of a full disk."""
    return "No space left" in str(error)


def records(db: Iterates, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
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


def compact(db: Database | Rdict) -> None:
    """Rewrite the files so that deleted records give their room back. Blocks, without the interpreter lock.

    Needs as much free space as the live records take. 0.5 s for 120 MB. Raises OSError.
    """
    try:
        db.compact_range(None, None)
    except Exception as error:
        raise disk_error(error) from error


def disk_error(error: Exception) -> OSError:
    """What RocksDB's error is for a caller: ENOSPC, else EIO."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    number = errno.ENOSPC if is_full(error) else errno.EIO
    return OSError(number, f"{os.strerror(number)}: {str(error)[:300]}")
