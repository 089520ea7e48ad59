"""Serves a MemoryFilesystem at a mountpoint until unmounted or SIGTERM.

`python -m tests.support.memory_daemon DIR [FLAG ...]`

Prints `ready` when mounted, `ended` when unmounted.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import trio

from heliosfs.transport.options import fuse_options
from heliosfs.transport.pyfuse3.session import Pyfuse3Session
from heliosfs.transport.registry import Registry
from tests.support.memory_control import MemoryControl
from tests.support.memory_tree import VIEW, MemoryFilesystem


async def main(mountpoint: Path, flags: list[str]) -> None:
    """Serve."""
    fs = MemoryFilesystem()
    options = fuse_options(Path("/a store"), flags, privileged=os.geteuid() == 0)
    session = Pyfuse3Session(
        fs, Registry(fs), lambda after, by_page: MemoryControl(fs, after), VIEW, mountpoint, options
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, session)
        await nursery.start(session.serve)
        print("ready", flush=True)
        while VIEW in fs.mounted_views:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    print("ended", flush=True)


async def _stop_on_signal(session: Pyfuse3Session) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            session.stop()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2:])
