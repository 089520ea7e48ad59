"""The daemon's log."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

from heliosfs.daemon import journal

PROGRAM = """
import logging, os, sys
from pathlib import Path
from heliosfs.daemon import journal
journal.start_logging()
logging.getLogger("heliosfs.x").info("before")
journal.move_to_store(Path(sys.argv[1]))
logging.getLogger("heliosfs.x").info("after")
logging.getLogger("heliosfs.x").debug("detail")
logging.getLogger("pyfuse3").error("%s failed with %s", "reply", "No such file or directory")
logging.getLogger("pyfuse3").error("%s failed with %s", "reply", "Invalid argument")
os.write(1, b"from C\\n")
"""


def run(store: Path, level: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, store],
        capture_output=True,
        timeout=60,
        check=True,
        env={**os.environ, "HELIOSFS_LOG": level},
    )
    return done.stderr.decode()


def test_it_moves_to_the_store_with_all_that_is_said(tmp_path: Path) -> None:
    said = run(tmp_path)
    log = tmp_path / "daemon.log"
    assert "before" in said
    assert "after" not in said
    text = log.read_text()
    assert "INFO heliosfs.x: after" in text
    assert "from C" in text
    assert "detail" not in text
    assert "Invalid argument" in text
    assert "No such file" not in text
    assert log.stat().st_mode & 0o777 == 0o600


def test_it_is_added_to(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, "DEBUG")
    text = (tmp_path / "daemon.log").read_text()
    assert text.count("heliosfs.x: after") == 2
    assert text.count("detail") == 1


def test_a_large_one_is_put_aside(tmp_path: Path) -> None:
    with open(tmp_path / "daemon.log", "wb") as file:
        file.truncate(journal._KEPT_BYTES + 1)
    run(tmp_path)
    assert (tmp_path / "daemon.log.1").stat().st_size == journal._KEPT_BYTES + 1
    assert (tmp_path / "daemon.log").stat().st_size < 1000


def test_the_filter_keeps_what_it_does_not_know() -> None:
    record = logging.LogRecord("pyfuse3", logging.ERROR, "x.py", 1, "No such file or directory", None, None)
    assert journal._worth_saying(record)
