"""What is asked of the kernel about cores that sleep: on which machines, how much, and for how long."""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path

import pytest

from heliosfs.transport.waking import WakeUps, shallow_us

ANY_US = 2**31 - 1


def said(device: Path) -> list[int]:
    """All that was written, in order (a device would keep the last)."""
    written = device.read_bytes()
    return list(struct.unpack(f"={len(written) // 4}i", written))


@pytest.fixture
def device(tmp_path: Path) -> Path:
    made = tmp_path / "cpu_dma_latency"
    made.touch()
    return made


def driver(tmp_path: Path, name: str) -> Path:
    made = tmp_path / "current_driver"
    made.write_text(name + "\n")
    return made


@pytest.mark.parametrize(
    ("name", "cores", "asked_us"),
    [("haltpoll", 2, 0), ("haltpoll", 64, None), ("intel_idle", 2, 2), ("acpi_idle", 256, 2), ("none", 2, None)],
)
def test_how_much_is_asked_for(tmp_path: Path, name: str, cores: int, asked_us: int | None) -> None:
    assert shallow_us(driver(tmp_path, name), cores) == asked_us


def test_a_kernel_without_idle_drivers_is_asked_for_nothing(tmp_path: Path, device: Path) -> None:
    wake_ups = WakeUps(device, tmp_path / "absent", 2)
    wake_ups.hasten()
    assert not wake_ups.quick
    wake_ups.relax()
    wake_ups.close()
    assert not said(device)


def test_it_is_asked_for_and_taken_back(tmp_path: Path, device: Path) -> None:
    wake_ups = WakeUps(device, driver(tmp_path, "haltpoll"), 2)
    assert not said(device)
    for _ in range(2):
        wake_ups.hasten()
        assert wake_ups.quick
        wake_ups.relax()
        wake_ups.relax()
        assert not wake_ups.quick
    assert said(device) == [0, ANY_US, 0, ANY_US]


def test_close_gives_the_descriptor_back_for_good(tmp_path: Path, device: Path) -> None:
    before = os.listdir("/proc/self/fd")
    wake_ups = WakeUps(device, driver(tmp_path, "haltpoll"), 2)
    wake_ups.hasten()
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    wake_ups.close()
    wake_ups.close()
    assert os.listdir("/proc/self/fd") == before
    wake_ups.hasten()
    assert said(device) == [0]


def test_who_may_not_ask_says_so_once_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wake_ups = WakeUps(tmp_path / "absent", driver(tmp_path, "haltpoll"), 2)
    for _ in range(3):
        wake_ups.hasten()
        wake_ups.relax()
    assert not wake_ups.quick
    assert len(caplog.records) == 1
