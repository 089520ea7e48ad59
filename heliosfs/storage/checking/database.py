"""A damaged database made anew from what of it can be read; the old one goes to quarantine.

Must not know: pages, refs, chunks.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from rocksdict import Options, Rdict, WriteBatch

from cas import database
from cas.database import BATCH_RECORDS, open_database
from cas.rocksfiles import is_manifest, make_openable
from cas.salvage import DatabaseView, Gap, salvage
from heliosfs.storage.checking.quarantine import Quarantine, sync_directory

_NEW: Final = "db.new"
_SCAVENGED: Final = "db.scavenged"


def rebuild_database(store: Path, quarantine: Quarantine, *, skip_damage: bool = False) -> None:
    """Copy every record that can be read into a new database, and put it in the place of the old one.

    Args:
        skip_damage: Read on behind a damaged record of RocksDB's write-ahead log.

    Raises:
        OSError: The disk. The old database is where it was, unless the last rename happened.
    """
    new = store / _NEW
    scavenged = store / _SCAVENGED
    for path in (new, scavenged):
        shutil.rmtree(path, ignore_errors=True)
    try:
        view, how = _opened(store / "db", scavenged, skip_damage)
        with view:
            copied, gaps = _copy(view.db, new)
    finally:
        shutil.rmtree(scavenged, ignore_errors=True)
    moved = quarantine.move(store / "db")
    new.rename(store / "db")
    sync_directory(store)
    where = os.path.relpath(moved, store)
    quarantine.did(f"database made anew {how}: {copied} records, {gaps} gaps; the old one is {where}")


def _opened(path: Path, scavenged: Path, skip_damage: bool) -> tuple[DatabaseView, str]:
    try:
        return DatabaseView(path, skip_damage=skip_damage), "from what could be read of it"
    except OSError:
        raise
    except Exception:
        # RocksDB's own repair makes a manifest from the tables and logs that it finds: on a copy.
        shutil.copytree(path, scavenged, ignore=shutil.ignore_patterns("LOCK", "LOG*"))
    try:
        for name in filter(is_manifest, os.listdir(scavenged)):
            # It is made anew; a damaged one can hang RocksDB.
            (scavenged / name).unlink()
        make_openable(scavenged)
        options = Options(raw_mode=True)
        Rdict.repair(str(scavenged), options)
        return DatabaseView(scavenged), "by RocksDB's own repair"
    except Exception as error:
        raise database.disk_error(error) from error


def _copy(source: Rdict, target: Path) -> tuple[int, int]:
    copied = gaps = 0
    db = open_database(target)
    try:
        batch = WriteBatch(raw_mode=True)
        for found in salvage(source):
            if isinstance(found, Gap):
                gaps += 1
                continue
            batch.put(*found)
            copied += 1
            if copied % BATCH_RECORDS == 0:
                database.write(db, batch)
                batch = WriteBatch(raw_mode=True)
        database.write(db, batch)
        database.sync(db)
    finally:
        db.close()
    return copied, gaps
