"""Figures of the package `cas`, in the process: hashing, L1, L2, compression, deduplication.

`python -m tests.bench.lib_cas [SCALE]` prints them; SCALE (default 1) multiplies repetitions.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from cas.cache import ChunkCache
from cas.chunker import cut
from cas.codec import decode, encode
from cas.database import open_database
from cas.digest import ChunkId, chunk_id
from cas.index import ChunkIndex
from cas.packs import PackReader, PackWriter, Stored
from cas.packstore import PackStore
from tests.bench.figures import Figure, figure, seconds, table


def source_text(most: int) -> bytes:
    """Real text: Python's own library, file after file."""
    parts: list[bytes] = []
    size = 0
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        parts.append(path.read_bytes())
        size += len(parts[-1])
        if size >= most:
            break
    return b"".join(parts)[:most]


def hashing(scale: int) -> list[Figure]:
    data = random.Random(1).randbytes(65536)
    taken = seconds(lambda: chunk_id(data), 20 * scale, 500)
    right = chunk_id(data) == chunk_id(memoryview(bytearray(data)))
    speed = [len(data) / each / 1e9 for each in taken]
    return [figure("BLAKE3 of 64 KiB", speed, "GB/s", above=5, verified=right)]


def l1(scale: int) -> list[Figure]:
    cache = ChunkCache(16 << 20)
    chunks = [random.Random(number).randbytes(4096) for number in range(1000)]
    ids = [chunk_id(chunk) for chunk in chunks]
    for id, chunk in zip(ids, chunks, strict=True):
        cache.put(id, chunk)
    get = cache.get

    def all_of_them() -> None:
        for id in ids:
            get(id)

    spread_out = [each / 1000 * 1e6 for each in seconds(all_of_them, 20 * scale)]
    hot_id = ids[3]
    hot = [each * 1e6 for each in seconds(lambda: get(hot_id), 20 * scale, 10_000)]
    right = all(get(id) == chunk for id, chunk in zip(ids, chunks, strict=True))
    return [
        figure("L1 hit, 4 KiB, 1,000 chunks in turn", spread_out, "us", below=10, verified=right),
        figure("L1 hit, 4 KiB, hot", hot, "us", below=1, verified=right),
    ]


