"""Pages and records: any bytes are a value or the documented error, with memory and depth that they justify."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from heliosfs.core import oplog, pages
from heliosfs.core.errors import Damaged
from heliosfs.core.ids import Ino, Lsn
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Branch, Leaf
from tests.support.mutation import fuzzed, memory_below

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "pages"
SEEDS = [(GOLDEN / name).read_bytes() for name in ("branch", "dentries", "extents", "inodes")]


def decoded(data: bytes) -> None:
    with memory_below(200_000 + 400 * len(data)):
        try:
            node = pages.decode(data)
        except Damaged as damaged:
            assert damaged.errno == 5
            return
    if isinstance(node, Branch):
        assert len(node.kids) == 16
    else:
        assert isinstance(node, Leaf) and len(node.keys) == len(node.values) > 0
        assert node.keys == sorted(set(node.keys))
    # What was taken for a page can be written again.
    assert isinstance(pages.encode(node), bytes)


@fuzzed("pages", SEEDS)
def test_pages(data: bytes) -> None:
    """See the module."""
    decoded(data)


def nested(levels: int) -> bytes:
    """An inode whose inline tree is an inode whose inline tree is ..."""
    page = SEEDS[1]
    for _ in range(levels):
        blob = page
        fixed = struct.pack("<QIIIIQqqqqIQQBHII", 1, 0o40755, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, len(blob))
        page = struct.pack("<BBH", ord("I"), 0, 1) + fixed + blob
    return page


@pytest.mark.parametrize("levels", [2, 40, 3000])
def test_inline_trees_do_not_nest(levels: int) -> None:
    with pytest.raises(Damaged):
        pages.decode(nested(levels))


def test_an_inline_tree_is_no_longer_than_the_format_says() -> None:
    inode = Inode(Ino(5), Lsn(0), 0o40755, 0, 0, 1)
    pages.decode(pages.encode(Leaf([5], [inode])))
    with pytest.raises(Damaged):
        pages.decode(
            struct.pack("<BBH", ord("I"), 0, 1)
            + struct.pack("<QIIIIQqqqqIQQBHII", 1, 0o40755, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 31)
            + bytes(31)
        )


def _records() -> list[bytes]:
    """A record of each kind, its kind before it."""
    seeds = []
    for kind, cls in sorted(oplog.KINDS.items()):
        integers = len(cls._fields) - cls._blob_count
        record = cls(*range(1, integers + 1), *[b"name%d" % n for n in range(cls._blob_count)])
        seeds.append(bytes([kind]) + record.encode())
    return seeds


@fuzzed("records", _records())
def test_records(data: bytes) -> None:
    """Kind, then body."""
    with memory_below(100_000 + 4 * len(data)):
        try:
            record = oplog.decode(data[0] if data else 0, memoryview(data[1:]))
        except oplog.BadRecord:
            return
    assert record.encode() == data[1:]
