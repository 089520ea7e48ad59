"""Which view is which snapshot's."""

from __future__ import annotations

import stat

from heliosfs.control.snapshotroots import SnapshotRoots
from heliosfs.core.ids import ROOT_INO, ViewNo, node_id
from heliosfs.filesystem.types import Entry
from tests.support.fake_filesystem import FakeNode

MAIN, EXP = ViewNo(1), ViewNo(2)


def _entry(view: int) -> Entry:
    return Entry(node_id(ViewNo(view), ROOT_INO), FakeNode(stat.S_IFDIR | 0o755))


def test_found_both_ways() -> None:
    roots = SnapshotRoots()
    entry = _entry(9)
    roots.add(MAIN, b"v1", entry)
    assert roots.find(MAIN, b"v1") is entry
    assert roots.find(EXP, b"v1") is None
    assert roots.owner(ViewNo(9)) == (MAIN, b"v1")
    assert roots.owner(ViewNo(8)) is None


def test_a_rename_moves_both_ways() -> None:
    roots = SnapshotRoots()
    entry = _entry(9)
    roots.add(MAIN, b"v1", entry)
    roots.rename(MAIN, b"v1", b"v2")
    roots.rename(MAIN, b"never seen", b"v3")
    assert roots.find(MAIN, b"v1") is None
    assert roots.find(MAIN, b"v2") is entry
    assert roots.owner(ViewNo(9)) == (MAIN, b"v2")
    assert roots.find(MAIN, b"v3") is None


def test_dropped_alone_and_with_the_branch() -> None:
    roots = SnapshotRoots()
    for view, (branch, name) in enumerate([(MAIN, b"a"), (MAIN, b"b"), (EXP, b"a")], 10):
        roots.add(branch, name, _entry(view))
    roots.drop(MAIN, b"a")
    roots.drop(MAIN, b"a")
    assert roots.owner(ViewNo(10)) is None and roots.find(MAIN, b"a") is None
    roots.drop_branch(MAIN)
    assert roots.owner(ViewNo(11)) is None
    assert roots.owner(ViewNo(12)) == (EXP, b"a")
