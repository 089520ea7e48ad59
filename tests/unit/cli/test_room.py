"""`mount` starts a daemon that fits into the memory there is."""

from __future__ import annotations

import pytest

from heliosfs.cli import mounting
from heliosfs.daemon import room, spawn
from heliosfs.daemon.options import MountOptions


@pytest.mark.parametrize(("limit", "follow"), [(200 << 20, False), (2 << 30, True)])
def test_a_daemon_is_told_what_to_leave_out(monkeypatch: pytest.MonkeyPatch, limit: int, follow: bool) -> None:
    told: list[MountOptions] = []
    monkeypatch.setattr(room, "memory_limit", lambda: limit)
    monkeypatch.setattr(mounting, "join_daemon", lambda *asked: False)
    monkeypatch.setattr(spawn, "start", lambda store, mountpoint, options: told.append(options))
    mounting.start(b"/nowhere/store", b"/nowhere/mnt", MountOptions(branch="exp"))
    assert [(options.branch, options.follow) for options in told] == [("exp", follow)]
