"""Opens an unmounted store and checks every invariant: `python -m tests.support.storecheck STORE`.

Prints a JSON list of what is wrong; [] when all is well.
"""

from __future__ import annotations

import json
import sys

import trio

from heliosfs.core.check import check
from heliosfs.filesystem import open_filesystem


async def main(store: str) -> None:
    """Check as replayed, then again after everything has been stored as pages."""
    wrong = []
    async with open_filesystem(store, background=False) as fs:
        with fs.cache.blocking():
            wrong += [f"as opened: {line}" for line in check(fs.engine)]
        await fs.wait_persisted()
        with fs.cache.blocking():
            wrong += [f"as stored: {line}" for line in check(fs.engine)]
    print(json.dumps(wrong))


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
