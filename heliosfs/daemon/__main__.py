"""The daemon's process, as `spawn` starts it. Not for users: `heliosfs mount` is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from heliosfs.daemon.errors import DaemonError
from heliosfs.daemon.options import MountOptions
from heliosfs.daemon.readiness import Announcer


def main(words: list[str]) -> int:
    """Serve until unmounted; returns the exit code."""
    parser = argparse.ArgumentParser(prog="heliosfs.daemon")
    parser.add_argument("--ready-fd", type=int, default=None)
    parser.add_argument("--options", type=MountOptions.from_json, default=MountOptions())
    parser.add_argument("store", type=Path)
    parser.add_argument("mountpoint", type=Path)
    given = parser.parse_args(words)
    announcer = Announcer(given.ready_fd)
    # Imported only now: whoever waits must hear of a missing libfuse, too.
    try:
        from heliosfs.daemon.run import run
    except ImportError as error:
        refusal = DaemonError(1, f"can't start: {error}")
        announcer.failed(refusal)
        return refusal.exit_code
    try:
        run(given.store, given.mountpoint, given.options, announcer=announcer)
    except DaemonError as error:
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
