"""Reading a database that may be damaged, without changing a byte of it.

RocksDB verifies every block that it reads, but its iterators end at a bad one as if that were the end of the
data: whoever forgets to ask for the status has lost the rest without a word. `salvage` goes on behind the
bad block, and says between which keys something is missing.
Must not know: what is kept in the database.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

from rocksdict import AccessType, DBRecoveryMode, Options, Rdict, RdictIter

from cas.rocksfiles import is_log, is_manifest, looping_records, patched

_KEY_BYTES: Final = 40
"""Longer than any key; keys are compared as numbers of so many bytes."""

_OWN: Final = frozenset(("LOCK", "LOG", "rocksdict-config.json"))
"""Files that RocksDB or its binding would write even when it only reads; a view has its own."""


class Gap(NamedTuple):
    """Keys that can't be read: all those in `after` < key < `before` that lie in a bad block.

    Attributes:
        after: The last key read, b"" if none was.
        before: The next key read, b"" if none was.
        reason: RocksDB's words.
    """

    after: bytes
    before: bytes
    reason: str


class DatabaseView:
    """A database opened for reading beside its owner or without one; closes what it made.

    Attributes:
        db: Open in raw mode, read-only. It shows what was there when it was opened.
    """

    __slots__ = ("_directory", "db")

    def __init__(self, path: Path, *, skip_damage: bool = False) -> None:
        """Open what lies at `path`, through a directory of symbolic links, so that nothing in it is written.

        Args:
            skip_damage: Go on behind a damaged record of RocksDB's write-ahead log; else that log ends there,
                as it does for whoever opens the database to use it.

        Raises:
            Exception: RocksDB's own, without a class. OSError: The links can't be made, `path` is not there.
        """
        self._directory = tempfile.mkdtemp(prefix="heliosfs-db-")
        try:
            source = path.absolute()
            for name in os.listdir(source):
                if name not in _OWN and not name.startswith("LOG.old"):
                    _link(source / name, os.path.join(self._directory, name))
            options = Options(raw_mode=True)
            options.create_if_missing(False)
            # All tables are open from the start: the owner may compact them away meanwhile.
            options.set_max_open_files(-1)
            mode = DBRecoveryMode.skip_any_corrupted_record if skip_damage else DBRecoveryMode.point_in_time
            options.set_wal_recovery_mode(mode())
            self.db = Rdict(self._directory, options, access_type=AccessType.read_only())
        except BaseException:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it and remove the links. Idempotent."""
        self.db.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _link(source: Path, target: str) -> None:
    """Link a file of a database; one that would make RocksDB hang is copied and patched instead.

    Raises:
        ValueError: It is a damaged MANIFEST.
    """
    if is_log(source.name) or is_manifest(source.name):
        data = source.read_bytes()
        bad = looping_records(data)
        if bad and is_manifest(source.name):
            raise ValueError(f"{source.name} is damaged at {bad[0]}")
        if bad:
            Path(target).write_bytes(patched(data, bad))
            return
    os.symlink(source, target)


def salvage(db: Rdict, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes] | Gap]:
    """Every record that can be read, in the order of keys, and a Gap for each place where some can't.

    Args:
        prefix: Of the keys wanted.

    Cost: a scan; for each gap some hundred seeks more.
    """
    iterator = db.iter()
    iterator.seek(prefix)
    last = b""
    gap: tuple[bytes, str] | None = None
    while True:
        while iterator.valid():
            key = iterator.key()
            if not key.startswith(prefix):
                if gap is not None:
                    yield Gap(gap[0], b"", gap[1])
                return
            if gap is not None:
                yield Gap(gap[0], key, gap[1])
                gap = None
            last = key
            yield key, iterator.value()
            iterator.next()
        reason = _trouble(iterator)
        if reason is None:
            if gap is not None:
                yield Gap(gap[0], b"", gap[1])
            return
        gap = (last, reason) if gap is None else gap
        behind = _readable_behind(db, max(last, prefix))
        if behind is None:
            yield Gap(gap[0], b"", gap[1])
            return
        iterator = db.iter()
        iterator.seek(behind)


def _readable_behind(db: Rdict, key: bytes) -> bytes | None:
    """Where reading can go on behind `key`, which can't be read on from; None if nowhere.

    What is unreadable ends somewhere: found by doubling the distance, then by halving it.
    """
    start = _number(key)
    top = (1 << 8 * _KEY_BYTES) - 1
    bad, distance = start, 1
    while True:
        good = min(start + distance, top)
        if _readable(db, good):
            break
        if good == top:
            return None
        bad, distance = good, distance * 2
    while good - bad > 1:
        middle = (good + bad) // 2
        if _readable(db, middle):
            good = middle
        else:
            bad = middle
    return good.to_bytes(_KEY_BYTES, "big")


def _readable(db: Rdict, number: int) -> bool:
    # A new iterator each time: one that has met a bad block answers otherwise when it comes there again.
    iterator = db.iter()
    iterator.seek(number.to_bytes(_KEY_BYTES, "big"))
    return _trouble(iterator) is None


def _number(key: bytes) -> int:
    return int.from_bytes(key[:_KEY_BYTES].ljust(_KEY_BYTES, b"\0"), "big")


def _trouble(iterator: RdictIter) -> str | None:
    try:
        iterator.status()
    except Exception as error:
        return str(error)
    return None
