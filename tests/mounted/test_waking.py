"""Whoever serves keeps cores from halting under load, and neither before nor after it."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path

import pytest

from heliosfs.transport.waking import DEVICE, DRIVER, shallow_us
from tests.support.mounts import MountedStore, Mounts, wait_until

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(
        not os.access(DEVICE, os.W_OK) or shallow_us(DRIVER, os.cpu_count() or 1) is None,
        reason="nothing can be asked for, or it would not help",
    ),
]


def has_asked(mount: MountedStore) -> bool:
    """Whether the process that serves has the device open."""
    for fd in Path(f"/proc/{mount.worker()}/fd").iterdir():
        with suppress(OSError):
            if os.readlink(fd) == str(DEVICE):
                return True
    return False


def asked_us() -> int:
    """The least that anybody asks for now: other tests' mounts, too."""
    answer: int = struct.unpack("=i", DEVICE.read_bytes())[0]
    return answer


def asks_under_load(mount: MountedStore) -> bool:
    for _ in range(200):
        os.chmod(mount.point / "f", 0o600)
    return has_asked(mount)


def test_cores_are_kept_awake_under_load_alone(mounts: Mounts, transport: str) -> None:
    with mounts.mounted(transport) as mount:
        (mount.point / "f").touch()
        assert not has_asked(mount), "a few requests are no load"
        wait_until(lambda: asks_under_load(mount), "its word")
        wait_until(lambda: asked_us() > 1_000_000, "taken back")
        assert has_asked(mount)


def test_they_are_not_where_asked_not_to(mounts: Mounts, transport: str) -> None:
    with mounts.mounted(transport, "pm_qos=no") as mount:
        (mount.point / "f").touch()
        for _ in range(10):
            assert not asks_under_load(mount)