def hit_rate() -> list[Figure]:
    """Zipf s=1.1 over 32,768 chunks of 4 KiB, four times the budget; 100,000 reads, then 100,000 more."""
    chunks = 32_768
    weights = list(accumulate(rank**-1.1 for rank in range(1, chunks + 1)))
    random_ = random.Random(1)
    ids = [chunk_id(b"%d" % number) for number in range(chunks)]
    cache = ChunkCache(chunks * 4096 // 4)
    rates: list[float] = []
    right = True
    for _ in range(2):
        hits = 0
        before = cache.stats()
        for _ in range(100_000):
            number = bisect_left(weights, random_.random() * weights[-1])
            data = cache.get(ids[number])
            if data is None:
                cache.put(ids[number], number.to_bytes(4, "little") * 1024)
            else:
                hits += 1
                right = right and data[:4] == number.to_bytes(4, "little")
        stats = cache.stats()
        right = right and hits == stats.hits - before.hits and stats.bytes <= stats.budget_bytes
        rates.append(hits / 1000)
    return [
        figure("L1 hit rate, 4 x the budget, after 100,000 reads", rates[1:], "%", above=90, verified=right),
        figure("L1 hit rate, the first 100,000 reads of an empty L1", rates[:1], "%", verified=right),
    ]


def fresh_texts(text: bytes, random_: random.Random, size: int) -> list[bytes]:
    """1,000 pieces of text of `size` bytes, no two alike."""
    starts = [random_.randrange(len(text) - size) for _ in range(1000)]
    return [text[start : start + size - 16] + random_.randbytes(16) for start in starts]


def synced_batches(count: int, size: int, path: Path) -> tuple[list[float], bool]:
    """Milliseconds of put_many of 1,000 chunks and sync, and whether all of it was there afterwards."""
    random_ = random.Random(8)
    text = source_text(4 << 20)
    taken: list[float] = []
    right = True
    clock = time.perf_counter
    store = PackStore.open(path)
    for _ in range(count):
        data = fresh_texts(text, random_, size)
        start = clock()
        ids = store.put_many(data)
        store.sync()
        taken.append((clock() - start) * 1e3)
        right = right and [store.get(id) for id in ids] == data
    store.close()
    store = PackStore.open(path)
    right = right and store.stats().chunks == count * 1000 and store.get(ids[-1]) == data[-1]
    store.close()
    return taken, right


def batch(scale: int, directory: Path) -> list[Figure]:
    """1,000 new chunks of 1 KiB: hashed, looked up, framed, packed and indexed."""
    random_ = random.Random(7)
    text = source_text(4 << 20)
    unsynced: list[float] = []
    right = True
    clock = time.perf_counter
    packs = directory / "packs"
    packs.mkdir()
    db = open_database(directory / "db")
    index = ChunkIndex(db)
    writer = PackWriter(packs, 0)
    reader = PackReader(packs)
    for _ in range(20 * scale):
        data = fresh_texts(text, random_, 1024)
        start = clock()
        ids = [chunk_id(chunk) for chunk in data]
        known = index.has_many(ids)
        entries = [(id, encode(chunk)) for id, chunk, had in zip(ids, data, known, strict=True) if not had]
        places = writer.append_many(entries)
        index.put_batch(map(Stored, ids, places, map(len, data)), all_new=True)
        unsynced.append((clock() - start) * 1e3)
        for id, chunk in zip(ids, data, strict=True):
            place = index.place(id)
            right = right and place is not None and reader.get(id, place) == chunk
    right = right and index.stats().chunks == 20_000 * scale
    writer.close()
    reader.close()
    db.close()

    name = "L2 batch of 1,000 x 1 KiB, packs and index"
    compressed, right_too = synced_batches(20 * scale, 1100, directory / "store-1100")
    synced, right_synced = synced_batches(20 * scale, 1024, directory / "store-1024")
    return [
        figure(f"{name}, unsynced", unsynced, "ms", below=5, durability="kill", verified=right),
        figure(f"{name}, synced", synced, "ms", below=5, durability="power", verified=right_synced),
        # Up to 1 KiB stays raw (cas/codec.py); this is what the codec adds just above.
        figure(
            "L2 batch of 1,000 x 1,100 bytes, compressed, synced",
            compressed,
            "ms",
            durability="power",
            verified=right_too,
        ),
    ]


_COLD_READER = """
import sys, time
from pathlib import Path
from cas.packstore import PackStore
from cas.digest import ChunkId, chunk_id
store = PackStore.open(Path(sys.argv[1]))
store.get(ChunkId(bytes.fromhex(sys.argv[2])))
for name in sys.argv[3:]:
    id = ChunkId(bytes.fromhex(name))
    start = time.perf_counter()
    data = store.get(id)
    taken = time.perf_counter() - start
    print(taken, chunk_id(data) == id and len(data))
store.close()
"""


def cold_objects(directory: Path) -> list[Figure]:
    """The first read of objects in a process that has read none of them: index, pread, decode, verify.

    One other object is read before, so that files are open. With the packs in the page cache, and with their
    pages dropped: then the disk is in the figure, and the kernel's read-ahead.
    """
    text = source_text(24 << 20)
    figures: list[Figure] = []
    for size, label in ((4096, "4 KiB"), (16384, "16 KiB"), (65536, "64 KiB")):
        path = directory / f"cold-{size}"
        store = PackStore.open(path)
        data = [text[number * size : (number + 1) * size] for number in range(60)]
        ids = store.put_many(data)
        store.close()
        for dropped in (False, True):
            if dropped:
                for pack in (path / "packs").iterdir():
                    fd = os.open(pack, os.O_RDONLY)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(fd)
            names = [id.hex() for id in ids]
            done = subprocess.run(
                [sys.executable, "-c", _COLD_READER, str(path), *names],
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
            rows = [line.split() for line in done.stdout.splitlines()]
            right = [int(row[1]) for row in rows] == [size] * (len(ids) - 1)
            name = f"first byte of a cold object of {label}, " + ("from disk" if dropped else "L2 to decoded")
            taken = [float(row[0]) * 1e6 for row in rows]
            figures.append(
                figure(name, taken, "us", below=None if dropped else 50, durability="power", verified=right)
            )
    return figures


def pieces(data: bytes) -> Iterator[bytes]:
    """What the chunker makes of `data`."""
    start = 0
    for length in cut(data):
        yield data[start : start + length]
        start += length


def ratios(directory: Path) -> list[Figure]:
    text = source_text(8 << 20)
    noise = random.Random(4).randbytes(8 << 20)
    figures: list[Figure] = []
    for name, data in (("text", text), ("noise", noise)):
        raw = stored = 0
        right = True
        for piece in pieces(data):
            frame = encode(piece)
            right = right and decode(frame) == piece
            raw += len(piece)
            stored += len(frame)
        right = right and raw == len(data)
        ratio = [raw / stored]
        above = 2 if name == "text" else None
        figures.append(figure(f"compression of {name}, ratio", ratio, "x", above=above, verified=right))
    files = [path.read_bytes() for path in Path(os.__file__).parent.glob("**/*.py")]
    frames = [(piece, encode(piece)) for data in files for piece in pieces(data)]
    right = sum(len(piece) for piece, _ in frames) == sum(map(len, files))
    right = right and all(decode(frame) == piece for piece, frame in frames)
    ratio = [sum(map(len, files)) / sum(len(frame) for _, frame in frames)]
    figures.append(
        figure("compression of Python's library, file by file, ratio", ratio, "x", above=2, verified=right)
    )
    store = PackStore.open(directory / "dedup")
    seen = 0
    for seed in range(20):
        data = random.Random(seed).randbytes(1 << 20)
        for piece in pieces(data):
            store.put(piece)
        seen += len(data)
    store.sync()
    stored = sum(path.stat().st_size for path in (directory / "dedup" / "packs").iterdir())
    saved = (1 - stored / seen) * 100
    right = store.stats().raw_bytes == seen
    store.close()
    figures.append(figure("deduplication of random data (control)", [saved], "%", below=1, verified=right))
    return figures


def edits(directory: Path) -> list[Figure]:
    """What packs and index grow by when one byte of 64 MiB changes, or one is inserted."""
    data = random.Random(9).randbytes(64 << 20)
    store = PackStore.open(directory / "edits")

    def put(content: bytes) -> list[ChunkId]:
        ids = [store.put(piece) for piece in pieces(content)]
        store.sync()
        return ids

    put(data)
    middle = len(data) // 2
    figures: list[Figure] = []
    for name, content in (
        ("changed", data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]),
        ("inserted", data[:middle] + b"!" + data[middle:]),
    ):
        before = store.stats()
        ids = put(content)
        after = store.stats()
        grown = after.stored_bytes - before.stored_bytes + 97 * (after.chunks - before.chunks)
        right = chunk_id(b"".join(map(store.get, ids))) == chunk_id(content)
        figures.append(
            figure(
                f"a byte {name} in 64 MiB adds",
                [grown / 1024],
                "KiB",
                below=256,
                durability="power",
                verified=right and grown > 0,
            )
        )
    store.close()
    return figures


def run(scale: int = 1) -> list[Figure]:
    """All figures; about 15 s at scale 1, 250 MB of disk in the temporary directory."""
    with tempfile.TemporaryDirectory(prefix="heliosfs-bench-") as name:
        directory = Path(name)
        return [
            *hashing(scale),
            *l1(scale),
            *hit_rate(),
            *batch(scale, directory),
            *cold_objects(directory),
            *ratios(directory),
            *edits(directory),
        ]


if __name__ == "__main__":
    print(table(run(int(sys.argv[1]) if len(sys.argv) > 1 else 1)))
