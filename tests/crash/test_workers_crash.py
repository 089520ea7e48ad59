"""Workers that die, hang or are left behind: no job is lost, no chunk is claimed that is not there."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from cas.digest import chunk_id
from heliosfs.storage.workers import CutRun, ScannedNode, StoredFile, WorkerLost
from heliosfs.storage.workers.jobs import ScanWarning
from tests.support.worker_store import log_source, process_is_gone, worker_store

NOISE = random.Random(11).randbytes(3_000_000)
DEADLINE_S = 20.0


def some_file(directory: Path, content: bytes = NOISE) -> list[bytes]:
    path = directory / f"file-{len(content)}"
    path.write_bytes(content)
    return [os.fsencode(path)]


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_lost_in_mid_job_is_replaced_and_the_job_done(tmp_path: Path, by: signal.Signals) -> None:
    paths = some_file(tmp_path)
    async with worker_store(tmp_path, count=1, deadline_seconds=5.0) as store:
        victims: list[int] = []

        def hook() -> None:
            if not victims:
                victims.extend(store.pool.pids())
                os.kill(victims[0], by)

        store.index.hook = hook
        (result,) = await store.pool.store_files(paths)
        assert store.content(result) == NOISE
        assert store.pool.pids() != victims
        assert (store.pool.stats().lost, store.pool.stats().redone) == (1, 1)
        with trio.fail_after(DEADLINE_S):
            while not process_is_gone(victims[0]):
                await trio.lowlevel.checkpoint()
        await store.pool.sync()
        assert store.content(result) == NOISE


async def test_a_job_that_kills_its_workers_fails(tmp_path: Path) -> None:
    paths = some_file(tmp_path)
    async with worker_store(tmp_path, count=1) as store:
        store.index.hook = lambda: os.kill(store.pool.pids()[0], signal.SIGKILL)
        with pytest.raises(WorkerLost) as raised:
            await store.pool.store_files(paths)
        assert raised.value.errno == errno.EIO
        assert store.pool.stats().lost == 3
        store.index.hook = None
        assert store.content((await store.pool.store_files(paths))[0]) == NOISE


async def test_idle_workers_that_died_cost_no_try(tmp_path: Path) -> None:
    async with worker_store(tmp_path, count=4) as store:
        store.pool.start()
        victims = store.pool.pids()
        assert len(victims) == 4
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        with trio.fail_after(DEADLINE_S):
            while not all(map(process_is_gone, victims)):
                await trio.lowlevel.checkpoint()
        assert store.content((await store.pool.store_files(some_file(tmp_path)))[0]) == NOISE
        assert store.pool.stats().redone == 0


async def test_what_a_dead_worker_had_stored_is_synced_by_the_pool(tmp_path: Path) -> None:
    paths = some_file(tmp_path)
    async with worker_store(tmp_path, count=1) as store:
        (result,) = await store.pool.store_files(paths)
        os.kill(store.pool.pids()[0], signal.SIGKILL)
        await store.pool.sync()
        assert store.pool.stats().waiting == 0
        assert store.index.stats().chunks == store.pool.stats().chunks_new
        assert store.content(result) == NOISE
        assert await store.pool.store_files(paths) == [result]
        assert store.pool.stats().new_raw_bytes == len(NOISE)


async def test_what_cannot_be_synced_is_dropped_and_stored_anew(tmp_path: Path) -> None:
    async with worker_store(tmp_path, count=1) as store:
        paths = some_file(tmp_path)
        drops = store.pool.drops
        await store.pool.store_files(paths)
        os.kill(store.pool.pids()[0], signal.SIGKILL)
        for pack in store.packs.iterdir():
            pack.unlink()
        with pytest.raises(OSError) as raised:
            await store.pool.sync()
        assert raised.value.errno == errno.ENOENT
        # Nothing that is not there has been made known, and whoever relied on it is told however late he asks.
        assert (store.index.stats().chunks, store.pool.stats().waiting) == (0, 0)
        with pytest.raises(OSError, match="meanwhile"):
            await store.pool.sync(drops)
        drops = store.pool.drops
        (result,) = await store.pool.store_files(paths)
        await store.pool.sync(drops)
        assert store.content(result) == NOISE
        assert store.index.stats().chunks > 0


@pytest.mark.parametrize("call", ["sync", "sync_directory"])
async def test_a_worker_whose_sync_fails_is_replaced(tmp_path: Path, call: str) -> None:
    async with worker_store(tmp_path, count=1, module="tests.support.failing_worker") as store:
        store.pool.start()
        paths = some_file(tmp_path)
        (store.packs.parent / f"fail-{call}").write_text("5")
        await store.pool.store_files(paths)
        (pid,) = store.pool.pids()
        with pytest.raises(OSError) as raised:
            await store.pool.sync()
        assert raised.value.errno == errno.EIO
        assert store.index.stats().chunks == 0
        (store.packs.parent / f"fail-{call}").unlink()
        (result,) = await store.pool.store_files(paths)
        await store.pool.sync()
        assert store.pool.pids() != [pid]
        assert store.content(result) == NOISE
        assert store.index.stats().chunks == store.pool.stats().chunks_new // 2


@pytest.mark.parametrize("call", ["create", "append"])
async def test_a_worker_that_cannot_append_goes_on_when_it_can(tmp_path: Path, call: str) -> None:
    async with worker_store(tmp_path, count=1, module="tests.support.failing_worker") as store:
        paths = some_file(tmp_path)
        (store.packs.parent / f"fail-{call}").write_text(str(errno.ENOSPC))
        with pytest.raises(OSError) as raised:
            await store.pool.store_files(paths)
        assert raised.value.errno == errno.ENOSPC
        pids = store.pool.pids()
        (store.packs.parent / f"fail-{call}").unlink()
        (result,) = await store.pool.store_files(paths)
        await store.pool.sync()
        assert store.content(result) == NOISE
        assert store.pool.pids() == pids


async def test_a_chunk_that_another_worker_did_not_deliver_is_stored_after_all(tmp_path: Path) -> None:
    """A is told to store and stops; B has the same chunk, is told that A stores it, and waits for A."""
    content = NOISE[:50_000]
    first, second = some_file(tmp_path, content), some_file(tmp_path, content)
    async with worker_store(tmp_path, count=2, deadline_seconds=5.0) as store:
        started = trio.Event()

        def hook() -> None:
            if not started.is_set():
                os.kill(store.pool.pids()[0], signal.SIGSTOP)
                started.set()

        store.index.hook = hook
        results: list[StoredFile | OSError] = []

        async def job(paths: list[bytes]) -> None:
            results.extend(await store.pool.store_files(paths))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job, first)
            await started.wait()
            nursery.start_soon(job, second)
        assert [store.content(result) for result in results] == [content, content]
        await store.pool.sync()
        assert store.index.stats().chunks == 1
        # Both began again: A's job because A hung, B's because the chunk had not come.
        assert store.pool.stats().redone == 2
        assert store.chunk(chunk_id(content)) == content


async def test_a_lost_walk_is_told(tmp_path: Path) -> None:
    # More than the socket holds: the walk can't have ended when the first batch is here.
    for n in range(6000):
        (tmp_path / ("x" * 200 + f"{n}")).touch()
    async with worker_store(tmp_path, count=1) as store:

        async def deliver(nodes: list[ScannedNode], warnings: list[ScanWarning]) -> None:
            os.kill(store.pool.pids()[0], signal.SIGKILL)

        with pytest.raises(WorkerLost):
            await store.pool.scan_tree(os.fsencode(tmp_path), deliver)


_DAEMON = """
import os, sys, trio
from pathlib import Path
from tests.support.worker_store import worker_store

