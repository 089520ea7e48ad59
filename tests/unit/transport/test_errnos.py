"""The table from exceptions to errnos."""

from __future__ import annotations

import errno
import logging

import pytest

from heliosfs.core.errors import Damaged, FsError, StaleHandle
from heliosfs.transport import errnos


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errnos, "_remembered", set())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FsError(errno.EEXIST), errno.EEXIST),
        (StaleHandle(), errno.ESTALE),
        (Damaged("ab"), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "quota"), errno.EDQUOT),
        (OSError(errno.ENOENT, "a pack file is missing"), errno.EIO),
        (OSError("no errno"), errno.EIO),
        (MemoryError(), errno.ENOMEM),
        (KeyError("bug"), errno.EIO),
    ],
)
def test_errno(error: Exception, expected: int) -> None:
    assert errnos.errno_of(error, "read", 7) == expected


def test_what_is_refused_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    errnos.errno_of(FsError(errno.ENOENT), "lookup", 7)
    assert caplog.records == []


def test_damage_is_logged_with_its_object_loudly_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "heliosfs.transport")
    for _ in range(2):
        errnos.errno_of(Damaged("c0ffee", "wrong hash"), "read", 7)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.DEBUG]
    assert "c0ffee" in caplog.text
    assert "0x7" in caplog.text


def test_the_unexpected_is_logged_with_operation_and_node_and_one_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for node in (0x10, 0x11):
        errnos.errno_of(KeyError("bug"), "rename", node)
    assert [bool(record.exc_info) for record in caplog.records] == [True, False]
    assert "rename of node 0x10" in caplog.messages[0]
    assert "rename of node 0x11" in caplog.messages[1]
