"""How processes ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from heliosfs.daemon.staff import status_of_stranger

_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.stdin.write(sys.stdin.buffer.readline())
child.stdin.close()
sys.stdin.readline()
child.wait()
print("reaped", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", [-signal.SIGKILL, -signal.SIGSEGV, 0, 7])
def test_the_status_of_who_is_no_child_of_ours(end: int) -> None:
    """Before its parent has reaped it, and afterwards."""
    act = f"os.kill(os.getpid(), {-end})" if end < 0 else f"sys.exit({end})"
    program = f"import os, sys; os.read(0, 1); {act}"
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None and parent.stdin is not None
        pid = int(parent.stdout.readline())
        pidfd = os.pidfd_open(pid)
        try:
            parent.stdin.write(b"end\n")
            parent.stdin.flush()
            assert select.select([pidfd], [], [], 20)[0]
            assert status_of_stranger(pid, pidfd) == end
            parent.stdin.write(b"reap\n")
            parent.stdin.flush()
            assert parent.stdout.readline() == b"reaped\n"
            # Older kernels do not tell any more; what they do not know is not taken for a kill.
            assert status_of_stranger(pid, pidfd) in (end, None)
        finally:
            os.close(pidfd)
            parent.stdin.close()
