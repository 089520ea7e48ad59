"""Following a log: what is replayed is what recovery would replay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from heliosfs.core.ids import Lsn
from heliosfs.storage.log import Log, LogFollower


def _opened(directory: Path) -> Log:
    return Log.open(
        directory, budget_bytes=1 << 20, start=Lsn(0), on_record=lambda *_: None, segment_bytes=32 * 1024
    )


def _followed(directory: Path) -> tuple[LogFollower, list[int]]:
    kinds: list[int] = []
    return LogFollower(directory, Lsn(0), lambda lsn, end, kind, body, place: kinds.append(kind)), kinds


def _append_none(log: Log) -> None:
    del log


def _append_one(log: Log) -> None:
    log.append(4, b"")
    log.append(5, b"")


@pytest.mark.parametrize(("then", "expected"), [(_append_none, [1]), (_append_one, [1, 4])])
def test_whole_records_behind_a_torn_one_do_not_count(
    tmp_path: Path, then: Callable[[Log], None], expected: list[int]
) -> None:
    """A power cut took from the middle: recovery has gone on in another life, from before that record."""
    log = _opened(tmp_path)
    log.append(1, b"")
    torn = log.append(2, b"", bytes(3000))
    log.append(3, b"")
    path = log.locate(torn.life)[0]
    log._close_files()
    with path.open("r+b") as file:
        file.seek(torn.offset)
        file.write(b"\xff" * 512)
    log = _opened(tmp_path)
    then(log)
    follower, kinds = _followed(tmp_path)
    while follower.advance(1):
        continue
    assert kinds == expected
    follower.close()
    log.close()
