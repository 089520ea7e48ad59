"""LIB figures of storing and loading: persisting dirty data, the first byte of what only the store holds."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import trio

from heliosfs.core.ids import Lsn
from heliosfs.filesystem import open_filesystem
from tests.bench.figures import Figure, figure
from tests.bench.lib_cas import source_text
from tests.bench.plan import Plan
from tests.bench.stores import CALLER, fill, main_view

_clock = time.perf_counter
_MEGABYTE = 1 << 20

_COLD_READER = """
import sys, time, trio
from heliosfs.filesystem import open_filesystem
from tests.bench.stores import main_view, path
async def main(store, first, last):
    async with open_filesystem(store, background=False) as fs:
        view = main_view(fs)
        nodes = [(await fs.resolve(view, path(number))).node for number in range(first, last)]
        await fs.read(nodes[0], 0, 4096)
        for number, node in enumerate(nodes[1:], first + 1):
            start = time.perf_counter()
            data = await fs.read(node, 0, 4096)
            taken = time.perf_counter() - start
            print(taken, data[:8] == b"%08d" % number and data[8:] == data[8:16] * 511)
            if data[:8] != b"%08d" % number: raise SystemExit("wrong")
trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


async def _persists(plan: Plan, directory: Path) -> list[Figure]:
    """Dirty data in files of 1 MiB, half text and half noise, until it is all in packs and pages, synced."""
    rows: list[Figure] = []
    random_ = random.Random(5)
    text = source_text(8 << 20)
    for megabytes, bound in ((100, 1.0), (500, 2.0)):
        count = max(1, megabytes // (50 if plan.short else 1))
        async with open_filesystem(directory / f"persist-{megabytes}", create=True, background=False) as fs:
            root = fs.branch_root(main_view(fs)).node
            await _warm(fs.pool)
            written: list[bytes] = []
            nodes = []
            for number in range(count):
                at = random_.randrange(len(text) - _MEGABYTE)
                data = text[at : at + _MEGABYTE // 2] + random_.randbytes(_MEGABYTE // 2)
                entry = await fs.make(root, b"f%d" % number, 0o100644, CALLER)
                await fs.write(entry.node, 0, data, CALLER)
                nodes.append(entry.node)
                written.append(data[-64:])
            os.sync()
            position = Lsn(fs.log.end)
            start = _clock()
            await fs.wait_persisted()
            taken = _clock() - start
            right = fs.persister.persisted >= position
            for node, tail in zip(nodes, written, strict=True):
                right = right and await fs.read(node, _MEGABYTE - 64, 64) == tail
            stored = fs.index.stats().raw_bytes
            right = right and stored >= count * _MEGABYTE // 2
        name = f"LIB persist {count} MiB of dirty data"
        rows.append(figure(name, [taken], "s", below=bound, durability="power", verified=right))
    return rows


async def _warm(pool: object) -> None:
    """Worker processes are up within this time; a daemon's are, too."""
    await trio.sleep(0.5)
    assert pool is not None


def _lazy(plan: Plan, directory: Path) -> list[Figure]:
    """The first byte of objects that only packs hold, in a process that has read none of them."""
    count = min(plan.samples, 400)
    store = directory / "lazy"

    async def make() -> None:
        async with open_filesystem(store, create=True, background=False) as fs:
            view = main_view(fs)
            nodes = await fill(fs, view, count)
            for number, node in enumerate(nodes):
                await fs.write(node, 0, b"%08d" % number + b"%08d" % (number * 7) * 511, CALLER)
            await fs.wait_persisted()

    trio.run(make)
    rows: list[Figure] = []
    for dropped in (False, True):
        if dropped:
            for pack in (store / "packs").iterdir():
                with pack.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        words = (sys.executable, "-c", _COLD_READER, os.fspath(store), "0", str(count))
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
        lines = [line.split() for line in done.stdout.splitlines()]
        right = len(lines) == count - 1 and all(line[1] == "True" for line in lines)
        where = "packs dropped from the page cache" if dropped else "packs in the page cache"
        taken = [float(line[0]) * 1e6 for line in lines]
        below = None if dropped else 50.0
        name = f"LIB first byte of a 4 KiB file in L2, {where}"
        rows.append(figure(name, taken, "us", below=below, durability="power", verified=right))
    return rows


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    directory = plan.directory / "lib-store"
    directory.mkdir()
    return [*_lazy(plan, directory), *trio.run(_persists, plan, directory)]
