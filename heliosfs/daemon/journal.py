"""What the daemon has to say, and where: `daemon.log` in the store, or the terminal with -f.

Must not know: what is said.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Final

LOG_NAME: Final = "daemon.log"
_KEPT_BYTES: Final = 4 << 20
_LEVEL_VARIABLE: Final = "HELIOSFS_LOG"


def start_logging() -> None:
    """Log to standard error, at the level that HELIOSFS_LOG names (default INFO). Once a process."""
    level = logging.getLevelNamesMapping().get(os.environ.get(_LEVEL_VARIABLE, "").upper(), logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("pyfuse3").addFilter(_worth_saying)
    logging.captureWarnings(True)


def move_to_store(store: Path) -> None:
    """Send standard output and error to the store's log from now on; a large one is started anew, one is
    kept.

    Raises:
        OSError: The log can't be opened.
    """
    path = store / LOG_NAME
    try:
        if path.stat().st_size > _KEPT_BYTES:
            path.replace(path.with_suffix(".log.1"))
    except FileNotFoundError:
        pass
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _worth_saying(record: logging.LogRecord) -> bool:
    """A caller that was killed does not take his reply (ENOENT): no news."""
    return not (record.levelno == logging.ERROR and record.args and "No such file or directory" in record.args)
