"""A store that is opened for a connection which goes on: what was asked, what was unlinked, what to tell again."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from heliosfs.control.commands import Discard
from heliosfs.control.runner import Commands
from heliosfs.core import oplog
from heliosfs.core.diff import Change
from heliosfs.core.errors import StaleHandle
from heliosfs.core.ids import ROOT_INO, NodeId, node_id
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.storage import persist, untold
from heliosfs.storage.persist import REPLAYED_MAX

ME = Caller(0, 0)


def root_of(fs: Filesystem) -> NodeId:
    assert fs.engine.main is not None
    return node_id(fs.engine.main.view, ROOT_INO)


def kill(store: Path, copy: Path) -> None:
    shutil.copytree(store, copy, ignore=shutil.ignore_patterns("lock", "socket"))


def asked(fs: Filesystem, connection: int, request: int) -> None:
    fs.log.connection, fs.log.request = connection, request


async def test_requests_are_found_with_what_they_did(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        root = root_of(fs)
        asked(fs, 7, 2)
        made = await fs.make(root, b"f", 0o100644, ME)
        asked(fs, 7, 4)
        await fs.write(made.node, 0, b"content", ME)
        asked(fs, 8, 4)
        await fs.unlink(root, b"f", ME)
        asked(fs, 0, 0)
        await fs.make(root, b"nobody's", 0o100644, ME)
        kill(tmp_path / "store", tmp_path / "killed")
    async with open_filesystem(tmp_path / "killed", connections=[7]) as fs:
        found = fs.engine.unanswered
        assert set(found) == {(7, 2), (7, 4)}
        (applied,) = found[7, 2]
        record = oplog.decode(applied.kind, applied.body)
        assert isinstance(record, oplog.Make) and record.name == b"f"
        assert [(a.kind, a.length) for a in found[7, 4]] == [(oplog.Write.KIND, 7)]


async def test_a_cut_carries_what_has_no_answer_yet(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        root = root_of(fs)
        for request in (2, 4):
            fs.engine.unanswered[7, request] = []
            asked(fs, 7, request)
            await fs.make(root, b"%d" % request, 0o100644, ME)
        del fs.engine.unanswered[7, 2]
        asked(fs, 7, 6)
        await fs.make(root, b"answered at once", 0o100644, ME)
        await fs.wait_persisted()
        kill(tmp_path / "store", tmp_path / "killed")
    async with open_filesystem(tmp_path / "killed", connections=[7]) as fs:
        assert fs.log.recovery.records == 0
        assert {key: len(records) for key, records in fs.engine.unanswered.items()} == {(7, 4): 1}
    async with open_filesystem(tmp_path / "store") as fs:
        assert fs.engine.unanswered == {}


@pytest.mark.parametrize("goes_on", [True, False])
async def test_unlinked_files_live_on_for_it_alone(tmp_path: Path, goes_on: bool) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        root = root_of(fs)
        before = await fs.make(root, b"before", 0o100644, ME)
        behind = await fs.make(root, b"behind", 0o100644, ME)
        await fs.write(before.node, 0, b"content", ME)
        await fs.unlink(root, b"before", ME)
        await fs.wait_persisted()
        await fs.unlink(root, b"behind", ME)
        kill(tmp_path / "store", tmp_path / "killed")
    async with open_filesystem(tmp_path / "killed", connections=[7] if goes_on else []) as fs:
        if goes_on:
            assert await fs.read(before.node, 0, 99) == b"content"
            assert await fs.write(behind.node, 0, b"x", ME) == 1
            fs.forget_all()
        for node in (before.node, behind.node):
            with pytest.raises(StaleHandle):
                await fs.getattr(node)


async def test_what_kernels_may_not_have_dropped_is_told_again(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        root = root_of(fs)
        assert fs.engine.main is not None
        view = fs.engine.main.view
        file = await fs.make(root, b"f", 0o100644, ME)
        await fs.checkpoint(view, b"s", ME)
        await fs.write(file.node, 0, b"content", ME)
        await fs.fork(view, b"c", ME)
        child = fs.find_branch(b"main/c").view
        await fs.wait_persisted()
        await fs.restore(view, b"s", ME)
        await fs.discard(child, ME)
        kill(tmp_path / "store", tmp_path / "killed")
    async with open_filesystem(tmp_path / "killed", connections=[7]) as fs:
        told = {(change.view, change.ino) for change in fs.continuation.changes}
        assert (view, file.node & ((1 << 40) - 1)) in told
        assert (child, 0) in told
    async with open_filesystem(tmp_path / "killed") as fs:
        assert fs.continuation.changes == []


class SlowKernel:
    """Told of nothing before `go_on`."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.go_on = trio.Event()

    async def invalidate(self, changes: Sequence[Change]) -> None:
        self.asked.set()
        await self.go_on.wait()

    async def begin(self, changes: Sequence[Change]) -> Callable[[], Awaitable[None]]:
        return partial(self.invalidate, changes)


