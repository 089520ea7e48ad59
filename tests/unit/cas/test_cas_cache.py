"""L1: budget, counters, and what stays when not everything can."""

from __future__ import annotations

import random
from bisect import bisect_left
from itertools import accumulate

import pytest

from cas.cache import CacheStats, ChunkCache
from cas.digest import ChunkId


def id_of(number: int) -> ChunkId:
    return ChunkId(number.to_bytes(32, "little"))


def test_get_and_put() -> None:
    cache = ChunkCache(1000)
    assert cache.get(id_of(1)) is None
    cache.put(id_of(1), b"x" * 100)
    assert cache.get(id_of(1)) == b"x" * 100
    assert cache.get(id_of(1)) == b"x" * 100
    assert cache.stats() == CacheStats(hits=2, misses=1, evictions=0, chunks=1, bytes=100, budget_bytes=1000)


def test_putting_again_changes_nothing() -> None:
    cache = ChunkCache(1000)
    cache.put(id_of(1), b"x" * 100)
    cache.put(id_of(1), b"x" * 100)
    assert cache.stats().bytes == 100
    cache.get(id_of(1))
    cache.put(id_of(1), b"x" * 100)
    assert (cache.stats().bytes, cache.stats().chunks) == (100, 1)


def test_too_long_for_the_budget() -> None:
    cache = ChunkCache(1000)
    cache.put(id_of(1), b"x" * 251)
    assert cache.get(id_of(1)) is None
    cache.put(id_of(2), b"x" * 250)
    assert cache.get(id_of(2)) is not None
    assert cache.stats().evictions == 0
    nothing = ChunkCache(0)
    nothing.put(id_of(1), b"x")
    assert nothing.stats().chunks == 0
    with pytest.raises(ValueError, match="-1"):
        ChunkCache(-1)


def test_the_least_recently_used_goes_first() -> None:
    cache = ChunkCache(1000)
    for number in range(10):
        cache.put(id_of(number), b"x" * 100)
    cache.put(id_of(10), b"x" * 100)
    assert cache.get(id_of(0)) is None
    assert cache.get(id_of(1)) is not None
    cache.put(id_of(11), b"x" * 100)
    assert cache.get(id_of(2)) is None
    assert cache.stats().evictions == 2


def test_a_scan_leaves_what_was_hit() -> None:
    cache = ChunkCache(10_000)
    for number in range(50):
        cache.put(id_of(number), b"x" * 100)
        cache.get(id_of(number))
    for number in range(1000, 3000):
        cache.put(id_of(number), b"y" * 100)
    assert all(cache.get(id_of(number)) for number in range(50))


def test_proven_chunks_make_room_too() -> None:
    cache = ChunkCache(1000)
    for number in range(100):
        cache.put(id_of(number), b"x" * 100)
        cache.get(id_of(number))
        assert cache.stats().bytes <= 1000
    assert cache.get(id_of(0)) is None
    cache.put(id_of(200), b"z" * 250)
    assert cache.get(id_of(200)) == b"z" * 250


def test_discard_and_clear() -> None:
    cache = ChunkCache(1000)
    for number in range(3):
        cache.put(id_of(number), b"x" * 100)
    cache.get(id_of(0))
    cache.discard(id_of(0))
    cache.discard(id_of(1))
    cache.discard(id_of(77))
    assert (cache.stats().bytes, len(cache)) == (100, 1)
    cache.put(id_of(0), b"x" * 100)
    cache.get(id_of(0))
    cache.clear()
    assert (cache.stats().bytes, len(cache), cache.stats().evictions) == (0, 0, 0)


def test_resize() -> None:
    cache = ChunkCache(1000)
    for number in range(10):
        cache.put(id_of(number), b"x" * 100)
        cache.get(id_of(number))
    cache.resize(350)
    stats = cache.stats()
    assert (stats.chunks, stats.bytes, stats.evictions, stats.budget_bytes) == (3, 300, 7, 350)
    assert cache.get(id_of(9)) is not None
    cache.resize(0)
    assert (cache.stats().chunks, cache.stats().bytes) == (0, 0)
    cache.resize(1000)
    cache.put(id_of(1), b"x" * 250)
    assert cache.get(id_of(1)) is not None


def test_hit_rate_with_a_working_set_of_four_budgets() -> None:
    chunks = 32_768
    weights = list(accumulate(rank**-1.1 for rank in range(1, chunks + 1)))
    random_ = random.Random(1)
    trace = [bisect_left(weights, random_.random() * weights[-1]) for _ in range(200_000)]
    ids = [id_of(number) for number in range(chunks)]
    data = bytes(4096)
    cache = ChunkCache(chunks * 4096 // 4)
    for number in trace[:100_000]:
        if cache.get(ids[number]) is None:
            cache.put(ids[number], data)
    warm = cache.stats()
    for number in trace[100_000:]:
        if cache.get(ids[number]) is None:
            cache.put(ids[number], data)
    stats = cache.stats()
    assert (stats.hits - warm.hits) / 100_000 > 0.9
    assert stats.hits + stats.misses == 200_000
    assert stats.bytes <= stats.budget_bytes
