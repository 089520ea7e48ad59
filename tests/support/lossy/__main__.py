"""`python -m tests.support.lossy MOUNTPOINT SOCKET`: serves until its standard input ends."""

from __future__ import annotations

import os
import sys

import pyfuse3
import trio

from tests.support.lossy.control import serve
from tests.support.lossy.filesystem import LossyFilesystem


async def _main(mountpoint: str, path: str) -> None:
    filesystem = LossyFilesystem()
    options = {*pyfuse3.default_options, "fsname=lossy", "subtype=lossy"}
    pyfuse3.init(filesystem, mountpoint, options)
    try:
        socket = trio.socket.socket(trio.socket.AF_UNIX)
        await socket.bind(path)
        socket.listen(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, filesystem, trio.SocketListener(socket))
            nursery.start_soon(pyfuse3.main)
            print("ready", flush=True)
            # Whoever started this is gone when its end of the pipe is.
            await trio.to_thread.run_sync(os.read, 0, 1, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    trio.run(_main, *sys.argv[1:])
