"""A store that is closed and opened again is as it was, and goes on from there."""

from __future__ import annotations

from pathlib import Path

from heliosfs.core.check import check
from heliosfs.core.ids import ROOT_INO, node_id
from heliosfs.filesystem import Caller, Filesystem, open_filesystem

ME = Caller(0, 0)


async def names(fs: Filesystem) -> set[bytes]:
    assert fs.engine.main is not None
    root = node_id(fs.engine.main.view, ROOT_INO)
    with fs.cache.blocking():
        assert check(fs.engine) == []
    return {name for name, _, _ in await fs.readdir(root, 0, 10_000)}


async def test_names_added_after_a_reopening_are_kept(tmp_path: Path) -> None:
    wanted: set[bytes] = set()
    for round_ in range(3):
        async with open_filesystem(tmp_path / "store", create=True) as fs:
            assert fs.engine.main is not None
            assert await names(fs) == wanted
            root = node_id(fs.engine.main.view, ROOT_INO)
            for number in range(150 if round_ == 0 else 2):
                name = b"%d-%d" % (round_, number)
                await fs.make(root, name, 0o100644, ME)
                wanted.add(name)


async def test_a_reopened_store_does_not_replay_what_was_stored(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        assert fs.engine.main is not None
        await fs.make(node_id(fs.engine.main.view, ROOT_INO), b"x", 0o100644, ME)
    async with open_filesystem(tmp_path / "store") as fs:
        assert fs.log.recovery.records == 0
        assert await names(fs) == {b"x"}


async def test_content_survives_with_its_snapshots_and_branches(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        assert fs.engine.main is not None
        view = fs.engine.main.view
        file = await fs.make(node_id(view, ROOT_INO), b"f", 0o100644, ME)
        await fs.write(file.node, 0, b"one", ME)
        await fs.checkpoint(view, b"s", ME)
        await fs.wait_persisted()
        await fs.write(file.node, 0, b"two", ME)
        await fs.fork(view, b"c", ME)
        await fs.write(file.node, 0, b"three", ME)
    async with open_filesystem(tmp_path / "store") as fs:
        assert fs.engine.main is not None
        view = fs.engine.main.view
        child = fs.find_branch(b"main/c")
        assert await fs.read((await fs.resolve(view, b"f")).node, 0, 99) == b"three"
        assert await fs.read((await fs.resolve(child.view, b"f")).node, 0, 99) == b"two"
        root = await fs.snapshot_root(view, b"s")
        assert await fs.read((await fs.lookup(root.node, b"f")).node, 0, 99) == b"one"
        assert [s.name for s in fs.snapshots(child.view)] == [b"base"]
        assert fs.latest(view) == b"s"
        assert [line["verb"] for line in fs.oplog(view, 9)] == ["checkpoint", "branch"]
        await names(fs)
