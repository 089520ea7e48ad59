"""A worker process in which a system call of the pack writer fails while a file says so.

Run in place of `heliosfs.storage.workers`. While there is a file `fail-CALL` beside the packs' directory, the
call of that name in `cas.packs.PackCalls` fails with the errno that the file holds.
"""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from cas.packs import PackCalls
from heliosfs.storage.workers.process import main


def failing(store: Path) -> PackCalls:
    """Calls that look for their file first."""
    calls = PackCalls()
    for field in fields(calls):
        setattr(calls, field.name, _guarded(getattr(calls, field.name), store / f"fail-{field.name}"))
    return calls


def _guarded(call: Any, sign: Path) -> Any:
    def guarded(*arguments: Any) -> Any:
        try:
            number = int(sign.read_text())
        except FileNotFoundError:
            return call(*arguments)
        raise OSError(number, os.strerror(number))

    return guarded


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], failing(Path(sys.argv[2]).parent)))
