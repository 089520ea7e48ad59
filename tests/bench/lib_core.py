"""LIB figures of versioning: checkpoint, fork, restore in the process, the log's record included.

Checkpoints are timed through the filesystem's door, as a transport calls it, on stores whose tree is persisted
and loaded. After each the snapshot is read and must hold what was written before it, and not what came after.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from heliosfs.core import versions
from heliosfs.core.apply import apply
from heliosfs.core.ids import BranchId, Lsn, NodeId, SnapshotId, ViewNo
from heliosfs.core.oplog import Fork
from heliosfs.core.view import View
from heliosfs.filesystem import Filesystem, open_filesystem
from tests.bench.figures import Figure, figure, quantile, quantile_figure
from tests.bench.plan import Plan
from tests.bench.stores import CALLER, content, fill, main_view

_DIRTY = (0, 1, 64)
_CHANGED = 10
_IN_A_ROW = 32
_clock = time.perf_counter


async def _checkpoints(
    fs: Filesystem, view: ViewNo, nodes: list[NodeId], dirty: int, samples: int
) -> tuple[list[float], bool]:
    """Microseconds of `samples` checkpoints with `dirty` files written before each, and whether all were right."""
    taken: list[float] = []
    right = True
    dirty = min(dirty, len(nodes))
    for number in range(samples):
        mark = b"%02d%06d" % (dirty, number)
        for node in nodes[:dirty]:
            await fs.write(node, 0, mark, CALLER)
        start = _clock()
        outcome = await fs.checkpoint(view, None, CALLER)
        taken.append((_clock() - start) * 1e6)
        assert outcome.name is not None
        name = outcome.name.encode()
        right = right and fs.latest(view) == name
        if dirty and (number % 16 == 0 or number == samples - 1):
            frozen = (await fs.snapshot_root(view, name)).node >> 40
            await fs.write(nodes[0], 0, b"later...", CALLER)
            for at in (0, dirty - 1):
                right = right and (await content(fs, ViewNo(frozen), at))[:8] == mark
            right = right and (await content(fs, view, 0))[:8] == b"later..."
            await fs.write(nodes[0], 0, mark, CALLER)
    infos = {info.name: info for info in fs.snapshots(view)}
    right = right and len(infos) >= samples
    return taken, right and all(info.files == fs.branch(view).files for info in infos.values())


async def _checkpoint_figures(plan: Plan, directory: Path) -> list[Figure]:
    rows: list[Figure] = []
    tails: dict[int, dict[int, float]] = {dirty: {} for dirty in _DIRTY}
    all_right = True
    for files in (100, plan.large_files, plan.largest_files):
        async with open_filesystem(directory / f"checkpoint-{files}", create=True, background=False) as fs:
            view = main_view(fs)
            nodes = await fill(fs, view, files)
            await fs.wait_persisted()
            for dirty in _DIRTY:
                taken, right = await _checkpoints(fs, view, nodes, dirty, plan.samples)
                all_right = all_right and right
                tails[dirty][files] = quantile(taken, 0.5)
                name = f"LIB checkpoint, {files} files, {dirty} dirty"
                rows.append(figure(f"{name}, p50", taken, "us", durability="kill", verified=right))
                rows.append(
                    quantile_figure(f"{name}, p95", taken, 0.95, "us", below=70, durability="kill", verified=right)
                )
    for dirty, by_files in tails.items():
        ratios = [value / by_files[100] for files, value in by_files.items() if files != 100]
        name = f"LIB checkpoint, p50 of the largest trees / of 100 files, {dirty} dirty"
        rows.append(quantile_figure(name, ratios, 1, "x", below=1.5, durability="kill", verified=all_right))
    return rows


def _planned_forks(fs: Filesystem, view: ViewNo, prefix: bytes, count: int) -> list[Fork]:
    """Records of `count` forks of this instant, to be applied one after the other."""
    engine = fs.engine
    first = versions.plan_fork(engine, view, prefix, SnapshotId(0), 0, 0, 0, fs.now())
    return [
        dataclasses.replace(
            first,
            name=prefix + b"%02d" % number,
            branch=BranchId(first.branch + number),
            new_view=ViewNo(first.new_view + number),
        )
        for number in range(count)
    ]


async def _forks(plan: Plan, directory: Path) -> list[Figure]:
    """The fork itself, applying its record, with the record appended (32 in a row), and through the door."""
    async with open_filesystem(directory / "fork", create=True, background=False) as fs:
        view = main_view(fs)
        nodes = await fill(fs, view, plan.large_files)
        await fs.wait_persisted()
        engine, log = fs.engine, fs.log
        append = log.append
        itself: list[float] = []
        alone: list[float] = []
        recorded: list[float] = []
        door: list[float] = []
        right = True
        rounds = max(4, plan.samples // 16)
        for number in range(rounds):
            mark = b"f%07d" % number
            await fs.write(nodes[0], 0, mark, CALLER)
            head = engine.branches[view].head
            at = Lsn(log.end)
            start = _clock()
            fresh = [View(head.freeze(at), at) for _ in range(_IN_A_ROW)]
            itself.append((_clock() - start) / _IN_A_ROW * 1e6)
            right = right and all(each.parent is head.parent and each.files == head.files for each in fresh)

            records = _planned_forks(fs, view, b"a%04d-" % number, _IN_A_ROW)
            places = [append(record.KIND, record.encode()) for record in records]
            start = _clock()
            for record, place in zip(records, places, strict=True):
                apply(engine, record, place)
            alone.append((_clock() - start) / _IN_A_ROW * 1e6)

            records = _planned_forks(fs, view, b"b%04d-" % number, _IN_A_ROW)
            start = _clock()
            for record in records:
                apply(engine, record, append(record.KIND, record.encode()))
            recorded.append((_clock() - start) / _IN_A_ROW * 1e6)

            start = _clock()
            outcome = await fs.fork(view, b"c%04d" % number, CALLER)
            door.append((_clock() - start) * 1e6)
            other = outcome.extra["view"]
            assert isinstance(other, int)
            made = [records[0].new_view, records[-1].new_view, ViewNo(other)]
            await fs.write(nodes[0], 0, b"parent..", CALLER)
            for branch in made:
                right = right and (await content(fs, branch, 0))[:8] == mark
                copy = (await fs.resolve(branch, b"d00000/f000000")).node
                await fs.write(copy, 0, b"%08d" % branch, CALLER)
            for branch in made:
                right = right and (await content(fs, branch, 0))[:8] == b"%08d" % branch
            right = right and (await content(fs, view, 0))[:8] == b"parent.."
        right = right and len(fs.children(view)) == rounds * (2 * _IN_A_ROW + 1)
    name = f"LIB fork of {plan.large_files} files"
    return [
        figure(f"{name}, itself: both sides frozen, a new view", itself, "us", below=1, verified=right),
        figure(f"{name}, in memory: applying the record", alone, "us", below=1, verified=right),
        figure(f"{name}, with its record", recorded, "us", below=5, durability="kill", verified=right),
        figure(f"{name}, one through the door", door, "us", durability="kill", verified=right),
    ]


async def _restores(plan: Plan, directory: Path) -> list[Figure]:
    """A restore of ten changed files: finding them, and the swap."""
    async with open_filesystem(directory / "restore", create=True, background=False) as fs:
        view = main_view(fs)
        nodes = await fill(fs, view, plan.large_files)
        await fs.checkpoint(view, b"good", CALLER)
        await fs.wait_persisted()
        engine, log = fs.engine, fs.log
        swap: list[float] = []
        adopt: list[float] = []
        whole: list[float] = []
        right = True
        step = max(1, len(nodes) // _CHANGED)
        chosen = range(0, step * _CHANGED, step)
        good = versions.find_snapshot(engine.branches[view], b"good").state
        for number in range(plan.samples // 2):
            for through_door in (False, True):
                for at in chosen:
                    await fs.write(nodes[at], 0, b"wrecked!", CALLER)
                if through_door:
                    start = _clock()
                    outcome = await fs.restore(view, b"good", CALLER)
                    whole.append((_clock() - start) * 1e6)
                    right = right and outcome.extra["changed"] == _CHANGED
                else:
                    record = await fs.planned(versions.plan_restore, engine, view, b"good", 0, 0, fs.now())
                    place = log.append(record.KIND, record.encode())
                    start = _clock()
                    found = apply(engine, record, place)
                    swap.append((_clock() - start) * 1e6)
                    right = right and len(found) == _CHANGED
                    head = engine.branches[view].head
                    start = _clock()
                    head.adopt(good, head.frozen_at)
                    adopt.append((_clock() - start) * 1e6)
                if number % 16 == 0:
                    for at in (*chosen, 1):
                        right = right and (await content(fs, view, at))[:8] == b"%08d" % at
        right = right and fs.branch(view).files == good.files
    name = f"LIB restore, {_CHANGED} changed files of {plan.large_files}"
    return [
        figure(f"{name}, root swap", adopt, "us", below=10, verified=right),
        figure(f"{name}, applying the record", swap, "us", below=10, durability="kill", verified=right),
        figure(f"{name}, all of it through the door", whole, "us", durability="kill", verified=right),
    ]


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    directory = plan.directory / "lib-core"
    directory.mkdir()
    rows: list[Figure] = []
    parts: tuple[Callable[[Plan, Path], Awaitable[list[Figure]]], ...] = (_checkpoint_figures, _forks, _restores)
    for part in parts:
        rows += trio.run(functools.partial(part, plan, directory))
    return rows
