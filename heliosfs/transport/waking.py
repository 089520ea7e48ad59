"""Keeps cores from halting while requests follow each other closely.

A call on a FUSE filesystem sleeps, and so does whoever serves; the core that has nothing else to do halts. To wake
it takes microseconds on bare metal. In a virtual machine a halt goes to the hypervisor, which lets others run: a
create, which waits for four requests, took 476 us with that and 187 without (docs/performance.md). Linux lets a
process say how long a core may take to wake up (PM QoS, Documentation/power/pm_qos_interface.rst:
/dev/cpu_dma_latency); its word counts while the descriptor is open, so that a death ends it.

Invariants: nothing is asked for while nothing is served. Imports the standard library alone. Must not know: what a
request is.
"""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path
from typing import Final

_log = logging.getLogger("heliosfs.transport")

DEVICE: Final = Path("/dev/cpu_dma_latency")
DRIVER: Final = Path("/sys/devices/system/cpu/cpuidle/current_driver")
_VALUE: Final = struct.Struct("=i")
_ANY_US: Final = 2**31 - 1
_SHALLOW_US: Final = 2
"""Lets a core halt, but not sleep deeper than that: C1 of any x86 processor."""
_CORES_MAX: Final = 16
"""In a larger virtual machine too many cores would poll for one client."""


class WakeUps:
    """This process's word on how long a core may take to wake up.

    Without the device or the permission (it is root's), or where it would not help, nothing happens.

    Attributes:
        quick: Whether it is asked for now.
    """

    def __init__(self, device: Path = DEVICE, driver: Path = DRIVER, cores: int | None = None) -> None:
        self._device = device
        self._latency_us = shallow_us(driver, (os.cpu_count() or 1) if cores is None else cores)
        self._fd = -1
        self.quick = False

    def hasten(self) -> None:
        """Have cores wake up at once, until `relax`. 15 to 60 us: it wakes those that sleep."""
        if self._latency_us is None:
            return
        try:
            if self._fd < 0:
                self._fd = os.open(self._device, os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._fd, _VALUE.pack(self._latency_us))
        except OSError as error:
            _log.info("cores may sleep between requests: %s", error)
            self.close()
            return
        self.quick = True

    def relax(self) -> None:
        """Let them sleep as they like. 10 us."""
        if self.quick:
            self.quick = False
            os.write(self._fd, _VALUE.pack(_ANY_US))

    def close(self) -> None:
        """Ask for nothing any more. Idempotent."""
        self.quick = False
        self._latency_us = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def shallow_us(driver: Path, cores: int) -> int | None:
    """What to ask for, in microseconds; None: nothing.

    0 keeps cores from halting, which is what costs in a virtual machine (there the kernel's driver is haltpoll):
    they poll instead, and the hypervisor sees them busy. Elsewhere a light sleep is as good, and saves power.
    """
    try:
        name = driver.read_text().strip()
    except OSError:
        return None
    if name in ("", "none"):
        return None
    if name != "haltpoll":
        return _SHALLOW_US
    return 0 if cores <= _CORES_MAX else None
