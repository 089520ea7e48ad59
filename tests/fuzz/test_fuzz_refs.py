"""Refs: whatever the database holds under their keys, loading is an engine or damage."""

from __future__ import annotations

from pathlib import Path

from heliosfs.core.engine import Engine
from heliosfs.core.errors import Damaged, NeedPages
from heliosfs.core.ids import PageId
from heliosfs.core.radix import Node
from heliosfs.storage import refstore
from tests.support.mutation import fuzzed, memory_below

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "refs" / "refs.txt"


class _NoPages:
    def node(self, page_id: PageId) -> Node:
        raise NeedPages((page_id,))


class _Iterator:
    """As much of RocksDB's as refs use."""

    def __init__(self, records: list[tuple[bytes, bytes]]) -> None:
        self._records = sorted(records)
        self._at = 0

    def seek(self, key: bytes) -> None:
        self._at = next((n for n, (k, _) in enumerate(self._records) if k >= key), len(self._records))

    def seek_for_prev(self, key: bytes) -> None:
        self._at = max((n for n, (k, _) in enumerate(self._records) if k <= key), default=-1)

    def valid(self) -> bool:
        return 0 <= self._at < len(self._records)

    def key(self) -> bytes:
        return self._records[self._at][0]

    def value(self) -> bytes:
        return self._records[self._at][1]

    def next(self) -> None:
        self._at += 1

    def prev(self) -> None:
        self._at -= 1

    def status(self) -> None:
        pass


class _Database:
    def __init__(self, text: bytes) -> None:
        self.records: dict[bytes, bytes] = {}
        for line in text.splitlines():
            key, _, value = line.partition(b" ")
            try:
                self.records[bytes.fromhex(key.decode("ascii"))] = value
            except ValueError:
                continue

    def get(self, key: bytes) -> bytes | None:
        return self.records.get(key)

    def iter(self) -> _Iterator:
        return _Iterator(list(self.records.items()))


DEEP = b"[" * 100_000
SEEDS = [
    GOLDEN.read_bytes(),
    GOLDEN.read_bytes().replace(b'"parent":1', b'"parent":2'),
    GOLDEN.read_bytes().replace(b'"parent":0', b'"parent":1'),
    GOLDEN.read_bytes().replace(b'"files":', b'"files":' + DEEP),
    GOLDEN.read_bytes().replace(b'"root":"', b'"root":"00'),
    GOLDEN.read_bytes().replace(b'"view":', b'"view":-'),
    GOLDEN.read_bytes().replace(b'"generations":[', b'"generations":[[1],'),
]


@fuzzed("refs", SEEDS)
def test_refs(data: bytes) -> None:
    """A line a record: the key in hexadecimal, the value."""
    db = _Database(data)
    engine = Engine(_NoPages())
    with memory_below(2_000_000 + 200 * len(data)):
        try:
            stored = refstore.load(db, engine)  # type: ignore[arg-type]
        except Damaged:
            stored = None
            engine = None  # type: ignore[assignment]
        try:
            lines = refstore.events(db, 100)  # type: ignore[arg-type]
            refstore.events_of(db, "main", 0, 100)  # type: ignore[arg-type]
        except Damaged:
            lines = []
    assert all(isinstance(line, dict) for line in lines)
    if stored is not None and engine is not None:
        assert engine.main is not None and engine.main.view in engine.branches
        for branch in engine.branches.values():
            assert branch.path and branch.head.base is not None
            assert {snapshot.branch for snapshot in branch.by_id.values()} <= {branch.id}


def test_a_cycle_of_branches_is_damage() -> None:
    for seed in SEEDS[1:]:
        try:
            assert refstore.load(_Database(seed), Engine(_NoPages())) is not None  # type: ignore[arg-type]
        except Damaged:
            continue
        raise AssertionError(seed[:200])
