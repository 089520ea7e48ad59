"""What is stored: pages and records survive a round trip, and malformed bytes are refused, never crash."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliosfs.core import oplog, pages, radix
from heliosfs.core.directory import Dentry, name_key
from heliosfs.core.errors import Damaged, NeedPages
from heliosfs.core.extent import ChunkRef, Extent
from heliosfs.core.ids import Ino, Lsn, PageId, ino_of, node_id, view_of
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Branch, Leaf
from tests.support.corelab import CoreLab


def an_inode(ino: int = 7) -> Inode:
    inode = Inode(Ino(ino), Lsn(0), stat.S_IFREG | 0o4755, 1, 2, -5, nlink=3, rdev=9)
    inode.xattrs = {b"user.b": b"2", b"user.a": b"\0" * 300}
    inode.atime_set_ns = -1
    inode.size = inode.allocated = 40
    inode.tree = Leaf([0], [Extent(40, ChunkRef(bytes(32), 40), 0)])  # type: ignore[arg-type]
    return inode


def fields(inode: Inode) -> dict[str, object]:
    return {name: getattr(inode, name) for name in Inode.__slots__ if name != "tree"}


def test_an_inode_survives_a_round_trip() -> None:
    encoded = pages.encode(Leaf([7], [an_inode()]))
    node = pages.decode(encoded)
    assert isinstance(node, Leaf)
    inode = node.values[0]
    assert fields(inode) == fields(an_inode())
    assert inode.tree.values == an_inode().tree.values  # type: ignore[union-attr]
    assert pages.encode(node) == encoded
    assert repr(inode).startswith("<Inode 7 -rwsr-xr-x")


def test_a_page_id_tree_and_a_link_survive() -> None:
    inode = an_inode()
    inode.tree = PageId(b"p" * 32)
    link = Inode(Ino(8), Lsn(0), stat.S_IFLNK | 0o777, 0, 0, 1, target=b"to/where")
    node = pages.decode(pages.encode(Leaf([7, 8], [inode, link])))
    assert isinstance(node, Leaf)
    assert node.values[0].tree == b"p" * 32
    assert node.values[1].target == b"to/where"
    assert node.values[1].atime_set_ns is None


def test_dentries_with_equal_keys_survive() -> None:
    bucket = (Dentry(b"a", Ino(1), 4), Dentry(b"b", Ino(2), 8))
    other = (Dentry(b"\xff" * 255, Ino(3), 10),)
    node = pages.decode(pages.encode(Leaf([5, 6], [bucket, other])))
    assert isinstance(node, Leaf)
    assert node.values == [bucket, other]
    assert node.keys == [5, 6]


def test_a_branch_survives() -> None:
    kids: list[radix.Tree] = [None] * 16
    kids[3], kids[15] = PageId(b"x" * 32), PageId(b"y" * 32)
    node = pages.decode(pages.encode(Branch(56, 9, 100, kids)))
    assert isinstance(node, Branch)
    assert (node.shift, node.prefix, node.count, node.kids) == (56, 9, 100, kids)


GOOD = [
    pages.encode(Leaf([7], [an_inode()])),
    pages.encode(Leaf([5], [(Dentry(b"name", Ino(1), 4),)])),
    pages.encode(Leaf([0], [Extent(4, ChunkRef(bytes(32), 4), 0)])),  # type: ignore[arg-type]
    pages.encode(Branch(0, 0, 70, [PageId(bytes(32))] * 16)),
]


@given(st.sampled_from(GOOD), st.integers(0, 400), st.binary(max_size=8))
def test_malformed_pages_are_damage(good: bytes, at: int, noise: bytes) -> None:
    for bad in (good[:at], good + noise, good[:at] + noise + good[at + len(noise) :], noise):
        try:
            pages.decode(bad)
        except Damaged as error:
            assert error.errno == 5


def test_every_truncation_is_damage() -> None:
    for good in GOOD:
        for at in range(len(good)):
            with pytest.raises(Damaged):
                pages.decode(good[:at])
        with pytest.raises(Damaged):
            pages.decode(good + b"\0")


def test_every_record_survives_a_round_trip() -> None:
    for kind, cls in oplog.KINDS.items():
        ints = len(cls._fields) - cls._blob_count
        record = cls(*range(1, ints + 1), *[b"x" * n for n in range(cls._blob_count)])
        assert oplog.decode(kind, record.encode()) == record
        assert oplog.decode(kind, memoryview(record.encode())) == record
        with pytest.raises(oplog.BadRecord):
            oplog.decode(kind, record.encode() + b"x")
        with pytest.raises(oplog.BadRecord):
            oplog.decode(kind, b"")
    with pytest.raises(oplog.BadRecord):
        oplog.decode(255, b"")


def test_node_ids() -> None:
    node = node_id(5, 77)  # type: ignore[arg-type]
    assert (view_of(node), ino_of(node)) == (5, 77)
    assert name_key(b"x") >= 3


def test_cold_pages_are_asked_for_and_change_nothing() -> None:
    lab = CoreLab()
    for number in range(200):
        lab.make(lab.main, b"%d" % number, stat.S_IFREG | 0o644)
    lab.cut()
    lab.forget_decoded()
    lab.pages.cold = True
    end = lab.end
    with pytest.raises(NeedPages) as need:
        lab.unlink(lab.main, b"7")
    assert lab.end == end
    rounds = 0
    while True:
        try:
            lab.unlink(lab.main, b"7")
            break
        except NeedPages as more:
            rounds += 1
            for page_id in more.ids:
                lab.pages.decoded[page_id] = pages.decode(lab.pages.stored[page_id])
    assert 1 <= rounds <= 8
    assert need.value.ids
    lab.pages.cold = False
    lab.check()
