"""Serves a store through our own session, and says how many inodes the kernel is taken to know.

`python -m tests.support.kernel_daemon STORE MOUNTPOINT`: prints `ready` when mounted, then a number for each
line on its input; ends with it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from heliosfs.control.tree import ControlTree
from heliosfs.core.ids import ViewNo
from heliosfs.filesystem import open_filesystem
from heliosfs.transport.kernel.session import KernelSession
from heliosfs.transport.options import fuse_options
from heliosfs.transport.registry import Registry
from heliosfs.transport.requests import DeferWork


async def main(store: Path, mountpoint: Path) -> None:
    """Serve."""
    async with open_filesystem(store, create=True) as fs:

        def make_control(after_reply: DeferWork, by_page: bool) -> ControlTree:
            return ControlTree(fs, visible=False, after_reply=after_reply, by_page=by_page)

        registry = Registry(fs)
        options = fuse_options(store, (), privileged=os.geteuid() == 0)
        session = KernelSession(fs, registry, make_control, ViewNo(1), mountpoint, options)
        async with trio.open_nursery() as nursery:
            await nursery.start(session.serve)
            print("ready", flush=True)
            while await trio.to_thread.run_sync(sys.stdin.readline):
                print(sum(map(len, registry._sessions)), flush=True)
            session.stop()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
