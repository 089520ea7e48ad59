"""Damaged packs written anew: what is whole in them goes to a new pack, the old file to quarantine.

Order: the new pack synced, then the index, then the old file moved: killed anywhere, every chunk that was whole
has a whole place. Must not know: files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rocksdict import WriteBatch

from cas import database
from cas.codec import encode
from cas.database import Database
from cas.digest import ID_BYTES, ChunkId
from cas.index import PREFIX, RECORD, SUMS
from cas.packfile import Place, Stored, pack_path
from cas.packs import PackWriter
from cas.scrub import read_whole
from heliosfs.storage.checking.chunks import ChunkCheck
from heliosfs.storage.checking.quarantine import Quarantine


def mend_packs(
    store: Path, db: Database, check: ChunkCheck, damaged: Iterable[int], quarantine: Quarantine
) -> None:
    """Write damaged packs anew, lead the index to whole copies, and forget chunks that have none.

    Args:
        damaged: Packs with anything wrong in them.

    Raises:
        OSError: The disk.
    """
    packs = store / "packs"
    records = _records(db)
    mended = 0
    writer = PackWriter(packs, 0)
    try:
        moves: dict[ChunkId, Stored] = {}
        wanted = set(damaged)

        def take(id_: ChunkId, place: Place) -> bool:
            """Have the index lead to what is whole at `place`, written anew if its pack is to go."""
            data = read_whole(packs, id_, place)
            if data is None:
                return False
            home = writer.append(id_, encode(data)) if place.pack in wanted else place
            moves[id_] = Stored(id_, home, len(data))
            return True

        for id_, place in records.items():
            if id_ in check.bad:
                if not take(id_, place) and id_ in check.spare:
                    mended += take(id_, check.spare[id_])
            elif place.pack in wanted:
                take(id_, place)
        for id_ in check.bad:
            if id_ not in records and id_ in check.spare:
                mended += take(id_, check.spare[id_])
        writer.sync()
    finally:
        writer.close()
    lost = [id_ for id_ in check.bad if id_ in records and id_ not in moves]
    for id_ in lost:
        _keep(packs, id_, records[id_], quarantine)
    _write(db, list(moves.values()), lost)
    for pack in sorted(wanted):
        path = pack_path(packs, pack)
        if path.exists():
            quarantine.move(path)
            kept = sum(id_ in moves and place.pack == pack for id_, place in records.items())
            quarantine.did(f"pack {pack} written anew: {kept} whole chunks; the old file is in quarantine")
    if mended:
        quarantine.did(f"{mended} chunks mended from other copies")
    for id_ in lost:
        quarantine.did(f"chunk {id_.hex()} can't be mended: its ranges stay EIO until the same content is written")
    recount(db)


def recount(db: Database) -> None:
    """Write the index's sums as they should be, and drop what is no record. OSError."""
    chunks = stored = raw = 0
    batch = WriteBatch(raw_mode=True)
    for key, value in database.records(db, PREFIX, start=PREFIX + b"\0"):
        if len(key) != len(PREFIX) + ID_BYTES or len(value) != RECORD.size:
            batch.delete(key)
            continue
        _, _, length, raw_length = RECORD.unpack(value)
        chunks += 1
        stored += length
        raw += raw_length
    batch.put(PREFIX, SUMS.pack(chunks, stored, raw))
    database.write(db, batch)
    database.sync(db)


def _records(db: Database) -> dict[ChunkId, Place]:
    found: dict[ChunkId, Place] = {}
    for key, value in database.records(db, PREFIX, start=PREFIX + b"\0"):
        if len(key) == len(PREFIX) + ID_BYTES and len(value) == RECORD.size:
            found[ChunkId(key[len(PREFIX) :])] = Place(*RECORD.unpack(value)[:3])
    return found


def _keep(packs: Path, id_: ChunkId, place: Place, quarantine: Quarantine) -> None:
    """Keep the bytes that the index took for a chunk: somebody may know how to read them."""
    try:
        with open(pack_path(packs, place.pack), "rb", buffering=0) as file:
            data = os.pread(file.fileno(), min(place.length, 1 << 25), place.offset)
    except OSError:
        return
    quarantine.keep(f"chunk-{id_.hex()}", data)


def _write(db: Database, moves: list[Stored], lost: list[ChunkId]) -> None:
    batch = WriteBatch(raw_mode=True)
    for id_, place, raw_length in moves:
        batch.put(PREFIX + id_, RECORD.pack(*place, raw_length))
    for id_ in lost:
        batch.delete(PREFIX + id_)
    database.write(db, batch)
    database.sync(db)
