"""Cutting a run in a worker: streamed, and ended where an old boundary is met.

Must not know: the socket, packs, what a run belongs to.
"""

from __future__ import annotations

from collections.abc import Callable

from cas.chunker import SMALL_MAX, Cutter
from cas.digest import ChunkId
from heliosfs.storage.workers.jobs import CutResult
from heliosfs.storage.workers.sources import ChunkRange, LogRange, Run


def cut_run(
    run: Run, read: Callable[[LogRange | ChunkRange], bytes], keep: Callable[[bytes], ChunkId]
) -> CutResult:
    """Cut the bytes of a run as cas.chunker does, from its first byte to its end or to a resync offset.

    Args:
        read: Gives a source's bytes.
        keep: Takes a piece and names it.

    Raises:
        What `read` and `keep` raise.

    Memory: the cutter's 0.6 MiB and the largest source.
    """
    sources = run.sources
    if run.length <= SMALL_MAX:
        if not run.length:
            return CutResult((), 0)
        data = read(sources[0]) if len(sources) == 1 else b"".join([read(source) for source in sources])
        return CutResult(((keep(data), len(data)),), len(data))
    resync = run.resync
    cutter = Cutter()
    pieces: list[tuple[ChunkId, int]] = []
    consumed = 0
    for source in sources:
        for piece in cutter.feed(read(source)):
            consumed += len(piece)
            pieces.append((keep(piece), len(piece)))
            if consumed in resync:
                return CutResult(tuple(pieces), consumed)
    for piece in cutter.finish():
        consumed += len(piece)
        pieces.append((keep(piece), len(piece)))
        if consumed in resync:
            break
    return CutResult(tuple(pieces), consumed)
