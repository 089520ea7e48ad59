"""Starts the daemon's process from the command line and waits until its mount is live.

Invariants: the daemon inherits no descriptor but the pipe on which it says that it is ready; if this call
fails, no daemon is left. Imports neither trio nor pyfuse3.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Final

import heliosfs
from heliosfs.daemon import mountpoint as mountpoints
from heliosfs.daemon.errors import FAILED, DaemonError
from heliosfs.daemon.options import MountOptions
from heliosfs.daemon.readiness import wait_ready

_READY_S: Final = 120.0
"""Opening replays the log: a full one (1 GiB) takes a while."""
_END_S: Final = 10.0


def start(store: Path, mountpoint: Path, options: MountOptions, *, timeout_s: float = _READY_S) -> Path:
    """Mount a store's branch in a process of its own; returns when the mount is live.

    Args:
        store: An existing store.
        mountpoint: An empty directory; a dead mount on it is removed first.
        timeout_s: How long the daemon may take.

    Returns:
        The mountpoint, absolute and without symlinks.

    Raises:
        DaemonError: With the exit code to use; no daemon is left then.
    """
    store = Path(os.path.realpath(store))
    mountpoint = mountpoints.prepare(mountpoint, nonempty=options.nonempty)
    ours, theirs = os.pipe()
    try:
        with tempfile.TemporaryFile() as said:
            try:
                process = _launch(store, mountpoint, options, theirs, said)
            finally:
                os.close(theirs)
            try:
                if not wait_ready(ours, timeout_s):
                    raise DaemonError(FAILED, _last_words(process, said))
            except BaseException:
                _end(process)
                raise
            # It is to outlive us, as a child of init's.
            process.returncode = 0
    finally:
        os.close(ours)
    return mountpoint


def _launch(
    store: Path, mountpoint: Path, options: MountOptions, ready: int, said: IO[bytes]
) -> subprocess.Popen[bytes]:
    # -P: the directory that mount was called in may hold a trio.py.
    program = "heliosfs.daemon.supervisor" if options.outlives_its_process else "heliosfs.daemon"
    command = [sys.executable, "-P", "-m", program, f"--ready-fd={ready}"]
    command += [f"--options={options.to_json()}", "--", os.fspath(store), os.fspath(mountpoint)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        close_fds=True,
        pass_fds=(ready,),
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": python_path()},
    )


def python_path() -> str:
    """PYTHONPATH of a daemon's process, so that it runs this very code, installed or not."""
    ours = str(Path(next(iter(heliosfs.__path__))).parent)
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([ours, *(path for path in others if path not in ("", ours))])


def _last_words(process: subprocess.Popen[bytes], said: IO[bytes]) -> str:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        return "the daemon has closed its pipe and does not end; it was killed"
    said.seek(0)
    lines = said.read()[-65536:].decode(errors="replace").strip().splitlines()
    return f"the daemon died (status {process.returncode}): {lines[-1] if lines else 'no word from it'}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_END_S)
