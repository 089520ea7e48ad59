"""SIGKILL at any moment: whatever was acknowledged is replayed, again and again over the same files."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from heliosfs.core.ids import Lsn
from heliosfs.storage.log import Log, Place

SEGMENT = 256 * 1024
WRITER = """
import sys
from pathlib import Path
from heliosfs.core.ids import Lsn
from heliosfs.storage.log import Log

count = 0
def on_record(lsn, end, kind, body, place):
    global count
    count += 1
log = Log.open(Path(sys.argv[1]), budget_bytes=1 << 30, start=Lsn(0), on_record=on_record, segment_bytes=262144)
while True:
    log.append(1, b"%d" % count, b"%d," % count * (count % 700))
    count += 1
    sys.stdout.buffer.write(b"%d\\n" % count)
    sys.stdout.buffer.flush()
    if count % 50 == 0:
        log.sync()
"""
DEADLINE_S = 30.0


def acknowledged_until_killed(directory: Path, wanted: int) -> int:
    """Run the writer until it has acknowledged `wanted` more, kill it, and return the last number it said."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, os.fspath(directory)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    said = b""
    try:
        until = time.monotonic() + DEADLINE_S
        while said.count(b"\n") < wanted:
            ready, _, _ = select.select([writer.stdout], [], [], max(until - time.monotonic(), 0))
            assert ready, "the writer said nothing"
            chunk = os.read(writer.stdout.fileno(), 65536)
            assert chunk, "the writer ended by itself"
            said += chunk
    finally:
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate(timeout=DEADLINE_S)
    return int((said + rest).rpartition(b"\n")[0].splitlines()[-1])


def test_what_was_acknowledged_survives_every_kill(tmp_path: Path) -> None:
    dice = random.Random(20)
    for _ in range(6):
        last = acknowledged_until_killed(tmp_path, dice.randrange(1, 600))
    seen: list[tuple[bytes, Place]] = []
    log = Log.open(
        tmp_path,
        budget_bytes=1 << 30,
        start=Lsn(0),
        on_record=lambda lsn, end, kind, body, place: seen.append((bytes(body), place)),
        segment_bytes=SEGMENT,
    )
    # One more may have been whole in the file without its acknowledgement having been said.
    assert len(seen) in (last, last + 1)
    for number, (body, place) in enumerate(seen):
        assert body == b"%d" % number
        found = log.read_blocks(place.life, place.offset, place.length, place.sums, 0, place.length)
        assert found == b"%d," % number * (number % 700)
    log.close()
