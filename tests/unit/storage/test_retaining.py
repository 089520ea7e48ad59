"""Retention policies of a real store: set, applied, kept over a reopening, inherited by forks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from heliosfs.control.commands import Retain
from heliosfs.control.runner import Commands
from heliosfs.core.check import check
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ROOT_INO, ViewNo, node_id
from heliosfs.core.retention import Retention
from heliosfs.filesystem import Caller, Filesystem, open_filesystem

ME = Caller(0, 0)


def main_view(fs: Filesystem) -> ViewNo:
    assert fs.engine.main is not None
    with fs.cache.blocking():
        assert check(fs.engine) == []
    return fs.engine.main.view


def names(fs: Filesystem, view: ViewNo) -> list[bytes]:
    return [snapshot.name for snapshot in fs.snapshots(view)]


async def snapshots(fs: Filesystem, view: ViewNo, count: int) -> list[bytes]:
    for number in range(count):
        await fs.make(node_id(view, ROOT_INO), b"n%d-%d" % (view, fs.log.end + number), 0o100644, ME)
        await fs.checkpoint(view, None, ME)
    return names(fs, view)


async def test_a_policy_is_applied_stored_and_inherited(tmp_path: Path) -> None:
    policy = Retention(keep_last=2)
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        view = main_view(fs)
        commands = Commands(fs)
        await fs.checkpoint(view, b"mine", ME)
        made = await snapshots(fs, view, 6)
        await fs.commit.wait_durable(fs.log.end)
        root = await fs.snapshot_root(view, made[1])
        dry = await commands.run(Retain(policy=policy, dry_run=True), view, ME)
        assert dry.extra["removed"] == [name.decode() for name in made[1:5]]
        assert names(fs, view) == made and fs.retention(view) is None
        reply = await commands.run(Retain(policy=policy), view, ME)
        assert reply.ok and reply.extra["removed"] == dry.extra["removed"]
        assert names(fs, view) == [b"mine", *made[5:]]
        assert commands.roots.find(view, made[1]) is None
        with pytest.raises(FsError):
            await fs.lookup(root.node, b"x")
        await fs.fork(view, b"fork", ME)
        shutil.copytree(fs.store_path, tmp_path / "killed", ignore=shutil.ignore_patterns("lock"))
    for store in ("store", "killed"):
        async with open_filesystem(tmp_path / store, background=False) as fs:
            view = main_view(fs)
            assert names(fs, view) == [b"mine", *made[5:]]
            fork = fs.find_branch(b"main/fork").view
            assert fs.retention(view) == fs.retention(fork) == policy
            commands = Commands(fs)
            reply = await commands.run(Retain(b"fork", clear=True), view, ME)
            assert reply.ok and reply.extra["policy"] is None and fs.retention(fork) is None
            assert (await commands.run(Retain(), view, ME)).extra["policy"] == {
                "keep_last": 2,
                "hourly": 0,
                "daily": 0,
                "weekly": 0,
                "match": "",
            }
            await snapshots(fs, view, 3)
            await fs.commit.wait_durable(fs.log.end)
            assert len((await commands.run(Retain(apply=True), view, ME)).extra["removed"]) == 3  # type: ignore[arg-type]
            verbs = [line["verb"] for line in fs.oplog(view, 50)]
            assert "retention" in verbs and "expire" in verbs


async def test_the_last_durable_snapshot_stays_until_a_newer_one_is_durable(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        view = main_view(fs)
        old = await snapshots(fs, view, 3)
        await fs.commit.wait_durable(fs.log.end)
        new = await snapshots(fs, view, 3)
        outcome = await fs.expire(view, Retention(keep_last=1), ME)
        assert names(fs, view) == [old[2], new[-1]]
        assert outcome.extra["removed"] == [old[0], old[1], *new[3:5]]
        await fs.commit.wait_durable(fs.log.end)
        await fs.expire(view, Retention(keep_last=1), ME)
        assert names(fs, view) == [new[-1]]


async def test_more_than_one_record_holds(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        view = main_view(fs)
        await fs.make(node_id(view, ROOT_INO), b"f", 0o100644, ME)
        for _ in range(1203):
            await fs.checkpoint(view, None, ME)
        outcome = await fs.expire(view, Retention(keep_last=3), ME)
        assert len(outcome.extra["removed"]) == 1200 and fs.snapshot_count(view) == 3  # type: ignore[arg-type]
        await fs.wait_persisted()
    async with open_filesystem(tmp_path / "store", background=False) as fs:
        assert fs.snapshot_count(main_view(fs)) == 3
