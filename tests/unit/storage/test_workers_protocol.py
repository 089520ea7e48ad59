"""What is packed on one side of the socket is unpacked on the other."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas.digest import ChunkId
from cas.packs import Place, Stored
from heliosfs.storage.workers import CutResult, ScannedNode, StoredFile
from heliosfs.storage.workers import protocol as p
from heliosfs.storage.workers.jobs import ScanWarning

ids = st.binary(min_size=32, max_size=32).map(ChunkId)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
failures = st.tuples(st.integers(1, 200), st.text(max_size=20))
names = st.binary(max_size=255)

cut_results = st.builds(CutResult, st.lists(st.tuples(ids, u32)).map(tuple), u64)
file_results = st.builds(StoredFile, u64, i64, i64, st.booleans(), st.lists(st.tuples(u64, u32, ids)))
nodes = st.builds(
    ScannedNode,
    i64, names, u32, u32, u32, u64, u64, i64, i64, u64, u64, u32,
    st.lists(st.tuples(names, st.binary(max_size=300))).map(tuple),
    st.binary(max_size=4000),
)  # fmt: skip


@given(st.lists(cut_results | failures))
def test_cut_results(results: list[CutResult | p.Failure]) -> None:
    assert [r for r in p.read_cut_results(p.cut_results_body(results)) if r is not None] == results


@given(st.lists(file_results | failures))
def test_file_results(results: list[StoredFile | p.Failure]) -> None:
    assert [r for r in p.read_file_results(p.file_results_body(results)) if r is not None] == results


def test_long_results_come_in_steps() -> None:
    pieces = tuple((ChunkId(struct.pack("<I28x", n)), n) for n in range(3000))
    found = list(p.read_cut_results(p.cut_results_body([CutResult(pieces, 1)])))
    assert found == [None, None, CutResult(pieces, 1)]
    extents = [(n, n, id_) for id_, n in pieces]
    files = list(p.read_file_results(p.file_results_body([StoredFile(1, 2, 3, False, extents)])))
    assert files == [None, None, StoredFile(1, 2, 3, False, extents)]


@given(st.lists(nodes), st.lists(st.builds(ScanWarning, names, st.integers(0, 200), st.text(max_size=50))))
def test_scanned(found: list[ScannedNode], warnings: list[ScanWarning]) -> None:
    assert p.read_scanned(p.scanned_body(found, warnings)) == (found, warnings)


@given(st.lists(st.builds(Stored, ids, st.builds(Place, u32, u64, u32), u32)))
def test_stored(entries: list[Stored]) -> None:
    assert p.read_stored(p.stored_body(entries)) == entries


@given(st.lists(ids))
def test_ids(asked: list[ChunkId]) -> None:
    assert p.ids_of(b"".join(asked)) == asked


@given(st.lists(st.binary(max_size=300)))
def test_paths(paths: list[bytes]) -> None:
    assert p.read_files(p.files_body(paths)) == paths


@given(failures)
def test_failure(failure: p.Failure) -> None:
    assert p.read_failure(p.failure(*failure)) == failure


def test_a_path_that_no_call_would_take_is_cut_short() -> None:
    assert p.read_files(p.files_body([b"x" * 70_000, b"y"])) == [b"x" * 65_535, b"y"]


def test_surrogates_in_reasons_do_not_stop_a_job() -> None:
    ((number, reason),) = p.read_cut_results(p.cut_results_body([(5, "log \udcff")]))  # type: ignore[misc]
    assert number == 5 and "udcff" in str(reason)


def test_a_truncated_message_is_refused() -> None:
    body = p.cut_results_body([CutResult(((ChunkId(bytes(32)), 1),), 1)])
    with pytest.raises(struct.error):
        list(p.read_cut_results(body[:-1]))
