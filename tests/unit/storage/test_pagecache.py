"""The cache of decoded nodes: its budget, and what it drops."""

from __future__ import annotations

import random
from typing import cast

import pytest

from heliosfs.core.errors import NeedPages
from heliosfs.core.ids import PageId
from heliosfs.core.radix import Leaf
from heliosfs.storage.pagecache import PageCache
from heliosfs.storage.pagestore import PageStore

ENCODED = 1000
WEIGHT = ENCODED * 7 + 400


def name(number: int) -> PageId:
    return PageId(number.to_bytes(32, "little"))


def node(number: int) -> Leaf:
    return Leaf([number], [number])


def made(pages_of_budget: int) -> PageCache:
    return PageCache(cast(PageStore, None), pages_of_budget * WEIGHT)


def keep(cache: PageCache, numbers: range) -> None:
    for number in numbers:
        cache.keep(name(number), node(number), ENCODED)


def test_an_absent_page_has_to_be_loaded() -> None:
    with pytest.raises(NeedPages) as caught:
        made(100).node(name(1))
    assert caught.value.ids == (name(1),)


def test_the_budget_is_kept_and_every_eviction_counted() -> None:
    cache = made(1000)
    keep(cache, range(5000))
    assert cache.used_bytes == len(cache) * WEIGHT <= cache.budget_bytes
    assert cache.evictions == 5000 - len(cache)
    assert len(cache) >= 499
    for number in range(4999, 4999 - 400, -1):
        assert cache.node(name(number)).keys == [number]


def test_what_is_asked_for_stays() -> None:
    cache = made(1000)
    keep(cache, range(100))
    for start in range(100, 10_000, 100):
        keep(cache, range(start, start + 100))
        for number in range(100):
            assert cache.node(name(number)).keys == [number]
    assert cache.hits == 99 * 100


def test_without_a_budget_a_call_s_own_pages_stay() -> None:
    cache = made(0)
    keep(cache, range(64))
    for number in range(64):
        assert cache.node(name(number)).keys == [number]
    keep(cache, range(64, 1000))
    assert len(cache) <= 128


def test_discarded_pages_are_gone_from_both_generations() -> None:
    cache = made(1000)
    dice = random.Random(1)
    kept: set[int] = set()
    for number in range(700):
        keep(cache, range(number, number + 1))
        kept.add(number)
        if dice.random() < 0.3:
            gone = dice.choice(sorted(kept))
            kept.discard(gone)
            cache.discard(name(gone))
            cache.discard(name(gone))
            with pytest.raises(NeedPages):
                cache.node(name(gone))
    assert cache.used_bytes == len(cache) * WEIGHT == len(kept) * WEIGHT
    assert cache.evictions == 0
