"""Where requests are read to."""

from __future__ import annotations

import ctypes
from pathlib import Path

from heliosfs.transport.kernel.pump import request_buffer
from heliosfs.transport.kernel.wire import REQUEST_MAX


def test_a_buffer_is_in_memory_as_a_whole_and_no_fork_shares_it() -> None:
    """Else a kill while a request is copied to it would cost that request: EIO."""
    buffer = request_buffer()
    at = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    regions: list[tuple[range, dict[str, list[str]]]] = []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word, *rest = line.split()
        if word.endswith(":"):
            regions[-1][1][word] = rest
        else:
            begin, end = (int(number, 16) for number in word.split("-"))
            regions.append((range(begin, end), {}))
    (found,) = (facts for where, facts in regions if at in where)
    assert found["Rss:"] == found["Size:"]
    assert int(found["Size:"][0]) << 10 >= REQUEST_MAX
    assert "dc" in found["VmFlags:"]
