"""A supervisor for a worker that has lost its own.

The worker is no child of the new one's, so that one learns its status from the pidfd alone (staff.py). Must not
know: what is kept.
"""

from __future__ import annotations

import os
import subprocess
import sys

from heliosfs.daemon.spawn import python_path


def start_supervisor(
    store: str, mountpoint: str, options: str, restarts: int, foreground: bool, line: int
) -> subprocess.Popen[bytes]:
    """Start it, for a store that is being served; returns at once.

    Args:
        restarts: Workers that have died before.
        line: A descriptor of its end of the line to the worker; stays the caller's.

    Raises:
        OSError: It can't be started.
    """
    command = [sys.executable, "-P", "-m", "heliosfs.daemon.supervisor"]
    command += [f"--worker-fd={line}", f"--options={options}", f"--restarts={restarts}"]
    command += ["--foreground"] if foreground else []
    return subprocess.Popen(
        [*command, "--", store, mountpoint],
        stdin=subprocess.DEVNULL,
        pass_fds=(line,),
        start_new_session=not foreground,
        env={**os.environ, "PYTHONPATH": python_path()},
    )
