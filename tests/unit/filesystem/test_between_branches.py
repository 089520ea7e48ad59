"""What a branch can learn of others through the filesystem's answers: nothing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio

from heliosfs.core.errors import FsError
from heliosfs.core.ids import ROOT_INO, ViewNo, node_id
from heliosfs.filesystem import Caller, Filesystem, SetAttr, open_filesystem, versions
from heliosfs.storage import refstore

ME = Caller(0, 0)


async def fork(fs: Filesystem, view: ViewNo, name: bytes) -> ViewNo:
    branch = (await fs.fork(view, name, ME)).extra["view"]
    assert isinstance(branch, int)
    return ViewNo(branch)


@pytest.mark.parametrize("stored", [False, True])
async def test_a_new_branch_has_no_history_of_an_earlier_one_of_its_name(tmp_path: Path, stored: bool) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        main = fs.find_branch(b"main").view
        first = await fork(fs, main, b"agent")
        await fs.checkpoint(first, b"secret-plan", ME)
        await fs.discard(first, ME)
        beside = await fork(fs, main, b"agent-2")
        second = await fork(fs, main, b"agent")
        await fs.checkpoint(beside, b"beside", ME)
        if stored:
            await fs.wait_persisted()
        assert fs.oplog(second, 100) == []
        await fs.checkpoint(second, b"own", ME)
        below = await fork(fs, second, b"sub")
        await fs.checkpoint(below, b"deeper", ME)
        if stored:
            await fs.wait_persisted()
        assert [line["name"] for line in fs.oplog(second, 100)] == ["own", "sub", "deeper"]
        assert [line["name"] for line in fs.oplog(second, 2)] == ["sub", "deeper"]
        assert [line["name"] for line in fs.oplog(beside, 2)] == ["beside"]


async def test_one_branchs_log_costs_no_more_than_its_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines of others behind the reach are not looked at, so a busy neighbour can't make a `cat` slow."""
    monkeypatch.setattr(refstore, "REACH", 50)
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        main = fs.find_branch(b"main").view
        quiet, busy = await fork(fs, main, b"quiet"), await fork(fs, main, b"busy")
        await fs.checkpoint(quiet, b"old", ME)
        for number in range(45):
            await fs.checkpoint(busy, b"s%d" % number, ME)
        await fs.wait_persisted()
        assert [line["name"] for line in fs.oplog(quiet, 10)] == ["old"]
        for number in range(45, 60):
            await fs.checkpoint(busy, b"s%d" % number, ME)
        await fs.wait_persisted()
        assert fs.oplog(quiet, 10) == []
        assert len(fs.oplog(busy, 100)) == 50


async def test_the_status_of_a_branch_below_names_no_place(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "secret-store", create=True, background=False) as fs:
        main = fs.find_branch(b"main").view
        await fork(fs, main, b"secret-sibling")
        below = await fork(fs, main, b"b")
        await fork(fs, below, b"c")
        fs.persister.failed = OSError(5, "secret", str(tmp_path / "secret-store" / "packs"))
        status = fs.status(below)
        assert "secret" not in repr(status)
        assert (status["branches"], status["snapshots"]) == (2, 2)
        assert "secret" in repr(fs.status(main))
        fs.persister.failed = None


async def test_hashing_is_bounded_and_lets_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        main = fs.find_branch(b"main").view
        node = (await fs.make(node_id(main, ROOT_INO), b"sparse", 0o100644, ME)).node
        await fs.setattr(node, SetAttr(size=1 << 62), ME)
        with pytest.raises(FsError) as refused:
            await fs.content_hash(node)
        assert refused.value.errno == errno.EFBIG
        await fs.setattr(node, SetAttr(size=64 << 20), ME)
        monkeypatch.setattr(versions, "HASHES", 1)
        turns = 0
        done = trio.Event()
        hashes: list[str] = []

        async def hash_it() -> None:
            hashes.append(await fs.content_hash(node))
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hash_it)
            while not done.is_set():
                await trio.lowlevel.checkpoint()
                turns += 1
                if turns == 2:
                    with pytest.raises(FsError) as busy:
                        await fs.content_hash(node)
                    assert busy.value.errno == errno.EBUSY
        # 64 MiB take some ten milliseconds: 256 pieces, a turn for others after each 0.4 ms of work.
        assert turns > 5
        assert hashes == [await fs.content_hash(node)]
