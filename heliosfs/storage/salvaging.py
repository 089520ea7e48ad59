"""Around bytes that a cut can't read: which they are exactly, and what stands for them in the stored tree.

One damaged block must not keep a whole store from being cut. It gets a chunk id that no store has (or keeps that
of its damaged chunk): reading it is EIO for that range and no other, and fsck finds and names it.
Must not know: files, when a cut happens, worker processes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from cas.digest import ChunkId
from cas.errors import CasError, ChunkDamaged, FrameDamaged
from cas.index import ChunkIndex
from cas.packs import PackReader
from heliosfs.core.errors import Damaged
from heliosfs.core.extent import ChunkRef, LogData, Source
from heliosfs.storage.errors import LogDamaged
from heliosfs.storage.log import Log
from heliosfs.storage.log.frame import BLOCK_BYTES

STRIKES: Final = 3
"""A read that the system refuses (EIO) may work another time: so many cuts fail over it before it is given up."""

_CONTEXT: Final = "heliosfs 2026 bytes that could not be read"


@dataclass(frozen=True, slots=True)
class Lost:
    """Bytes given up.

    Attributes:
        id: The chunk id that stands for them.
        length: In bytes.
        source: Where they were: "log life L offset O" or "chunk HEX offset O".
        reason: Why they can't be read.
    """

    id: ChunkId
    length: int
    source: str
    reason: str


Part = tuple[Source, int, int]


def lost_id(source: str, length: int) -> ChunkId:
    """The name of bytes that can't be had: derived from where they were, and no content's BLAKE3."""
    return ChunkId(blake3(f"{source} {length}".encode(), derive_key_context=_CONTEXT).digest())


def parts_of(sources: tuple[Part, ...]) -> list[Part]:
    """The sources, log data divided into the blocks that are verified one by one."""
    parts: list[Part] = []
    for source, start, length in sources:
        if type(source) is not LogData:
            parts.append((source, start, length))
            continue
        end = start + length
        while start < end:
            stop = min((start // BLOCK_BYTES + 1) * BLOCK_BYTES, end)
            parts.append((source, start, stop - start))
            start = stop
    return parts


class Salvager:
    """Finds what is readable of a region that is not, as a whole."""

    def __init__(self, log: Log, index: ChunkIndex, packs: PackReader) -> None:
        self._log = log
        self._index = index
        self._packs = packs
        self._strikes: Counter[str] = Counter()

    def examine(self, parts: list[Part]) -> list[Lost | None]:
        """For each part None, or what stands for it. Reads everything: for a thread; lives and packs are pinned.

        Raises:
            Damaged: The system refuses a read that may work later; STRIKES times, then it is given up, too.
        """
        return [self._examine(*part) for part in parts]

    def _examine(self, source: Source, start: int, length: int) -> Lost | None:
        try:
            if type(source) is LogData:
                where = f"log life {source.life} offset {source.offset + start}"
                self._log.read_blocks(source.life, source.offset, source.length, source.sums, start, length)
            else:
                assert type(source) is ChunkRef
                where = f"chunk {source.id.hex()} offset {start}"
                self._read_chunk(source)
        except (LogDamaged, CasError) as error:
            return self._lost(source, start, length, where, str(error), final=error.__cause__ is None)
        except OSError as error:
            return self._lost(source, start, length, where, str(error), final=False)
        self._strikes.pop(where, None)
        return None

    def _read_chunk(self, chunk: ChunkRef) -> None:
        place = self._index.place(chunk.id)
        if place is None:
            raise ChunkDamaged(chunk.id, "missing")
        try:
            self._packs.get(chunk.id, place)
        except FrameDamaged as error:
            raise ChunkDamaged(chunk.id, error.reason) from None
        except ChunkDamaged as error:
            raise ChunkDamaged(chunk.id, error.reason) from None

    def _lost(self, source: Source, start: int, length: int, where: str, reason: str, *, final: bool) -> Lost:
        if not final:
            self._strikes[where] += 1
            if self._strikes[where] < STRIKES:
                raise Damaged(where, f"{where}: {reason}")
        if type(source) is ChunkRef and start == 0 and length == source.length:
            # The whole of it: should its bytes ever be stored again, they are back.
            return Lost(source.id, length, where, reason)
        return Lost(lost_id(where, length), length, where, reason)
