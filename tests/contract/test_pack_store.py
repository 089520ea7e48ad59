"""What only a store on disk can do, or suffer: reopening, locks, torn tails, full disks, failed syncs."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cas.database import open_database
from cas.digest import chunk_id
from cas.errors import ChunkDamaged, ChunkMissing, StoreLocked
from cas.packfile import PACK_HEADER_BYTES, pack_path
from cas.packstore import PackStore

TEXT = b"".join(b"%d bottles of beer on the wall, %d bottles of beer\n" % (n, n) for n in range(3000))
NOISE = random.Random(11).randbytes(100_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_everything_is_there_after_reopening(path: Path) -> None:
    data = [b"%d" % number * (number + 1) for number in range(300)]
    store = PackStore.open(path)
    ids = store.put_many(data)
    stats = store.stats()
    store.close()
    store = PackStore.open(path)
    try:
        assert store.stats() == stats
        assert [store.get(id) for id in ids] == data
        assert store.put_many(data) == ids
        assert store.stats() == stats
    finally:
        store.close()


def test_a_second_opener_is_locked_out(path: Path) -> None:
    store = PackStore.open(path)
    with pytest.raises(StoreLocked) as caught:
        PackStore.open(path)
    assert caught.value.pid == os.getpid()
    store.close()
    PackStore.open(path).close()


def test_a_second_process_is_locked_out(path: Path) -> None:
    store = PackStore.open(path)
    program = (
        "import sys; from pathlib import Path; from cas.packstore import PackStore\n"
        "from cas.errors import StoreLocked\n"
        "try: PackStore.open(Path(sys.argv[1]))\n"
        "except StoreLocked as error: print(error.pid)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, timeout=60, check=True)
    assert int(done.stdout) == os.getpid()
    store.close()


def test_an_open_that_fails_gives_the_lock_back(path: Path) -> None:
    path.mkdir()
    (path / "packs").touch()
    with pytest.raises(FileExistsError):
        PackStore.open(path)
    (path / "packs").unlink()
    PackStore.open(path).close()


def test_what_was_synced_outlives_sigkill(path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from cas.packstore import PackStore\n"
        "store = PackStore.open(Path(sys.argv[1]))\n"
        "store.put_many([b'%d' % n * 99 for n in range(500)]); store.sync()\n"
        "store.put_many([b'late %d' % n for n in range(10)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
    assert done.returncode == -9
    store = PackStore.open(path)
    try:
        for number in range(500):
            data = b"%d" % number * 99
            assert store.get(chunk_id(data)) == data
        assert store.stats().chunks == 500
        # What was not synced may be gone, but can be put again.
        id = store.put(b"late 1")
        assert store.get(id) == b"late 1"
    finally:
        store.close()


def test_nothing_is_indexed_before_its_pack_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PackStore.open(path)
    indexed_at_sync: list[int] = []
    real = os.fdatasync

    def note(fd: int) -> None:
        indexed_at_sync.append(store.index.stats().chunks)
        real(fd)

    monkeypatch.setattr(store.calls, "sync", note)
    store.put_many([b"a", b"b"])
    assert store.index.stats().chunks == 0
    store.sync()
    assert indexed_at_sync == [0]
    assert store.index.stats().chunks == 2
    store.close()


def test_a_torn_tail_costs_only_what_was_not_synced(path: Path) -> None:
    store = PackStore.open(path)
    kept = store.put_many([TEXT, NOISE])
    store.close()
    pack = pack_path(path / "packs", 1)
    size = pack.stat().st_size
    with pack.open("r+b") as file:
        file.seek(size)
        file.write(b"CHNK" + bytes(30))
    store = PackStore.open(path)
    try:
        assert [store.get(id) for id in kept] == [TEXT, NOISE]
        store.put(b"more")
        assert [entry.id for pack in store.reader.packs() for entry in store.reader.scan(pack)] == [
            *kept,
            chunk_id(b"more"),
        ]
    finally:
        store.close()


def test_a_lost_tail_is_damage(path: Path) -> None:
    store = PackStore.open(path)
    ids = store.put_many([b"first" * 300, b"last" * 300])
    store.sync()
    pack = pack_path(path / "packs", 1)
    os.truncate(pack, pack.stat().st_size - 1)
    assert store.get(ids[0]) == b"first" * 300
    with pytest.raises(ChunkDamaged, match="early") as caught:
        store.get(ids[1])
    assert caught.value.id == ids[1]
    os.truncate(pack, PACK_HEADER_BYTES)
    with pytest.raises(ChunkDamaged):
        store.get(ids[0])
    store.close()


def test_no_space_puts_nothing_and_passes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PackStore.open(path)
    kept = store.put(b"kept")
    before = store.stats()

    def refuse(fd: int, buffers: object, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store.calls, "append", refuse)
        with pytest.raises(OSError, match="No space") as caught:
            store.put_many([b"lost", NOISE])
        assert caught.value.errno == errno.ENOSPC
    assert store.stats() == before
    assert store.has_many([chunk_id(b"lost")]) == [False]
    with pytest.raises(ChunkMissing):
        store.get(chunk_id(b"lost"))
    assert store.get(store.put(b"lost")) == b"lost"
    store.close()
    store = PackStore.open(path)
    assert store.get(kept) == b"kept"
    assert store.get(chunk_id(b"lost")) == b"lost"
    store.close()


def test_a_failed_sync_indexes_nothing_and_is_not_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PackStore.open(path)
    id = store.put(b"unsure")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(store.calls, "sync", fail)
        with pytest.raises(OSError, match="Input/output"):
            store.sync()
    calls: list[Callable[[], object]] = [store.sync, lambda: store.put(b"more"), store.close]
    for call in calls:
        with pytest.raises(OSError, match="earlier sync"):
            call()
    store = PackStore.open(path)
    assert store.has_many([id, chunk_id(b"more")]) == [False, False]
    store.close()


def test_an_index_write_that_failed_half_way_is_made_good(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PackStore.open(path)
    data = [b"%d" % number for number in range(250)]
    ids = store.put_many(data)
    real = store.index._commit
    calls = 0

    def fail_second(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("cas.index.ChunkIndex._commit", lambda self, *arguments: fail_second(*arguments))
        with pytest.raises(OSError, match="No space"):
            store.sync()
    assert [store.get(id) for id in ids] == data
    store.sync()
    assert store.index.stats() == store.stats()
    assert store.stats().chunks == 250
    store.close()


def test_many_waiting_chunks_sync_by_themselves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cas.packstore._WAITING_MAX", 20)
    store = PackStore.open(path)
    ids = [store.put(b"%d" % number) for number in range(50)]
    assert store.index.stats().chunks > 20
    assert store.stats().chunks == 50
    assert all(store.has_many(ids))
    store.close()


def test_a_lost_index_is_made_again_from_the_packs(path: Path) -> None:
    (path / "packs").mkdir(parents=True)
    db = open_database(path / "db")
    store = PackStore(path / "packs", db)
    ids = store.put_many([TEXT, NOISE, b"", b"abc"])
    store.close()
    stats = store.stats()
    db.close()
    db = open_database(path / "new")
    store = PackStore(path / "packs", db)
    assert store.has_many(ids) == [False] * 4
    assert store.rebuild() == 4
    assert store.rebuild() == 0
    assert store.stats() == stats
    assert [store.get(id) for id in ids] == [TEXT, NOISE, b"", b"abc"]
    store.close()
    db.close()
