"""Storing pieces, in two steps: ask which of them are new, compress and append only those.

Invariant: at most BATCH_BYTES and one piece are held. Must not know: what pieces belong to, the socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cas.codec import encode
from cas.digest import ChunkId, chunk_id
from cas.packs import PackWriter, Stored

BATCH_BYTES: Final = 8 << 20
BATCH_CHUNKS: Final = 256
"""Ids in one question: the daemon answers it in 0.3 ms."""


class PacksFailed(Exception):
    """The packs take no more (ENOSPC, EIO): the end of the whole job, not of one file in it.

    Attributes:
        cause: What the system said.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


class ChunkKeeper:
    """Takes pieces in, and sees to it that every one is stored after `flush`."""

    __slots__ = ("_ask", "_bytes", "_packs", "_pending", "_tell")

    def __init__(
        self,
        packs: PackWriter,
        ask: Callable[[list[ChunkId]], bytes],
        tell: Callable[[list[Stored]], None],
    ) -> None:
        """Store into `packs`.

        Args:
            ask: Gives one byte for each id, in order: not 0 if it is to be stored.
            tell: Called with what was stored.
        """
        self._packs = packs
        self._ask = ask
        self._tell = tell
        self._pending: dict[ChunkId, bytes] = {}
        self._bytes = 0

    def keep(self, data: bytes) -> ChunkId:
        """Take one piece in; returns its name. Now and then does what `flush` does."""
        id_ = chunk_id(data)
        pending = self._pending
        if id_ not in pending:
            pending[id_] = data
            self._bytes += len(data)
            if self._bytes >= BATCH_BYTES or len(pending) >= BATCH_CHUNKS:
                self.flush()
        return id_

    def flush(self) -> None:
        """Store what was taken in and is new.

        Raises:
            PacksFailed: It can't be stored.
        """
        pending = self._pending
        if not pending:
            return
        ids = list(pending)
        self._pending = {}
        self._bytes = 0
        new = [id_ for id_, wanted in zip(ids, self._ask(ids), strict=True) if wanted]
        if not new:
            return
        lengths = [len(pending[id_]) for id_ in new]
        # The raw bytes are let go one by one, so that raw and compressed are never both held in full.
        frames = [(id_, encode(pending.pop(id_))) for id_ in new]
        try:
            places = self._packs.append_many(frames)
        except OSError as error:
            raise PacksFailed(error) from error
        self._tell(list(map(Stored, new, places, lengths)))
