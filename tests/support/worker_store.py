"""A store of packs and an index for tests of workers, with a hook where the pool asks the index."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from cas.database import open_database
from cas.digest import ChunkId
from cas.index import ChunkIndex
from cas.packs import PackReader
from heliosfs.storage.log.frame import block_sums, seed_of
from heliosfs.storage.workers import LogSource, StoredFile, WorkerPool
from heliosfs.storage.workers.handle import WORKER_MODULE

SALT = b"sixteen bytes ok"


class HookedIndex(ChunkIndex):
    """Calls `hook` each time a worker asks what is known."""

    __slots__ = ("hook",)
    hook: Callable[[], None] | None

    def has_many(self, ids: Iterable[ChunkId]) -> list[bool]:
        if self.hook is not None:
            self.hook()
        return super().has_many(ids)


class WorkerStore:
    """Packs, index and pool below one directory."""

    def __init__(self, pool: WorkerPool, index: HookedIndex, packs: Path) -> None:
        self.pool = pool
        self.index = index
        self.packs = packs
        self.reader = PackReader(packs)

    def chunk(self, id_: ChunkId) -> bytes:
        """A chunk's bytes, wherever its place is known from."""
        stored = self.pool.place(id_) or self.index.get(id_)
        assert stored is not None
        return self.reader.get(id_, stored.place)

    def content(self, file: StoredFile | OSError) -> bytes:
        """The bytes of a stored file."""
        assert isinstance(file, StoredFile), file
        data = bytearray(file.size)
        for offset, length, id_ in file.extents:
            chunk = self.chunk(id_)
            assert len(chunk) == length
            data[offset : offset + length] = chunk
        return bytes(data)

    def pack_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.packs.iterdir())


@contextmanager
def hooked_index(directory: Path) -> Iterator[HookedIndex]:
    """An index in a database of its own."""
    db = open_database(directory)
    try:
        index = HookedIndex(db)
        index.hook = None
        yield index
        del index
    finally:
        db.close()


@asynccontextmanager
async def worker_store(
    directory: Path, *, count: int = 2, deadline_seconds: float = 30.0, module: str = WORKER_MODULE
) -> AsyncIterator[WorkerStore]:
    """A store whose pool is closed at the end, however that comes."""
    packs = directory / "store" / "packs"
    packs.mkdir(parents=True)
    with hooked_index(directory / "store" / "db") as index:
        async with WorkerPool(packs, index, count=count, deadline_seconds=deadline_seconds, module=module) as pool:
            store = WorkerStore(pool, index, packs)
            try:
                yield store
            finally:
                store.reader.close()


def log_source(path: Path, payload: bytes, start: int, length: int) -> LogSource:
    """Append a payload to a file that passes for a segment, and name a range of it."""
    with path.open("ab") as file:
        file.write(os.urandom(56))
        offset = file.tell()
        file.write(payload)
    return LogSource(path, SALT, offset, len(payload), block_sums(payload, seed_of(SALT)), start, length)


def process_is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(b")")[2].split()[0] in (b"Z", b"X")