async def main():
    async with worker_store(Path(sys.argv[1]), count=2) as store:
        store.pool.start()
        if sys.argv[2] == "busy":
            store.index.hook = lambda: (print(*store.pool.pids(), flush=True), input())
            await store.pool.store_files([os.fsencode(sys.argv[3])])
        print(*store.pool.pids(), flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_workers_die_with_the_daemon(tmp_path: Path, state: str) -> None:
    (path,) = some_file(tmp_path)
    daemon = subprocess.Popen(
        [sys.executable, "-c", _DAEMON, str(tmp_path), state, os.fsdecode(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert daemon.stdout is not None
        pids = [int(word) for word in daemon.stdout.readline().split()]
        assert len(pids) == 2
    finally:
        daemon.kill()
        daemon.communicate(timeout=DEADLINE_S)
    end = time.monotonic() + DEADLINE_S
    while not all(map(process_is_gone, pids)):
        assert time.monotonic() < end, "a worker outlived its daemon"
        os.sched_yield()


def test_control_c_does_not_reach_workers(tmp_path: Path) -> None:
    async def main() -> None:
        async with worker_store(tmp_path, count=1) as store:
            await store.pool.store_files(some_file(tmp_path, b"warm"))
            os.kill(store.pool.pids()[0], signal.SIGINT)
            source = log_source(tmp_path / "seg", b"abc", 0, 3)
            await store.pool.cut_runs([CutRun((source,))])
            assert store.pool.stats().lost == 0

    trio.run(main)


async def test_a_worker_lost_while_a_sync_begins_holds_nobody_up(tmp_path: Path) -> None:
    """The sync has chosen the workers it must speak to, and one is lost before the first word.

    Trio runs what is ready in either order; in one of them the job finds the worker dead just then.
    """
    async with worker_store(tmp_path, count=1) as store:
        for turn in range(12):
            (stored,) = await store.pool.store_files(some_file(tmp_path, b"%02d" % turn * 100))
            assert isinstance(stored, StoredFile)
            (victim,) = store.pool.pids()
            os.kill(victim, signal.SIGKILL)
            with trio.fail_after(DEADLINE_S):
                while not process_is_gone(victim):
                    await trio.lowlevel.checkpoint()

            async def another_job(turn: int = turn) -> None:
                # The turn in which the sync, too, goes on.
                await trio.lowlevel.checkpoint()
                await store.pool.store_files(some_file(tmp_path, b"%02d" % turn * 101))

            with trio.fail_after(DEADLINE_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(store.pool.sync)
                    nursery.start_soon(another_job)
            assert all(store.index.has(id_) for _, _, id_ in stored.extents)
