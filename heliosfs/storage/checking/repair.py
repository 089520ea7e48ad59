"""A damaged store made one that mounts: what can be mended is, the rest set aside and told; nothing is deleted.

Rounds: a check, then what it found is mended from the bottom up (format, database, packs and index, trees, log),
then a check again, because what was hidden behind a damaged object shows only now. Every step leaves a store
that is no worse than before: what is new is on disk before what is old is moved to quarantine, so a repair that
is killed is begun again. The caller holds the store's lock. Must not know: who asks.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rocksdict import Rdict, WriteBatch

from cas import database
from cas.database import Database, open_database
from cas.salvage import DatabaseView
from heliosfs.core import radix
from heliosfs.core.ids import Ino, PageId
from heliosfs.storage import pagestore, refstore
from heliosfs.storage.checking.chunks import Step
from heliosfs.storage.checking.database import rebuild_database
from heliosfs.storage.checking.findings import Kind, Report
from heliosfs.storage.checking.mendlog import cut_log, void_record
from heliosfs.storage.checking.packs import mend_packs
from heliosfs.storage.checking.pages import LenientPages, StrictPages, holes
from heliosfs.storage.checking.quarantine import Quarantine
from heliosfs.storage.checking.touched import Damage
from heliosfs.storage.checking.trees import Put, TreeMender, store_tree
from heliosfs.storage.checking.verify import Verified, silent, verify
from heliosfs.storage.checking.view import open_view
from heliosfs.storage.errors import LogDamaged
from heliosfs.storage.layout import StoreLayout
from heliosfs.storage.pagestore import PageStore

ROUNDS: Final = 5
VOIDED_MAX: Final = 1000
"""Records that a repair leaves out one by one; each costs a replay."""

_PACK: Final = re.compile(r"pack ([0-9]+)\b")
_RECORD: Final = re.compile(r"log record ([0-9]+)")


def repair(path: Path, *, step: Step = silent) -> tuple[list[str], Report]:
    """Mend a store.

    Returns:
        What was done, one line each ([] if nothing had to be), and the report of a last check: what it still
        finds can't be mended. A chunk without a copy stays one, and its ranges EIO.

    Raises:
        StoreAbsent, StoreNewer. OSError: The disk; run it again.
    """
    quarantine = Quarantine(path)
    done = verify(path, step=step)
    for _ in range(ROUNDS):
        if done.report.clean or not _mend(path, done, quarantine):
            break
        done = verify(path, step=step)
    return quarantine.actions, done.report


def _mend(path: Path, done: Verified, quarantine: Quarantine) -> bool:
    """One round. Whether anything was done."""
    before = len(quarantine.actions)
    kinds = {finding.kind for finding in done.report.findings}
    if Kind.FORMAT in kinds:
        _mend_format(path, quarantine)
    if Kind.DATABASE in kinds:
        rebuild_database(path, quarantine)
    elif Kind.LOG in kinds and _later_refs(path):
        # RocksDB's own log is damaged: what follows the bad record fits to our log, what precedes it does not.
        rebuild_database(path, quarantine, skip_damage=True)
    else:
        _mend_objects(path, done, quarantine)
    return len(quarantine.actions) > before


def _mend_objects(path: Path, done: Verified, quarantine: Quarantine) -> None:
    check = done.chunks
    findings = done.report.findings
    packs = {
        int(match[1])
        for finding in findings
        if finding.kind is Kind.PACK and (match := _PACK.match(finding.object_id)) is not None
    }
    index_wrong = any(finding.kind is Kind.INDEX for finding in findings)
    kept = any(id_ in check.indexed or id_ in check.spare for id_ in check.bad) if check is not None else False
    if check is not None and (packs or kept or index_wrong):
        if kept:
            packs |= _packs_of(findings)
        with _Database(path) as db:
            mend_packs(path, db, check, packs, quarantine)
            if index_wrong:
                quarantine.did("index: sums written anew, what is no record dropped")
    if done.damage is not None and done.damage.pages.damaged:
        _mend_trees(path, done.damage, quarantine)
    _mend_log(path, quarantine)


def _packs_of(findings: list[Any]) -> set[int]:
    """Packs in which a chunk is damaged, by the reasons of the findings."""
    return {
        int(match[1])
        for finding in findings
        if finding.kind is Kind.CHUNK and (match := _PACK.match(finding.reason)) is not None
    }


class _Database:
    """The database, open for writing."""

    def __init__(self, path: Path) -> None:
        self._path = path / "db"

    def __enter__(self) -> Database:
        try:
            self._db = open_database(self._path)
        except Exception as error:
            raise database.disk_error(error) from error
        return self._db

    def __exit__(self, *_: object) -> None:
        self._db.close()


# --- format and database -----------------------------------------------------------------------------


def _mend_format(path: Path, quarantine: Quarantine) -> None:
    old = path / "format"
    found = None
    if old.exists():
        found = re.search(rb"\b([0-9a-f]{32})\b", old.read_bytes())
        quarantine.copy(old)
    for name in ("log", "packs", "db"):
        if not (path / name).is_dir():
            # What it held is gone; the checks that follow tell of what.
            (path / name).mkdir(mode=0o700)
            quarantine.did(f"{name}: made anew, empty")
    store_id = found[1].decode() if found is not None else secrets.token_hex(16)
    StoreLayout.write_format(path, store_id)
    quarantine.did(f"format: written anew, id {store_id}{'' if found is not None else ' (a new one)'}")


def _later_refs(path: Path) -> bool:
    """Whether refs of a later cut can be read behind a damaged record of RocksDB's log."""
    try:
        with DatabaseView(path / "db") as view:
            position = _position(view.db)
        with DatabaseView(path / "db", skip_damage=True) as view:
            return _position(view.db) > position
    except Exception:
        # RocksDB's have no class: then that is no way.
        return False


