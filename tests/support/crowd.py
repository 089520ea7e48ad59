"""More programs that want a processor than there are processors, as on a host of many sandboxes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def crowd(loops: int) -> Iterator[None]:
    """So many endless loops, each in a session of its own: niceness and Linux's autogroups count by session."""
    words = [sys.executable, "-S", "-c", "while True: pass"]
    made = [subprocess.Popen(words, start_new_session=True) for _ in range(loops)]
    try:
        yield
    finally:
        for loop in made:
            loop.kill()
            loop.wait()
