"""Packs and index against each other: every chunk read and hashed, every record led to its frame.

Must not know: files; which chunks are wanted is told.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rocksdict import Rdict

from cas.digest import ID_BYTES, ChunkId
from cas.errors import VersionUnknown
from cas.index import PREFIX, RECORD, SUMS
from cas.packfile import Place, pack_numbers
from cas.salvage import Gap, salvage
from cas.scrub import Broken, Entry, Pace, read_whole, scrub_pack
from heliosfs.storage.checking.findings import Kind, Report

_ROW: Final = struct.Struct("<QII32s")
"""An index record as it is kept here: offset, length, raw length, id."""

Step = Callable[[str, int, int], None]
"""Progress: (stage, done, of)."""


@dataclass(slots=True)
class ChunkCheck:
    """What came of it.

    Attributes:
        bad: Chunks that can't be had where the index says, or that it does not know; with the reason.
        spare: Whole frames that no index record leads to: copies of chunks, or garbage.
        indexed: Ids that the index knows.
        misplaced: Chunks that are whole though the header of their entry is not.
    """

    bad: dict[ChunkId, str] = field(default_factory=dict)
    spare: dict[ChunkId, Place] = field(default_factory=dict)
    indexed: set[ChunkId] = field(default_factory=set)
    misplaced: set[ChunkId] = field(default_factory=set)


def check_chunks(
    packs: Path, db: Rdict | None, wanted: set[ChunkId], report: Report, pace: Pace, step: Step
) -> ChunkCheck:
    """Read every pack. O(bytes of all packs); 0.2 KiB of memory a chunk.

    Args:
        db: None where there is no index: then the packs are checked by themselves.
        wanted: What stored trees refer to.
    """
    check = ChunkCheck()
    rows = _index_rows(db, check, report) if db is not None else {}
    numbers = sorted({*pack_numbers(packs), *rows})
    for done, number in enumerate(numbers):
        step("packs", done, len(numbers))
        report.count("packs")
        _check_pack(packs, number, rows.pop(number, bytearray()), check, report, pace)
    step("packs", len(numbers), len(numbers))
    for id_ in wanted:
        if id_ not in check.indexed:
            check.bad[id_] = "the index does not know it"
    if db is not None:
        report.counts["unreferenced_chunks"] = len(check.indexed - wanted)
    for id_, reason in check.bad.items():
        copy = " (another copy of it is whole)" if id_ in check.spare else ""
        report.found(Kind.CHUNK, id_.hex(), reason + copy)
    return check


def _index_rows(db: Rdict, check: ChunkCheck, report: Report) -> dict[int, bytearray]:
    """Index records by pack."""
    rows: dict[int, bytearray] = {}
    sums: tuple[int, ...] | None = None
    stored_bytes = raw_bytes = 0
    whole = True
    for found in salvage(db, PREFIX):
        if isinstance(found, Gap):
            whole = False
            where = f"records between {found.after.hex() or 'the first'} and {found.before.hex() or 'the last'}"
            report.found(Kind.INDEX, where, found.reason)
            continue
        key, value = found
        if key == PREFIX and len(value) == SUMS.size:
            sums = SUMS.unpack(value)
            continue
        if len(key) != len(PREFIX) + ID_BYTES or len(value) != RECORD.size:
            whole = False
            report.found(Kind.INDEX, f"record {key.hex()}", "not a record of the index")
            continue
        id_ = ChunkId(key[len(PREFIX) :])
        pack, offset, length, raw = RECORD.unpack(value)
        rows.setdefault(pack, bytearray()).extend(_ROW.pack(offset, length, raw, id_))
        check.indexed.add(id_)
        stored_bytes += length
        raw_bytes += raw
    counted = (len(check.indexed), stored_bytes, raw_bytes)
    report.counts["chunks"] = len(check.indexed)
    report.counts["chunk_bytes"] = stored_bytes
    if whole and counted != (sums or (0, 0, 0)):
        report.found(Kind.INDEX, "sums", f"{counted} counted, {sums} recorded (chunks, stored bytes, raw bytes)")
    return rows


def _check_pack(packs: Path, number: int, rows: bytearray, check: ChunkCheck, report: Report, pace: Pace) -> None:
    records = sorted(_ROW.iter_unpack(rows))
    whole: dict[int, Entry] = {}
    broken: list[Broken] = []
    problems: dict[int, str] = {}
    lost = ""
    try:
        for found in scrub_pack(packs, number, pace):
            if isinstance(found, Broken):
                broken.append(found)
            elif found.problem:
                problems[found.place.offset] = found.problem
            else:
                whole[found.place.offset] = found
    except FileNotFoundError:
        lost = f"pack {number} does not exist"
        report.found(Kind.PACK, f"pack {number}", "the index refers to it, and it does not exist")
    except (VersionUnknown, OSError) as error:
        lost = f"pack {number} can't be read: {error}"
        report.found(Kind.PACK, f"pack {number}", str(error))
    for offset, length, raw, id_ in records:
        entry = whole.pop(offset, None)
        if entry is not None and (entry.id, entry.place.length, entry.raw_length) == (id_, length, raw):
            continue
        place = Place(number, offset, length)
        data = None if lost else read_whole(packs, ChunkId(id_), place)
        if data is None:
            reason = lost or problems.get(offset) or "the index leads to what is not this chunk"
            check.bad[ChunkId(id_)] = f"pack {number} offset {offset} length {length}: {reason}"
        elif len(data) != raw:
            report.found(Kind.INDEX, f"record {id_.hex()}", f"raw length {raw}, the chunk has {len(data)}")
        else:
            check.misplaced.add(ChunkId(id_))
    for entry in whole.values():
        check.spare[entry.id] = entry.place
        report.count("unindexed_entries")
        report.count("unindexed_bytes", entry.place.length)
    _tell_broken(number, broken, [(offset, length) for offset, length, _, _ in records], report)
    for offset in problems.keys() - {record[0] for record in records}:
        report.notes.append(f"pack {number} offset {offset}: a damaged entry that nothing refers to")


def _tell_broken(number: int, broken: list[Broken], records: list[tuple[int, int]], report: Report) -> None:
    for found in broken:
        where = f"pack {number} offset {found.offset} to {found.end}"
        inside = any(found.offset <= offset < found.end for offset, _ in records)
        if found.last and not inside:
            report.notes.append(f"{where}: left by a writer that was killed")
        else:
            report.found(Kind.PACK, where, found.reason)
