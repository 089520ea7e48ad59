"""Who changes a file decides what is left of its set-id bits: the door's part, for transports that say who."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from heliosfs.core.acl import ACCESS
from heliosfs.core.attributes import SetAttr
from heliosfs.core.ids import ROOT_INO, NodeId, node_id
from heliosfs.filesystem import Caller, Filesystem, open_filesystem

ROOT, OTHER = Caller(0, 0), Caller(1000, 1000)
BASE = bytes.fromhex("02000000 01000700ffffffff 04000700ffffffff 20000500ffffffff")


async def write(fs: Filesystem, node: NodeId, source: NodeId, kill: bool) -> None:
    await fs.settled(partial(fs.try_write, kill_set_id=kill), node, 0, b"x")


async def copy(fs: Filesystem, node: NodeId, source: NodeId, kill: bool) -> None:
    await fs.copy_range(source, 0, node, 0, 1, 0, OTHER if kill else ROOT)


async def allocate(fs: Filesystem, node: NodeId, source: NodeId, kill: bool) -> None:
    await fs.fallocate(node, 0, 0, 4096, OTHER if kill else ROOT)


async def truncate(fs: Filesystem, node: NodeId, source: NodeId, kill: bool) -> None:
    await fs.setattr(node, SetAttr(size=1, kill_set_id=kill), ROOT)


@pytest.mark.parametrize("act", [write, copy, allocate, truncate])
async def test_bits_go_with_a_change_by_who_may_not_keep_them(
    tmp_path: Path, act: Callable[[Filesystem, NodeId, NodeId, bool], Awaitable[None]]
) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        assert fs.engine.main is not None
        top = node_id(fs.engine.main.view, ROOT_INO)
        source = (await fs.make(top, b"source", 0o100644, ROOT)).node
        await fs.write(source, 0, b"content", ROOT)
        node = (await fs.make(top, b"f", 0o100755, ROOT)).node
        for kill, left in ((False, 0o6755), (True, 0o755)):
            await fs.setattr(node, SetAttr(mode=0o6755), ROOT)
            before = (await fs.getattr(node)).ctime_ns
            await act(fs, node, source, kill)
            after = await fs.getattr(node)
            assert after.mode & 0o7777 == left
            assert after.mtime_ns == after.ctime_ns > before


async def test_a_list_takes_the_group_bit_along(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        assert fs.engine.main is not None
        top = node_id(fs.engine.main.view, ROOT_INO)
        node = (await fs.make(top, b"d", 0o040755, ROOT)).node
        for kill, left in ((False, 0o2775), (True, 0o775)):
            await fs.setattr(node, SetAttr(mode=0o2755), ROOT)
            before = (await fs.getattr(node)).ctime_ns
            await fs.setxattr(node, ACCESS, BASE, 0, OTHER, kill_set_gid=kill)
            after = await fs.getattr(node)
            assert after.mode & 0o7777 == left
            assert after.ctime_ns > before
            await fs.removexattr(node, ACCESS, OTHER)
            assert (await fs.getattr(node)).ctime_ns == after.ctime_ns
