"""What each tree takes, against counting every tree's chunks one by one."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from heliosfs.control.commands import Stats
from heliosfs.control.runner import Commands
from heliosfs.core import radix
from heliosfs.core.extent import ChunkRef, Extent
from heliosfs.core.ids import ROOT_INO, PageId, node_id
from heliosfs.filesystem import Caller, Filesystem, open_filesystem

ME = Caller(0, 0)


def chunks_of(fs: Filesystem, root: PageId) -> set[bytes]:
    """Chunks of a tree, file by file."""
    found: set[bytes] = set()
    with fs.cache.blocking():
        for _, inode in radix.items(root, fs.cache):
            if inode.is_file():
                for _, extent in radix.items(inode.tree, fs.cache):
                    assert isinstance(extent, Extent) and isinstance(extent.source, ChunkRef)
                    found.add(extent.source.id)
    return found


def stored(fs: Filesystem, ids: set[bytes]) -> int:
    return sum(entry.place.length for entry in fs.index.entries() if entry.id in ids)


async def test_exclusive_and_shared_are_what_counting_gives(tmp_path: Path) -> None:
    dice = random.Random(8)
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        assert fs.engine.main is not None
        view = fs.engine.main.view
        views = [view]
        same = dice.randbytes(30_000)
        for number in range(40):
            at = dice.choice(views)
            name = b"f%d" % dice.randrange(90)
            root = node_id(at, ROOT_INO)
            listed = {entry[0] for entry in await fs.readdir(root, 0, 1000)}
            if name in listed:
                await fs.unlink(root, name, ME)
            else:
                file = await fs.make(root, name, 0o100644, ME)
                data = same if number % 5 == 0 else dice.randbytes(dice.choice((500, 20_000, 300_000)))
                await fs.write(file.node, 0, data, ME)
            if number % 6 == 5:
                await fs.checkpoint(at, b"s%d" % number, ME)
            if number in (10, 25):
                await fs.fork(at, b"b%d" % number, ME)
                views = list(fs.engine.branches)
        commands = Commands(fs)
        assert (await commands.run(Stats(), view, ME)).extra["space"] is None
        space = (await commands.run(Stats(refresh=True), view, ME)).extra["space"]
        assert isinstance(space, dict) and space["current"]
        reach: dict[tuple[str, str | None], set[bytes]] = {}
        for branch in fs.engine.branches.values():
            versions = [(s.name.decode(), s.state.root) for s in branch.snapshots.values()]
            for name, page in [*versions, (None, branch.head.parent.root)]:
                assert page is not None
                reach[branch.path.decode(), name] = chunks_of(fs, page)
        users = Counter(id_ for ids in reach.values() for id_ in ids)
        assert {(row["branch"], row["snapshot"]) for row in space["trees"]} == set(reach)
        for row in space["trees"]:
            ids = reach[row["branch"], row["snapshot"]]
            alone = {id_ for id_ in ids if users[id_] == 1}
            assert row["reached"]["chunks"] == len(ids)
            assert row["reached"]["stored_bytes"] == stored(fs, ids)
            assert row["exclusive"]["chunks"] == len(alone)
            assert row["exclusive"]["stored_bytes"] == stored(fs, alone)
            assert row["shared"]["stored_bytes"] == stored(fs, ids - alone)
        of_branch: dict[str, set[bytes]] = {}
        for (path, _), ids in reach.items():
            of_branch.setdefault(path, set()).update(ids)
        branches = Counter(id_ for ids in of_branch.values() for id_ in ids)
        for path, ids in of_branch.items():
            alone = {id_ for id_ in ids if branches[id_] == 1}
            assert space["branches"][path]["stored_bytes"] == stored(fs, alone)
        assert any(total["stored_bytes"] for total in space["branches"].values())

        child = fs.find_branch(space["trees"][-1]["branch"].encode()).view
        seen = fs.space_taken(child)
        assert seen is not None and len(seen["trees"]) < len(space["trees"])  # type: ignore[arg-type]
        await fs.make(node_id(view, ROOT_INO), b"new", 0o100644, ME)
        later = fs.space_taken(view)
        assert later is not None and later["current"] is False
