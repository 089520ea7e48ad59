"""Words for systemd."""

from __future__ import annotations

import socket
from pathlib import Path

from heliosfs.daemon.sdnotify import ServiceManager


def test_a_manager_that_does_not_listen_holds_nobody_up(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(address)
        manager = ServiceManager(address, 1.0)
        for now in range(1, 2000):
            manager.alive(now)
        manager.status("full")
        assert line.recv(100) == b"WATCHDOG=1"