@pytest.mark.parametrize("later", [False, True], ids=["before the reply", "after it"])
async def test_a_cut_is_not_committed_while_kernels_are_being_told(tmp_path: Path, later: bool) -> None:
    """It would take the record away by which who goes on knows what to tell them."""
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        view = fs.find_branch(b"main").view
        await fs.fork(view, b"c", ME)
        child = fs.find_branch(b"main/c").view
        kernel = SlowKernel()
        fs.invalidators.append(kernel)
        work: list[Callable[[], Awaitable[None]]] = []
        run = partial(Commands(fs).run, Discard(b"c"), view, ME, later=work.append if later else None)
        async with trio.open_nursery() as nursery:
            if later:
                await run()
                nursery.start_soon(work[0])
            else:
                nursery.start_soon(run)
            await kernel.asked.wait()
            with trio.move_on_after(untold.UNTOLD_S / 2) as waited:
                await fs.persister.persist()
            assert waited.cancelled_caught
            kill(tmp_path / "store", tmp_path / "killed")
            kernel.go_on.set()
        with trio.fail_after(untold.UNTOLD_S / 2):
            await fs.persister.persist()
    async with open_filesystem(tmp_path / "killed", connections=[7]) as fs:
        assert (child, 0) in {(change.view, change.ino) for change in fs.continuation.changes}


async def test_a_kernel_that_can_not_be_told_keeps_no_cut_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untold, "UNTOLD_S", 0.05)
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        view = fs.find_branch(b"main").view
        await fs.fork(view, b"c", ME)
        kernel = SlowKernel()
        fs.invalidators.append(kernel)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Commands(fs).run, Discard(b"c"), view, ME)
            await kernel.asked.wait()
            await fs.persister.persist()
            kernel.go_on.set()


async def test_each_writer_has_a_later_epoch(tmp_path: Path) -> None:
    epochs = []
    for number in range(3):
        async with open_filesystem(tmp_path / "store", create=True) as fs:
            epochs.append(fs.log.epoch)
            await fs.make(root_of(fs), b"%d" % number, 0o100644, ME)
    assert epochs == sorted(set(epochs))


async def test_a_long_replay_is_not_left_to_the_next_process(tmp_path: Path) -> None:
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        root = root_of(fs)
        for number in range(REPLAYED_MAX + 1):
            await fs.make(root, b"%d" % number, 0o100644, ME)
        kill(tmp_path / "store", tmp_path / "killed")
    async with open_filesystem(tmp_path / "killed") as fs:
        assert fs.log.recovery.records > REPLAYED_MAX
        assert fs.persister.pressing()
        await fs.persister.persist()
        assert not fs.persister.pressing()


async def test_many_small_writes_are_not_left_for_one_long_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persist, "RECORDS_MAX", 100)
    async with open_filesystem(tmp_path / "store", create=True, background=False) as fs:
        file = await fs.make(root_of(fs), b"log", 0o100644, ME)
        for line in range(100):
            assert not fs.persister.pressing()
            await fs.write(file.node, line * 10, b"0123456789", ME)
        assert fs.persister.pressing()
        await fs.persister.persist()
        assert not fs.persister.pressing()
