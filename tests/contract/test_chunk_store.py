"""One suite for every ChunkStore: what cas/store.py promises, each store has to keep."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas.codec import MAX_CHUNK
from cas.database import open_database
from cas.digest import ChunkId, chunk_id
from cas.errors import ChunkDamaged, ChunkMissing
from cas.memory import MemoryStore
from cas.packfile import pack_path
from cas.packstore import PackStore
from cas.store import ChunkStore, StoreStats

TEXT = b"".join(b"%d bottles of beer on the wall, %d bottles of beer\n" % (n, n) for n in range(3000))
NOISE = random.Random(11).randbytes(100_000)
SIZES = [0, 1, 1024, 1025, 5000, 65536, 100_000]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(params=["memory", "packs", "packs in a given database"])
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[ChunkStore]:
    made: ChunkStore
    if request.param == "memory":
        made = MemoryStore()
        yield made
        made.close()
    elif request.param == "packs":
        made = PackStore.open(path)
        yield made
        made.close()
    else:
        (path / "packs").mkdir(parents=True)
        db = open_database(path / "db")
        made = PackStore(path / "packs", db, writer=3)
        yield made
        made.close()
        # Still the caller's:
        assert db.get(b"x") is None
        db.close()


def flip(store: ChunkStore, id: ChunkId, at: int) -> None:
    """Flip a bit of byte `at` of the chunk's frame."""
    if isinstance(store, MemoryStore):
        frame = bytearray(store.frames[id])
        frame[at] ^= 0x10
        store.frames[id] = bytes(frame)
        return
    assert isinstance(store, PackStore)
    store.sync()
    place = store.index.place(id)
    assert place is not None
    with pack_path(store.reader._directory, place.pack).open("r+b") as pack:
        pack.seek(place.offset + at)
        byte = pack.read(1)[0]
        pack.seek(place.offset + at)
        pack.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("source", [TEXT, NOISE], ids=["text", "noise"])
@pytest.mark.parametrize("size", SIZES)
def test_what_was_put_is_got(store: ChunkStore, size: int, source: bytes) -> None:
    data = source[:size]
    id = store.put(data)
    assert id == chunk_id(data)
    assert store.get(id) == data
    store.sync()
    assert store.get(id) == data


def test_put_is_idempotent(store: ChunkStore) -> None:
    first = store.put(TEXT)
    before = store.stats()
    assert store.put(TEXT) == first
    assert store.put_many([TEXT, TEXT]) == [first, first]
    store.sync()
    assert store.put(TEXT) == first
    store.sync()
    assert store.stats() == before
    assert before.chunks == 1


def test_put_many_keeps_order_and_counts_doubles_once(store: ChunkStore) -> None:
    data = [b"a", TEXT, b"b", b"a", NOISE, TEXT]
    assert store.put_many(data) == [chunk_id(chunk) for chunk in data]
    assert store.stats().chunks == 4
    for chunk in data:
        assert store.get(chunk_id(chunk)) == chunk
    assert store.put_many([]) == []


def test_has_many(store: ChunkStore) -> None:
    ids = store.put_many([b"a", b"b"])
    asked = [ids[0], chunk_id(b"never"), ids[1]]
    assert store.has_many(asked) == [True, False, True]
    store.sync()
    assert store.has_many(asked) == [True, False, True]
    assert store.has_many([]) == []


def test_missing_is_told_apart_from_damaged(store: ChunkStore) -> None:
    with pytest.raises(ChunkMissing) as caught:
        store.get(chunk_id(b"never"))
    assert caught.value.id == chunk_id(b"never")


def test_stats_are_exact(store: ChunkStore) -> None:
    assert store.stats() == StoreStats(0, 0, 0)
    store.put_many([TEXT, b"", b"abc"])
    for _ in range(2):
        stats = store.stats()
        assert (stats.chunks, stats.raw_bytes) == (3, len(TEXT) + 3)
        assert len(b"abc") + 10 < stats.stored_bytes < len(TEXT) / 2
        store.sync()


def test_text_is_compressed_and_noise_is_not(store: ChunkStore) -> None:
    store.put(TEXT[:65536])
    assert 0 < store.stats().stored_bytes * 2 < 65536
    store.put(NOISE[:65536])
    stored = store.stats().stored_bytes
    assert 65536 < stored < 65536 * 1.5 + 16


@pytest.mark.parametrize("source", [TEXT, NOISE], ids=["text", "noise"])
@pytest.mark.parametrize("at", [0, 3, 5, 700, -1])
def test_a_flipped_bit_is_damage_of_that_chunk_alone(store: ChunkStore, source: bytes, at: int) -> None:
    ids = store.put_many([b"before", source, b"after"])
    if at < 0:
        store.sync()
        at = store.stats().stored_bytes - len(b"before" + b"after") - 2 * 5 - 1
    flip(store, ids[1], at)
    with pytest.raises(ChunkDamaged) as caught:
        store.get(ids[1])
    assert caught.value.id == ids[1]
    assert ids[1].hex() in str(caught.value)
    assert store.get(ids[0]) == b"before"
    assert store.get(ids[2]) == b"after"


def test_too_large_is_refused_whole(store: ChunkStore) -> None:
    with pytest.raises(ValueError, match="16777217"):
        store.put_many([b"small", bytes(MAX_CHUNK + 1)])
    assert store.has_many([chunk_id(b"small")]) == [False]
    assert store.stats().chunks == 0
    id = store.put(bytes(MAX_CHUNK))
    assert store.get(id) == bytes(MAX_CHUNK)


def test_threads_put_and_get(store: ChunkStore) -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        random_ = random.Random(seed)
        try:
            for turn in range(30):
                # Half of them the same in every thread.
                data = [b"%d/%d" % (turn, number) * 50 for number in range(5)]
                data += [random_.randbytes(500) for _ in range(5)]
                ids = store.put_many(data)
                if turn % 10 == seed:
                    store.sync()
                if [store.get(id) for id in ids] != data:
                    wrong.append(seed)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert store.stats().chunks == 30 * 5 + 4 * 30 * 5


def test_close_twice(store: ChunkStore) -> None:
    store.put(b"x")
    store.close()
    store.close()
