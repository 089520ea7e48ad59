"""Lookup counts."""

from __future__ import annotations

from heliosfs.core.ids import Ino, ViewNo, node_id
from heliosfs.transport.lookups import LookupTable, UncountedLookups

A = node_id(ViewNo(3), Ino(7))
B = node_id(ViewNo(4), Ino(7))


def test_a_node_is_known_until_all_its_lookups_are_given_back() -> None:
    table = LookupTable()
    table.add(A)
    table.add(A)
    assert table.knows(A)
    assert not table.knows(B)
    assert not table.forget(A, 1)
    assert table.knows(A)
    assert table.forget(A, 1)
    assert not table.knows(A)
    assert len(table) == 0


def test_known_lists_one_view_and_is_a_copy() -> None:
    table = LookupTable()
    table.add(A)
    table.add(B)
    table.add(node_id(ViewNo(4), Ino(9)))
    known = table.known(ViewNo(4))
    table.forget(B, 1)
    assert sorted(known) == [7, 9]
    assert list(table.known(ViewNo(4))) == [9]
    assert list(table.known(ViewNo(5))) == []


def test_giving_back_what_was_never_taken_leaves_nothing_behind() -> None:
    table = LookupTable()
    assert table.forget(A, 1)
    table.add(A)
    assert table.forget(A, 5)
    assert not table.knows(A)
    table.add(A)
    assert table.forget(A, 1)


def test_drain_empties_the_table() -> None:
    table = LookupTable()
    table.add(A)
    table.add(B)
    table.add(B)
    assert sorted(table.drain()) == [A, B]
    assert len(table) == 0
    assert table.drain() == []


def test_counts_above_a_byte_are_kept() -> None:
    table = LookupTable()
    for _ in range(600):
        table.add(A)
    assert len(table) == 1
    assert not table.forget(A, 300)
    assert not table.forget(A, 299)
    assert table.knows(A)
    assert table.forget(A, 1)
    assert len(table) == 0
    assert table.forget(A, 1)


def test_what_another_process_has_counted_may_have_gone() -> None:
    """It is told of every change, but attributes are handed out as if it had none."""
    table = UncountedLookups()
    table.add(A)
    assert table.knows(A) and table.knows(B)
    assert not table.counts(A)
