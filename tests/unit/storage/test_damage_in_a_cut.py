"""Damage in what a cut has to read: that range alone is lost, and everything else is stored."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from heliosfs.core.errors import Damaged
from heliosfs.core.ids import ROOT_INO, NodeId, node_id
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.storage import refstore
from heliosfs.storage.calls import StoreCalls

ME = Caller(0, 0)
BLOCK = 16384
CONTENT = random.Random(4).randbytes(300_000)
BAD = 100_000
"""A byte of the content that is flipped."""


def root_of(fs: Filesystem) -> NodeId:
    assert fs.engine.main is not None
    return node_id(fs.engine.main.view, ROOT_INO)


def flip(log: Path, content: bytes) -> None:
    """Change the byte of the log that holds content[BAD]."""
    for segment in log.iterdir():
        at = segment.read_bytes().find(content[BAD : BAD + 64])
        if at >= 0:
            with segment.open("r+b") as file:
                file.seek(at)
                file.write(bytes([content[BAD] ^ 1]))
            return
    raise AssertionError("the content is not in the log")


async def lost_range(fs: Filesystem, node: NodeId, content: bytes) -> tuple[int, int]:
    """The range that is EIO, found byte by byte at its ends; all else is right."""
    bad = []
    for at in range(0, len(content), 4096):
        try:
            assert await fs.read(node, at, 4096) == content[at : at + 4096]
        except Damaged:
            bad.append(at)
    begin, end = min(bad), max(bad) + 4096
    while begin < end and await readable(fs, node, begin):
        begin += 1
    while end > begin and await readable(fs, node, end - 1):
        end -= 1
    return begin, end


async def readable(fs: Filesystem, node: NodeId, at: int) -> bool:
    try:
        await fs.read(node, at, 1)
    except Damaged:
        return False
    return True


async def test_a_damaged_block_is_lost_and_nothing_else(tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with open_filesystem(store, create=True, background=False) as fs:
        node = (await fs.make(root_of(fs), b"f", 0o100644, ME)).node
        await fs.write(node, 0, CONTENT, ME)
        other = (await fs.make(root_of(fs), b"g", 0o100644, ME)).node
        await fs.write(other, 0, b"whole", ME)
        flip(store / "log", CONTENT)
        wanted = BAD // BLOCK * BLOCK, BAD // BLOCK * BLOCK + BLOCK
        assert await lost_range(fs, node, CONTENT) == wanted
        await fs.wait_persisted()
        assert fs.status(None)["state"] == "ok"
        assert fs.status(None)["lost_bytes"] == BLOCK
        assert await lost_range(fs, node, CONTENT) == wanted
        assert await fs.read(other, 0, 10) == b"whole"
        (lost,) = refstore.lost(fs.db).values()
        assert lost["length"] == BLOCK and lost["source"].startswith("log life 1 offset")
    async with open_filesystem(store, background=False) as fs:
        assert await lost_range(fs, (await fs.lookup(root_of(fs), b"f")).node, CONTENT) == wanted
        # An edit beside it is cut again around it; one over it heals it.
        await fs.write(node, wanted[0] - 100, b"x" * 100, ME)
        edited = CONTENT[: wanted[0] - 100] + b"x" * 100 + CONTENT[wanted[0] :]
        await fs.wait_persisted()
        assert await lost_range(fs, node, edited) == wanted
        await fs.write(node, wanted[0], CONTENT[wanted[0] : wanted[1]], ME)
        await fs.wait_persisted()
        assert await fs.read(node, 0, 1 << 20) == edited


async def test_a_part_of_a_lost_block_stays_lost(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        node = (await fs.make(root_of(fs), b"f", 0o100644, ME)).node
        await fs.write(node, 0, CONTENT, ME)
        flip(tmp_path / "store" / "log", CONTENT)
        await fs.wait_persisted()
        begin = BAD // BLOCK * BLOCK
        await fs.write(node, begin, CONTENT[begin : begin + 1000], ME)
        await fs.wait_persisted()
        assert await lost_range(fs, node, CONTENT) == (begin + 1000, begin + BLOCK)


async def test_a_read_that_is_refused_is_tried_again_before_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = StoreCalls()
    async with open_filesystem(tmp_path / "store", create=True, background=False, calls=calls) as fs:
        node = (await fs.make(root_of(fs), b"f", 0o100644, ME)).node
        await fs.write(node, 0, CONTENT, ME)
        flip(tmp_path / "store" / "log", CONTENT)

        def refuse(fd: int, length: int, offset: int) -> bytes:
            raise OSError(5, os.strerror(5))

        monkeypatch.setattr(calls.log, "read", refuse)
        for _ in range(2):
            with pytest.raises(Damaged, match="Input/output error"):
                await fs.wait_persisted()
        monkeypatch.undo()
        await fs.wait_persisted()
        assert fs.status(None)["lost_bytes"] == BLOCK
