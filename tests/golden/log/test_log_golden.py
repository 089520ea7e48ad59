"""The segment file of format version 0: written the same by today's code, and read by it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from heliosfs.core.ids import Lsn
from heliosfs.storage.log import Log, Place

FIXTURE = Path(__file__).parent / "seg-0001"
DOCUMENT = FIXTURE.parents[3] / "docs" / "format" / "log.md"
SEGMENT = 8192
RECORDS = [(1, b"a record without payload", b""), (2, b"", b"payload"), (3, b"both", bytes(range(256)) * 2)]


def open_log(directory: Path, seen: list[tuple[int, bytes, Place]]) -> Log:
    return Log.open(
        directory,
        budget_bytes=1 << 20,
        start=Lsn(0),
        on_record=lambda lsn, end, kind, body, place: seen.append((kind, bytes(body), place)),
        segment_bytes=SEGMENT,
    )


def write(directory: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The segment that `FIXTURE` holds, made now."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", lambda count: bytes(range(count)))
        log = open_log(directory, [])
    log.epoch, log.connection, log.request = 4, 5, 6
    for number, (kind, body, payload) in enumerate(RECORDS):
        log.append(kind, body, payload)
        if number == 0:
            log.sync()
    log.close()
    return (directory / "seg-0001").read_bytes()


def test_written_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write(tmp_path, monkeypatch) == FIXTURE.read_bytes()


def test_read_as_ever(tmp_path: Path) -> None:
    shutil.copy(FIXTURE, tmp_path)
    seen: list[tuple[int, bytes, Place]] = []
    log = open_log(tmp_path, seen)
    assert [(kind, body) for kind, body, _ in seen] == [(kind, body) for kind, body, _ in RECORDS]
    for (_, _, place), (_, _, payload) in zip(seen, RECORDS, strict=True):
        assert log.read_blocks(place.life, place.offset, place.length, place.sums, 0, place.length) == payload
    log.close()


def test_document_shows_the_fixture() -> None:
    data = FIXTURE.read_bytes()
    shown = re.findall(r"^    ([0-9a-f]{4}): ((?:[0-9a-f]{2,4} ?)+)", DOCUMENT.read_text(), re.M)
    assert len(shown) >= 15
    for at, text in shown:
        part = bytes.fromhex(text)
        assert data[int(at, 16) :][: len(part)] == part, f"at {at}"
