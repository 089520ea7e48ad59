"""Words for systemd, where it waits for them (Type=notify, WatchdogSec=). Source: sd_notify(3).

Imports the standard library alone.
"""

from __future__ import annotations

import os
import socket
from typing import Self


class ServiceManager:
    """Who started us and wants to be told.

    Args:
        address: Of its datagram socket, or None: nobody.
        every_s: How often to say that we are alive; 0: never.
    """

    __slots__ = ("_address", "_every_s", "_last")

    def __init__(self, address: str | None = None, every_s: float = 0.0) -> None:
        self._address = address
        self._every_s = every_s
        self._last = 0.0

    @classmethod
    def from_environment(cls) -> Self:
        """As NOTIFY_SOCKET and WATCHDOG_USEC say, which are taken away: they are for this process alone."""
        address = os.environ.pop("NOTIFY_SOCKET", None)
        patience_us = int(os.environ.pop("WATCHDOG_USEC", "0") or 0)
        os.environ.pop("WATCHDOG_PID", None)
        return cls(address, patience_us / 3e6)

    def ready(self, status: str) -> None:
        """The mount is live."""
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}")

    def status(self, status: str) -> None:
        """What there is to say."""
        self._send(f"STATUS={status}")

    def alive(self, now: float) -> None:
        """All is well, by the monotonic clock's `now`; said a few times in its patience."""
        if self._every_s and now - self._last >= self._every_s:
            self._last = now
            self._send("WATCHDOG=1", 0)

    @property
    def every_s(self) -> float:
        """How often to say that we are alive; 0: never."""
        return self._every_s

    def _send(self, text: str, patience_s: float = 1.0) -> None:
        """Say it, or not: a manager that does not listen must not keep a worker's death from being seen."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
            line.settimeout(patience_s)
            try:
                line.connect(address)
                line.send(text.encode())
            except OSError:
                return
