"""A process with everything imported, which forks a worker whenever the supervisor wants one.

Importing takes 200 to 400 ms, a fork 5; opening a store with a short log takes 20. It has one thread, no lock and
no descriptor of /dev/fuse, so a fork inherits nothing that matters. Not for users: `heliosfs mount` is.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heliosfs.daemon.takeover import Order, Supervised


def main(arguments: list[str]) -> int:
    """Fork workers until the supervisor is gone; in a worker, serve until unmounted. The exit code."""
    parser = argparse.ArgumentParser(prog="heliosfs.daemon.standby")
    parser.add_argument("--line", type=int, required=True)
    given = parser.parse_args(arguments)
    line = socket.socket(fileno=given.line)
    os.set_inheritable(given.line, False)
    os.chdir("/")
    from heliosfs.daemon import words

    try:
        preload()
    except ImportError as error:
        words.say(line, {"say": "failed", "exit": 1, "error": f"can't start: {error}"})
        return 1
    worker = forked(line)
    if worker is None:
        return 0
    from heliosfs.daemon.takeover import Supervised

    supervised = Supervised(worker)
    order = supervised.begin()
    return 0 if order is None else serve(supervised, order)


def preload() -> None:
    """Import all that a worker needs, and let the collector look at none of it again."""
    from heliosfs.daemon import run, takeover
    from heliosfs.transport.session import session_class

    assert run and takeover
    session_class("kernel")
    gc.collect()
    gc.freeze()


def forked(line: socket.socket) -> socket.socket | None:
    """Fork whenever asked. In a worker: its own line to the supervisor. None: the supervisor is gone."""
    from heliosfs.daemon import words

    words.say(line, {"say": "standing_by"})
    while True:
        heard = words.hear(line)
        if heard is None:
            return None
        (fd,) = heard[1]
        # Twice, so that the worker becomes a child of the supervisor's, who reaps it and has its status.
        child = os.fork()
        if not child:
            if os.fork():
                os._exit(0)
            line.close()
            return socket.socket(fileno=fd)
        os.waitpid(child, 0)
        os.close(fd)


def serve(supervised: Supervised, order: Order) -> int:
    """Be the worker."""
    from heliosfs.daemon.errors import DaemonError
    from heliosfs.daemon.options import MountOptions
    from heliosfs.daemon.run import run

    options = MountOptions.from_json(order.options)
    try:
        run(
            Path(order.store),
            Path(order.mountpoint),
            options,
            announcer=supervised,
            foreground=order.foreground,
        )
    except DaemonError as error:
        return error.exit_code
    supervised.ended()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
