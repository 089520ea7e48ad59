"""L1 against a dumber account of the same events: sums true, budget kept, nothing invented."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cas.cache import ChunkCache
from cas.digest import ChunkId, chunk_id

LENGTHS = [0, 1, 3, 10, 10, 10, 25, 40, 60, 100, 250]
CONTENTS = [bytes([number]) * length for number, length in enumerate(LENGTHS)]
IDS = [chunk_id(content) for content in CONTENTS]
BUDGETS = st.sampled_from([0, 3, 40, 100, 101, 400, 1000])
NUMBERS = st.integers(0, len(CONTENTS) - 1)


class CacheMachine(RuleBasedStateMachine):
    """`maybe` holds every id that may be cached: entered, and not dropped by name since."""

    @initialize(budget=BUDGETS)
    def start(self, budget: int) -> None:
        self.cache = ChunkCache(budget)
        self.budget = budget
        self.maybe: set[ChunkId] = set()
        self.gets = self.hits = self.entered = self.dropped = 0

    @rule(number=NUMBERS)
    def get(self, number: int) -> None:
        data = self.cache.get(IDS[number])
        self.gets += 1
        if data is not None:
            self.hits += 1
            assert data == CONTENTS[number]
            assert IDS[number] in self.maybe

    @rule(number=NUMBERS)
    def put_after_a_miss(self, number: int) -> None:
        id, content = IDS[number], CONTENTS[number]
        self.gets += 1
        if self.cache.get(id) is not None:
            self.hits += 1
            self.cache.put(id, content)
            return
        before = self.cache.stats()
        self.cache.put(id, content)
        after = self.cache.stats()
        if len(content) * 4 > self.budget:
            assert after == before
            return
        self.entered += 1
        self.maybe.add(id)
        assert self.cache.get(id) == content
        self.gets += 1
        self.hits += 1

    @rule(number=NUMBERS)
    def discard(self, number: int) -> None:
        before = len(self.cache)
        self.cache.discard(IDS[number])
        self.dropped += before - len(self.cache)
        self.maybe.discard(IDS[number])

    @rule(budget=BUDGETS)
    def resize(self, budget: int) -> None:
        self.budget = budget
        self.cache.resize(budget)

    @rule()
    def clear(self) -> None:
        self.dropped += len(self.cache)
        self.cache.clear()
        self.maybe.clear()

    @invariant()
    def counters_are_true(self) -> None:
        stats = self.cache.stats()
        assert stats.hits == self.hits
        assert stats.misses == self.gets - self.hits
        assert stats.evictions == self.entered - self.dropped - stats.chunks
        assert stats.bytes <= stats.budget_bytes == self.budget
        queues = (self.cache._trial, self.cache._proven)
        assert stats.bytes == sum(len(data) for queue in queues for data in queue.values())
        assert stats.chunks == sum(map(len, queues))
        assert self.cache._proven_bytes == sum(map(len, self.cache._proven.values()))


CacheMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestCache = CacheMachine.TestCase
