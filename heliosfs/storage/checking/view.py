"""A store opened for reading alone: its refs and its log, replayed in memory. Nothing of it is written.

With a daemon at work beside it, what is seen is one moment's state, as far as refs and log fit together;
where they do not (a cut was committed in between) the caller opens again.
Must not know: what is checked.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cas.salvage import DatabaseView
from heliosfs.core import oplog, radix
from heliosfs.core.apply import apply
from heliosfs.core.engine import Engine
from heliosfs.core.errors import Damaged
from heliosfs.core.ids import BranchId, Ino, Lsn, PageId
from heliosfs.storage import refstore
from heliosfs.storage.checking.pages import StrictPages
from heliosfs.storage.errors import LogDamaged
from heliosfs.storage.log import Place
from heliosfs.storage.log.frame import HEADER_BYTES, NewerFormat, block_sums, decode_header
from heliosfs.storage.log.log import SEGMENT_BYTES
from heliosfs.storage.log.oscalls import OsCalls
from heliosfs.storage.log.recovery import Recovery, recover
from heliosfs.storage.log.segment import Segment, SegmentFiles
from heliosfs.storage.pagestore import PageStore


@dataclass(slots=True)
class StoreView:
    """What a store is.

    Attributes:
        engine: Refs and log together, as far as they can be read; `main` is None if not even refs can.
        orphans: Tables of unlinked files that the refs name.
        refs_damage, log_damage: Why not everything could be read.
        recovery: What the replay did.
        payloads: Places of the payloads in the log that the replay met.
    """

    path: Path
    database: DatabaseView
    page_store: PageStore
    engine: Engine
    pages: StrictPages
    orphans: dict[BranchId, PageId] = field(default_factory=dict)
    refs_damage: Damaged | None = None
    log_damage: Damaged | None = None
    recovery: Recovery = field(default_factory=Recovery)
    payloads: list[Place] = field(default_factory=list)
    segments: dict[int, Segment] = field(default_factory=dict)

    def read_payload(self, place: Place, start: int, length: int) -> bytes:
        """Bytes of a payload, unverified. Raises OSError; KeyError for a life that the replay gave up."""
        return os.pread(self.segments[place.life].file.fd, length, place.offset + start)

    def leads(self, life: int) -> bool:
        """Whether the file still leads this life; a daemon at work may have freed it: then its data are chunks."""
        try:
            header = decode_header(os.pread(self.segments[life].file.fd, HEADER_BYTES, 0))
        except (OSError, NewerFormat):
            return True
        return header is None or header.life == life

    def payload_sums(self, place: Place, data: bytes) -> bytes:
        """What the checksums of these blocks should be."""
        return block_sums(data, self.segments[place.life].seed)


@contextmanager
def open_view(path: Path, *, skip_damage: bool = False) -> Iterator[StoreView]:
    """Open a store for reading alone; who calls holds its lock, or knows that its daemon is at work.

    Args:
        skip_damage: See DatabaseView.

    Raises:
        Damaged: The database can't be opened.
        StoreNewer: A log segment of a later version. OSError.
    """
    try:
        database = DatabaseView(path / "db", skip_damage=skip_damage)
    except OSError:
        raise
    except Exception as error:
        # RocksDB's have no class.
        raise Damaged("database", f"the database can't be opened: {error}") from error
    try:
        store = PageStore(database.db)
        pages = StrictPages(store.load)
        view = StoreView(path, database, store, Engine(pages), pages)
        files = _ReadOnlyFiles(path / "log")
        try:
            _load(view, files.files)
            yield view
        finally:
            files.close(view)
    finally:
        database.close()


def _load(view: StoreView, files: SegmentFiles) -> None:
    engine = view.engine
    start = Lsn(0)
    try:
        stored = refstore.load(view.database.db, engine)
        if stored is None:
            owner = os.stat(view.path)
            engine.found(owner.st_uid, owner.st_gid, 0)
        else:
            start = stored.position
            view.orphans = stored.orphans
    except Damaged as damage:
        view.refs_damage = damage
        return
    try:
        _add_orphans(view)
        found = recover(files, files.calls, start, lambda *record: _replay(view, *record))
        view.recovery = found.recovery
        view.segments = {segment.header.life: segment for segment in found.lives}
    except Damaged as damage:
        view.log_damage = damage


def _add_orphans(view: StoreView) -> None:
    for branch in view.engine.branches.values():
        table = view.orphans.get(branch.id)
        branch.orphans.update((Ino(ino), inode) for ino, inode in radix.items(table, view.pages))


def _replay(view: StoreView, lsn: Lsn, end: Lsn, kind: int, body: memoryview, place: Place) -> None:
    try:
        record = oplog.decode(kind, body)
        apply(view.engine, record, place)
    except Damaged as damage:
        raise Damaged(f"log record {lsn}", f"the log record at {lsn} needs what can't be had: {damage}") from damage
    except oplog.BadRecord as error:
        raise Damaged(f"log record {lsn}", f"log record at {lsn}: {error}") from error
    except Exception as error:
        # Its checksum is right, so this is a bug of ours, or of who wrote it: to be told, not to crash on.
        raise Damaged(f"log record {lsn}", f"the log record at {lsn} can't be applied: {error!r}") from error
    if place.length:
        view.payloads.append(place)


class _ReadOnlyFiles:
    """The log's segment files for a recovery that must change none of them."""

    __slots__ = ("files",)

    def __init__(self, directory: Path) -> None:
        calls = OsCalls(unlink=_refuse)
        self.files = SegmentFiles(directory, calls, SEGMENT_BYTES, 1 << 30)

    def close(self, view: StoreView) -> None:
        for segment in view.segments.values():
            os.close(segment.file.fd)
        self.files.close()


def _refuse(path: str) -> None:
    raise OSError(errno.EROFS, "a check removes nothing", path)


def log_place(damage: Damaged) -> str:
    """How a finding names a damaged place of the log."""
    if isinstance(damage, LogDamaged):
        return f"log life {damage.life} offset {damage.offset} position {damage.lsn}"
    return damage.object_id
