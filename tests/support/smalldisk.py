"""A store on a small disk that fills up: `python -m tests.support.smalldisk SCENARIO`, as root of a user namespace.

Makes a tmpfs of its own, which vanishes with the mount namespace (`unshare --mount`); scenarios are the
functions named here. A scenario that fails ends with an AssertionError.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from heliosfs.core.check import check
from heliosfs.core.ids import ROOT_INO, NodeId, node_id
from heliosfs.filesystem import Caller, Filesystem, SetAttr, open_filesystem
from heliosfs.storage.space import Disk

ME = Caller(0, 0)
FILE = 96 * 1024
MIB = 1 << 20


def content(number: int) -> bytes:
    """Incompressible, the same for the same number."""
    return random.Random(number).randbytes(FILE)


def root_of(fs: Filesystem) -> NodeId:
    assert fs.engine.main is not None
    return node_id(fs.engine.main.view, ROOT_INO)


async def put(fs: Filesystem, number: int) -> None:
    entry = await fs.make(root_of(fs), b"%d" % number, 0o100644, ME)
    await fs.write(entry.node, 0, content(number), ME)


async def get(fs: Filesystem, number: int) -> bytes:
    entry = await fs.lookup(root_of(fs), b"%d" % number)
    return await fs.read(entry.node, 0, FILE + 1)


async def fill(fs: Filesystem, first: int = 0) -> int:
    """Put files from `first` on until there is no space; the number that was refused."""
    number = first
    while True:
        try:
            await put(fs, number)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
            # The name may have been made before its bytes were refused.
            names = {name for name, _, _ in await fs.readdir(root_of(fs), 0, 100_000)}
            if b"%d" % number in names:
                await fs.unlink(root_of(fs), b"%d" % number, ME)
            return number
        number += 1


async def expect(fs: Filesystem, numbers: range) -> None:
    """These files are there, whole, and the state is sound."""
    for number in numbers:
        assert await get(fs, number) == content(number), number
    with fs.cache.blocking():
        assert check(fs.engine) == []


class Filler:
    """Another user of the disk, who takes all that is left."""

    def __init__(self, disk: Path) -> None:
        self.path = disk / "filler"

    def take(self) -> None:
        with self.path.open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def leave(self) -> None:
        self.path.unlink()


async def filled_by_us(disk: Path) -> None:
    """Until ENOSPC; then all is there, also after a reopening, and deleting makes room for as much again."""
    store = disk / "store"
    async with open_filesystem(store, create=True) as fs:
        assert fs.status(None)["space"]["reserve_whole"]  # type: ignore[index]
        free = (await fs.statfs()).f_bavail * (await fs.statfs()).f_frsize
        last = await fill(fs)
        assert last * FILE > 0.7 * free, (last * FILE, free)
        assert last * FILE > 0.55 * Disk.of(disk).total, "most of the disk is the user's"
        left = await fs.statfs()
        assert left.f_bavail * left.f_frsize < FILE + 64 * 1024, "statfs tells that it is full"
        await fs.wait_persisted()
        await expect(fs, range(last))
        assert fs.status(None)["space"]["reserve_whole"]  # type: ignore[index]
    async with open_filesystem(store) as fs:
        await expect(fs, range(last))
        # Removed and collected, it is room for as much again; what was not removed is still there.
        for number in range(last // 4, last):
            node = (await fs.lookup(root_of(fs), b"%d" % number)).node
            await fs.unlink(root_of(fs), b"%d" % number, ME)
            fs.forget(node)
        await fs.collector.collect()
        again = await fill(fs, last)
        assert again - last > (last - last // 4) * 0.85, (last, again)
        await expect(fs, range(last // 4))
        await expect(fs, range(last, again))
    async with open_filesystem(store) as fs:
        await expect(fs, range(last // 4))
        await expect(fs, range(last, again))


async def filled_by_others(disk: Path) -> None:
    """Nothing left at all: opening, reading, removing, cutting and closing go on, writes are refused."""
    store, filler = disk / "store", Filler(disk)
    async with open_filesystem(store, create=True) as fs:
        for number in range(8):
            await put(fs, number)
        await fs.checkpoint(fs.engine.main.view, b"s", ME)  # type: ignore[union-attr]
        await fs.wait_persisted()
        for number in range(8, 12):
            await put(fs, number)
        assert fs.status(None)["space"]["reserve_whole"]  # type: ignore[index]
        filler.take()
        await fill(fs, 12)
        await fs.unlink(root_of(fs), b"0", ME)
        entry = await fs.lookup(root_of(fs), b"1")
        await fs.setattr(entry.node, SetAttr(size=10), ME)
        await fs.forget_snapshot(fs.engine.main.view, b"s", ME)  # type: ignore[union-attr]
        await fs.wait_persisted()
        filler.take()
        await expect(fs, range(2, 12))
    for _ in range(3):
        filler.take()
        async with open_filesystem(store) as fs:
            await expect(fs, range(2, 12))
    async with open_filesystem(store) as fs:
        await fs.unlink(root_of(fs), b"2", ME)
        filler.leave()
        with trio.fail_after(30):
            while not fs.status(None)["space"]["reserve_whole"]:  # type: ignore[index]
                await trio.sleep(0.05)
        assert fs.status(None)["state"] == "ok"
        await put(fs, 2)
        await expect(fs, range(2, 12))


async def killed_on_a_full_disk(disk: Path) -> None:
    """SIGKILL with an unstored log and nothing left, again and again: it opens, and nothing is lost."""
    store, filler = disk / "store", Filler(disk)
    script = (
        "import sys, os, signal, trio; from pathlib import Path; from tests.support import smalldisk\n"
        "trio.run(smalldisk.put_and_die, Path(sys.argv[1]), int(sys.argv[2]))"
    )
    for number in range(6):
        done = subprocess.run([sys.executable, "-c", script, os.fspath(disk), str(number)], check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL, done.returncode
        if number == 2:
            filler.take()
    async with open_filesystem(store) as fs:
        await expect(fs, range(3))
        filler.leave()
        await fs.wait_persisted()
        await put(fs, 3)
        await expect(fs, range(4))


async def put_and_die(disk: Path, number: int) -> None:
    async with open_filesystem(disk / "store", create=True, background=number % 2 == 0) as fs:
        if number <= 2:
            await put(fs, number)
        else:
            await expect(fs, range(3))
        os.kill(os.getpid(), signal.SIGKILL)


SCENARIOS: dict[str, Callable[[Path], Awaitable[None]]] = {
    each.__name__: each for each in (filled_by_us, filled_by_others, killed_on_a_full_disk)
}


def main(name: str, size: str) -> None:
    disk = Path(tempfile.mkdtemp(prefix="heliosfs-disk-"))
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True, timeout=20)
        try:
            trio.run(SCENARIOS[name], disk)
        finally:
            subprocess.run(["umount", "-l", disk], check=True, timeout=20)
    finally:
        disk.rmdir()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
