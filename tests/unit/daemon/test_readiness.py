"""The one word that a daemon sends when its mount is live, or why it is not."""

from __future__ import annotations

import os

import pytest

from heliosfs.daemon.errors import DaemonError
from heliosfs.daemon.readiness import Announcer, wait_ready


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def test_ready(pipe: tuple[int, int]) -> None:
    announcer = Announcer(pipe[1])
    announcer.ready()
    announcer.failed(DaemonError(12, "too late"))
    assert wait_ready(pipe[0], 5)
    assert os.read(pipe[0], 10) == b""
    os.close(pipe[0])


def test_failed(pipe: tuple[int, int]) -> None:
    Announcer(pipe[1]).failed(DaemonError(11, "in use by process 7"))
    with pytest.raises(DaemonError, match="in use by process 7") as caught:
        wait_ready(pipe[0], 5)
    assert caught.value.exit_code == 11
    os.close(pipe[0])


def test_death_without_a_word(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    assert not wait_ready(pipe[0], 5)
    os.close(pipe[0])


def test_silence(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b'{"ok": ')
    with pytest.raises(DaemonError, match="not ready"):
        wait_ready(pipe[0], 0.05)
    for descriptor in pipe:
        os.close(descriptor)


def test_nobody_waits(pipe: tuple[int, int]) -> None:
    Announcer(None).ready()
    os.close(pipe[0])
    Announcer(pipe[1]).ready()
