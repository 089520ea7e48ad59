"""A store of packs against a dict: put, sync, close, lose the unsynced, reopen."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cas.digest import ChunkId, chunk_id
from cas.packstore import PackStore


def content(number: int) -> bytes:
    random_ = random.Random(number)
    size = random_.choice([0, 1, 100, 1500, 6000, 70_000])
    return random_.randbytes(size) if number % 2 else (b"%d " % number * size)[:size]


class StoreMachine(RuleBasedStateMachine):
    """`synced` must be there whatever happens; `put` must be there while the store is open."""

    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="heliosfs-test-"))
        self.store = PackStore.open(self.directory / "store")
        self.put: dict[ChunkId, bytes] = {}
        self.synced: set[ChunkId] = set()

    @rule(numbers=st.lists(st.integers(0, 60), max_size=12))
    def put_many(self, numbers: list[int]) -> None:
        data = [content(number) for number in numbers]
        ids = self.store.put_many(data)
        assert ids == [chunk_id(chunk) for chunk in data]
        self.put.update(zip(ids, data, strict=True))

    @rule()
    def sync(self) -> None:
        self.store.sync()
        self.synced = set(self.put)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.synced = set(self.put)
        self.store = PackStore.open(self.directory / "store")

    @rule()
    def copy_without_closing(self) -> None:
        """What another process finds after this one was killed: everything synced, and sums to match."""
        copy = self.directory / "copy"
        shutil.copytree(self.directory / "store", copy)
        other = PackStore.open(copy)
        try:
            assert all(other.has_many(list(self.synced)))
            found = list(other.index.entries())
            for entry in found:
                assert other.get(entry.id) == self.put[entry.id]
            stats = other.stats()
            assert stats.chunks == len(found)
            assert stats.stored_bytes == sum(entry.place.length for entry in found)
            assert stats.raw_bytes == sum(entry.raw_length for entry in found)
        finally:
            other.close()
            shutil.rmtree(copy)

    @invariant()
    def all_there(self) -> None:
        if not hasattr(self, "put"):
            return
        for id, data in self.put.items():
            assert self.store.get(id) == data
        stats = self.store.stats()
        assert stats.chunks == len(self.put)
        assert stats.raw_bytes == sum(map(len, self.put.values()))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.directory)


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
TestStore = StoreMachine.TestCase
