"""A store worth damaging, and the damage: for the tests of fsck and repair."""

from __future__ import annotations

import random
from pathlib import Path

from heliosfs.core.ids import ROOT_INO, NodeId, ViewNo, node_id
from heliosfs.filesystem import Caller, Filesystem

ME = Caller(0, 0)
BIG = random.Random(3).randbytes(1 << 20)


def main_view(fs: Filesystem) -> ViewNo:
    assert fs.engine.main is not None
    return fs.engine.main.view


async def fill(fs: Filesystem) -> NodeId:
    """main: /big, /small, /dir with 200 files; snapshots one (all of it) and two (/small differs); the big file."""
    view = main_view(fs)
    root = node_id(view, ROOT_INO)
    big = await fs.make(root, b"big", 0o100644, ME)
    await fs.write(big.node, 0, BIG, ME)
    small = await fs.make(root, b"small", 0o100644, ME)
    await fs.write(small.node, 0, b"small content", ME)
    directory = await fs.make(root, b"dir", 0o40755, ME)
    for number in range(200):
        file = await fs.make(directory.node, b"file-%03d" % number, 0o100644, ME)
        await fs.write(file.node, 0, b"content %d" % number, ME)
    await fs.checkpoint(view, b"one", ME)
    await fs.write(small.node, 0, b"SMALL", ME)
    await fs.checkpoint(view, b"two", ME)
    await fs.wait_persisted()
    return big.node


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
