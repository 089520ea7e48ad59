"""The store's directory: what lies where, its lock, its format version (docs/format/store.md).

Must not know: what the log, packs and database hold.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from pathlib import Path
from typing import Final, Self

from cas.database import WRITE_BUFFER_BYTES, Database, DatabaseCalls, disk_error, open_database
from cas.errors import StoreLocked as Locked
from cas.lock import StoreLock
from heliosfs.storage.errors import (
    StoreAbsent,
    StoreDamaged,
    StoreExists,
    StoreLocked,
    StoreNewer,
    StoreOccupied,
)

VERSION: Final = 0
LOCK_S: Final = 5.0
_LOOK_S: Final = 0.001
_FIRST_LINE: Final = "heliosfs store"
_ID_LINE: Final = re.compile("id ([0-9a-f]{32})")
_DIRECTORIES: Final = ("log", "packs", "db")
OURS: Final = frozenset(
    (
        "format",
        "format.new",
        "lock",
        "socket",
        "log",
        "packs",
        "db",
        "daemon.log",
        "daemon.log.1",
        "backing",
        "quarantine",
        "scrub.json",
        "scrub.new",
        "reserve",
        "db.new",
        "db.scavenged",
    )
)


class StoreLayout:
    """An open store: the lock is held until `close`.

    Attributes:
        path: Its directory. log_dir, packs_dir, db_dir, backing_dir, socket, daemon_log: what is in it.
        store_id: 32 hex digits, random, for ever.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_dir = path / "log"
        self.packs_dir = path / "packs"
        self.db_dir = path / "db"
        self.backing_dir = path / "backing"
        self.socket = path / "socket"
        self.daemon_log = path / "daemon.log"
        self.store_id = ""
        self._lock: StoreLock | None = None
        self._db: Database | None = None

    @staticmethod
    def is_store(path: Path) -> bool:
        """Whether there is a store at `path`, of whatever version."""
        return (path / "format").is_file()

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a store and open it. Parents are made too.

        Raises:
            StoreExists, StoreOccupied (something else is there), StoreLocked. OSError.
        """
        made = [directory for directory in path.parents if not directory.exists()]
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if cls.is_store(path):
            raise StoreExists(path)
        for entry in sorted(os.listdir(path)):
            if entry not in OURS:
                raise StoreOccupied(path, entry)
        for name in _DIRECTORIES:
            # A creation that was killed leaves them empty. Anything in them is somebody else's.
            for entry in _listed(path / name):
                raise StoreOccupied(path, f"{name}/{entry}")
        path.chmod(0o700)
        layout = cls(path)
        layout._take_lock()
        try:
            for directory in (layout.log_dir, layout.packs_dir, layout.db_dir):
                directory.mkdir(mode=0o700, exist_ok=True)
            layout.store_id = secrets.token_hex(16)
            cls.write_format(path, layout.store_id)
            for directory in made:
                _sync_directory(directory.parent)
            layout._sync_names()
        except BaseException:
            layout.close()
            raise
        return layout

    @classmethod
    def open(cls, path: Path, *, again: bool = False) -> Self:
        """Open a store.

        Args:
            again: Another process had it open, since the machine started, and has died: it has synced the names. A
                program that it was about to start may hold its lock a little longer: waits LOCK_S for that.

        Raises:
            StoreAbsent, StoreLocked, StoreNewer, StoreDamaged. OSError.
        """
        if not cls.is_store(path):
            raise StoreAbsent(path)
        layout = cls(path)
        layout._read_format()
        layout._take_lock(LOCK_S if again else 0.0)
        try:
            layout._make_private()
            cls.check(path)
            if not again:
                # Whoever created it may have been killed before the names were synced.
                layout._sync_names()
        except BaseException:
            layout.close()
            raise
        return layout

    def _make_private(self) -> None:
        """Whoever may enter the directory may read every file of every branch: its owner alone, whatever it was."""
        found = self.path.stat()
        if found.st_mode & 0o077 and os.geteuid() in (0, found.st_uid):
            self.path.chmod(0o700)

    @classmethod
    def check(cls, path: Path) -> None:
        """Look whether there is a store that this program reads; takes no lock, opens nothing.

        Raises:
            StoreAbsent, StoreNewer, StoreDamaged. OSError.
        """
        if not cls.is_store(path):
            raise StoreAbsent(path)
        layout = cls(path)
        layout._read_format()
        for directory in (layout.log_dir, layout.packs_dir, layout.db_dir):
            if not directory.is_dir():
                raise StoreDamaged(path, f"{directory.name} is missing")

    def _take_lock(self, patience_s: float = 0.0) -> None:
        until = time.monotonic() + patience_s
        while True:
            try:
                self._lock = StoreLock(self.path / "lock")
                return
            except Locked as error:
                if time.monotonic() >= until:
                    raise StoreLocked(self.path, error.pid) from None
            time.sleep(_LOOK_S)

    @staticmethod
    def write_format(path: Path, store_id: str) -> None:
        """Write the file that makes a directory a store; it appears whole or not at all. OSError."""
        new = path / "format.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{_FIRST_LINE}\nversion {VERSION}\nid {store_id}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        new.rename(path / "format")
        _sync_directory(path)

    def _sync_names(self) -> None:
        """Make the store's own name and what lies in it survive power loss: what it will promise rests on them."""
        _sync_directory(self.path)
        # A directory that lets us pass but not look was there before us, and so was the store's name in it.
        with contextlib.suppress(PermissionError):
            _sync_directory(self.path.parent)

    def _read_format(self) -> None:
        try:
            lines = (self.path / "format").read_text("ascii").splitlines()
            version = int(lines[1].removeprefix("version "))
            if lines[0] != _FIRST_LINE or not lines[1].startswith("version ") or version < 0:
                raise ValueError
        except (ValueError, IndexError):
            raise StoreDamaged(self.path, "its format file is damaged") from None
        if version > VERSION:
            raise StoreNewer(self.path, version)
        found = _ID_LINE.fullmatch(lines[2]) if len(lines) > 2 else None
        if found is None:
            raise StoreDamaged(self.path, "its format file is damaged")
        self.store_id = found[1]

    def open_db(
        self,
        write_buffer_bytes: int = WRITE_BUFFER_BYTES,
        *,
        calls: DatabaseCalls | None = None,
        later: bool = False,
    ) -> Database:
        """The database, opened once. On a full disk it may be for reading alone (`Database.failed`).

        Args:
            later: Opened when it is used first.

        Raises:
            StoreDamaged: RocksDB refuses it; or it is gone, though there are packs or a log.
            OSError: ENOSPC.
        """
        if self._db is None:
            # RocksDB would make an empty one, and the next cut would free the log of everything there was.
            if not (self.db_dir / "CURRENT").exists() and (_listed(self.log_dir) or _listed(self.packs_dir)):
                raise StoreDamaged(self.path, "its database is gone")
            try:
                self._db = open_database(
                    self.db_dir, write_buffer_bytes=write_buffer_bytes, calls=calls, later=later
                )
            except OSError:
                raise
            except Exception as error:
                raise StoreDamaged(self.path, f"its database cannot be opened: {error}") from error
        return self._db

    def close(self, *, in_order: bool = False) -> None:
        """Close the database and give the lock back. Idempotent.

        Args:
            in_order: Note with the lock that all is stored, unless the database says otherwise now.

        Raises OSError: the database's last writes could not be synced. The lock is given back all the same.
        """
        db, self._db = self._db, None
        try:
            if db is not None:
                db.close()
        except Exception as error:
            in_order = False
            raise disk_error(error) from error
        finally:
            if self._lock is not None:
                self._lock.close(in_order=in_order)
                self._lock = None


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _listed(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
