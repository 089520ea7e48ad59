"""Random histories of one store, with collections in between, against a model: nothing that can be reached is ever
lost, and at the end nothing else is left."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from heliosfs.core.check import check
from heliosfs.core.ids import ROOT_INO, NodeId, ViewNo, node_id
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.storage import refstore
from heliosfs.storage.collecting.marking import mark, take_roots
from heliosfs.storage.collecting.pace import Pace

ME = Caller(0, 0)
NAMES = [b"a", b"b", b"c", b"d"]
Tree = dict[bytes, bytes]

steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "write",
                "write",
                "edit",
                "unlink",
                "checkpoint",
                "forget",
                "fork",
                "discard",
                "restore",
                "cut",
                "gc",
                "gc",
            ]
        ),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 5),
        st.sampled_from([100, 5_000, 70_000, 150_000]),
    ),
    min_size=5,
    max_size=30,
)


class History:
    """A store, and what should be in it."""

    def __init__(self, fs: Filesystem) -> None:
        assert fs.engine.main is not None
        self.fs = fs
        self.trees: dict[ViewNo, Tree] = {fs.engine.main.view: {}}
        self.snapshots: dict[tuple[ViewNo, bytes], Tree] = {}
        self.open: dict[NodeId, bytes] = {}
        self.number = 0

    async def step(self, what: str, view_index: int, name_index: int, seed: int, size: int) -> None:
        fs = self.fs
        views = sorted(self.trees)
        view = views[view_index % len(views)]
        tree, root, name = self.trees[view], node_id(view, ROOT_INO), NAMES[name_index]
        data = random.Random(seed).randbytes(size)
        mine = [snapshot for v, snapshot in self.snapshots if v == view]
        self.number += 1
        fresh = b"n%d" % self.number
        if what == "write":
            if name not in tree:
                node = (await fs.make(root, name, 0o100644, ME)).node
            else:
                node = (await fs.lookup(root, name)).node
            await fs.write(node, 0, data, ME)
            tree[name] = data + tree.get(name, b"")[size:]
        elif what == "edit" and len(tree.get(name, b"")) > 200:
            node = (await fs.lookup(root, name)).node
            at = len(tree[name]) // 2
            await fs.write(node, at, b"edit%d" % seed, ME)
            tree[name] = tree[name][:at] + b"edit%d" % seed + tree[name][at + 5 :]
        elif what == "unlink" and name in tree:
            node = (await fs.lookup(root, name)).node
            await fs.unlink(root, name, ME)
            gone = tree.pop(name)
            if seed % 2:
                self.open[node] = gone
            else:
                fs.forget(node)
        elif what == "checkpoint":
            await fs.checkpoint(view, fresh, ME)
            self.snapshots[view, fresh] = dict(tree)
        elif what == "forget" and mine:
            await fs.forget_snapshot(view, mine[seed % len(mine)], ME)
            del self.snapshots[view, mine[seed % len(mine)]]
        elif what == "fork" and len(views) < 4:
            await fs.fork(view, fresh, ME)
            self.trees[fs.find_branch(fs.branch(view).path + b"/" + fresh).view] = dict(tree)
        elif what == "discard" and view != views[0] and not fs.branch(view).children:
            await fs.discard(view, ME)
            del self.trees[view]
            self.snapshots = {key: value for key, value in self.snapshots.items() if key[0] != view}
            self.open = {node: value for node, value in self.open.items() if node >> 40 != view}
        elif what == "restore" and mine and not self.open:
            await fs.restore(view, mine[seed % len(mine)], ME)
            self.trees[view] = dict(self.snapshots[view, mine[seed % len(mine)]])
        elif what == "cut":
            await fs.wait_persisted()
        elif what == "gc":
            await fs.collect()
            await self.compare()

    async def compare(self) -> None:
        fs = self.fs
        fs.chunks.clear()
        for view, tree in self.trees.items():
            await self._same(node_id(view, ROOT_INO), tree)
        for (view, snapshot), tree in self.snapshots.items():
            await self._same((await fs.snapshot_root(view, snapshot)).node, tree)
        for node, data in self.open.items():
            assert await fs.read(node, 0, len(data) + 1) == data
        with fs.cache.blocking():
            assert check(fs.engine) == []

    async def _same(self, root: NodeId, tree: Tree) -> None:
        fs = self.fs
        assert {row[0] for row in await fs.readdir(root, 0, 100)} == set(tree)
        for name, data in tree.items():
            assert await fs.read((await fs.lookup(root, name)).node, 0, len(data) + 1) == data


async def run(directory: Path, history: list[tuple[str, int, int, int, int]]) -> None:
    async with open_filesystem(directory / "store", create=True, background=False) as fs:
        model = History(fs)
        for step in history:
            await model.step(*step)
        report = await fs.collect()
        await model.compare()
        # All garbage is gone: what is left is reached.
        roots = take_roots(fs.engine, fs.pool.claims, fs.log.end, refstore.roots(fs.db))
        reached = await mark(roots, fs.page_store, Pace(restful=False))
        assert {entry.id for entry in fs.index.entries()} <= set(reached.chunks)
        assert {page for page, _ in fs.page_store.ids()} <= reached.pages
        packs = sum(path.stat().st_size for path in (fs.store_path / "packs").iterdir())
        assert packs <= report.live_bytes * 1.06 + 44 * report.live_chunks + 4096
        trees = [model.trees[view] for view in sorted(model.trees)]
    async with open_filesystem(directory / "store", background=False) as fs:
        model.fs, model.open = fs, {}
        await model.compare()
        assert [model.trees[view] for view in sorted(model.trees)] == trees


@given(steps)
@settings(max_examples=12, deadline=None)
def test_nothing_reached_is_lost_and_all_garbage_goes(history: list[tuple[str, int, int, int, int]]) -> None:
    directory = Path(tempfile.mkdtemp(prefix="heliosfs-gc-"))
    try:
        trio.run(run, directory, history)
    finally:
        shutil.rmtree(directory)