def _position(db: Rdict) -> int:
    raw = db.get(refstore.HEAD)
    return -1 if raw is None else int(json.loads(raw)["position"])


# --- trees -------------------------------------------------------------------------------------------


def _mend_trees(path: Path, damage: Damage, quarantine: Quarantine) -> None:
    """Give every ref whose tree lost pages a tree that is whole."""
    with _Database(path) as db:
        store = PageStore(db)
        lenient = LenientPages(StrictPages(store.load))
        again = Damage(lenient)

        def put(page_id: PageId, encoded: bytes) -> None:
            if store.stage(page_id, encoded):
                store.flush()

        head = json.loads(db.get(refstore.HEAD) or b"{}")
        owner = os.stat(path)
        now = max(int(head["last_ns"]), time.time_ns())
        mender = TreeMender(lenient, put, int(head["next_ino"]), now, owner.st_uid, owner.st_gid)
        mended: dict[str, dict[str, Any]] = {}
        refs = WriteBatch(raw_mode=True)
        for key, value in _refs(db):
            if again.reaches(PageId(bytes.fromhex(value["root"]))):
                root = value["root"]
                if root not in mended:
                    tree = mender.mend(PageId(bytes.fromhex(root)))
                    mended[root] = {
                        "root": tree.root.hex(),
                        "files": tree.files,
                        "size_bytes": tree.size_bytes,
                    }
                    quarantine.did(
                        f"tree {root} mended, {tree.root.hex()} now: {tree.files} files whole, {tree.dropped} "
                        f"names of lost files dropped, {tree.found} files without names put into lost+found"
                    )
                value.update(mended[root])
                refs.put(key, refstore.dump(value))
            if value.get("orphans") and again.reaches(PageId(bytes.fromhex(value["orphans"]))):
                value["orphans"] = _mend_orphans(value["orphans"], lenient, put)
                refs.put(key, refstore.dump(value))
        store.flush()
        for page_id in damage.pages.damaged:
            _keep_page(db, page_id, quarantine)
        # A lease's worth: a branch takes its numbers from here on.
        head["next_ino"] = mender.next_ino + 1024 if mender.next_ino > head["next_ino"] else head["next_ino"]
        head["last_ns"] = mender.now_ns
        refs.put(refstore.HEAD, refstore.dump(head))
        database.write(db, refs)
        database.sync(db)
        quarantine.did(f"{len(damage.pages.damaged)} damaged pages set aside")


def _mend_orphans(table: str, lenient: LenientPages, put: Put) -> str:
    """The table of unlinked files with what is left in it."""
    pairs = [
        (Ino(ino), inode)
        for ino, inode in radix.items(PageId(bytes.fromhex(table)), lenient)
        if next(holes(inode.tree, lenient), None) is None
    ]
    built = radix.build(pairs)
    return "" if built is None else store_tree(built, put).hex()


def _refs(db: Database) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for prefix in (refstore.BRANCH, refstore.SNAPSHOT):
        for key, value in list(database.records(db, prefix)):
            yield key, json.loads(value)


def _keep_page(db: Database, page_id: PageId, quarantine: Quarantine) -> None:
    try:
        frame = db.get(pagestore.PREFIX + page_id)
    except Exception:
        # RocksDB's have no class: it does not give what it can't verify.
        return
    if frame is not None:
        quarantine.keep(f"page-{page_id.hex()}", frame)
        db.delete(pagestore.PREFIX + page_id)


# --- log ---------------------------------------------------------------------------------------------


def _mend_log(path: Path, quarantine: Quarantine) -> None:
    """Leave out records that cannot be applied, one by one; end the log where it can't be read."""
    for _ in range(VOIDED_MAX):
        with open_view(path) as view:
            damage = view.log_damage
        if damage is None:
            return
        if isinstance(damage, LogDamaged):
            cut_log(path, damage, quarantine)
            continue
        found = _RECORD.match(damage.object_id)
        if found is None or not void_record(path, int(found[1]), quarantine, damage.reason):
            return
