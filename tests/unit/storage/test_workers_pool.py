"""The pool with real processes: what it stores, once; what it syncs; what it refuses."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
from pathlib import Path

import pytest
import trio

from cas.chunker import SMALL_MAX, cut
from cas.digest import chunk_id
from heliosfs.core.errors import Damaged
from heliosfs.storage.workers import CutRun, ScannedNode, StoredFile
from heliosfs.storage.workers.jobs import ScanWarning
from tests.support.worker_store import log_source, worker_store

NOISE = random.Random(3).randbytes(2_000_000)


def write_files(directory: Path, contents: dict[str, bytes]) -> list[bytes]:
    directory.mkdir(exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return [os.fsencode(directory / name) for name in contents]


async def test_files_are_stored_as_they_are(tmp_path: Path) -> None:
    contents = {
        "empty": b"",
        "one": b"1",
        "small": NOISE[:SMALL_MAX],
        "large": NOISE[: SMALL_MAX + 1],
        "huge": NOISE,
        "text": b"def f(): pass\n" * 10_000,
    }
    paths = write_files(tmp_path / "in", contents)
    async with worker_store(tmp_path) as store:
        results = await store.pool.store_files(paths)
        assert [store.content(result) for result in results] == list(contents.values())
        huge = results[4]
        assert isinstance(huge, StoredFile)
        assert [length for _, length, _ in huge.extents] == cut(NOISE)
        status = os.stat(paths[4])
        assert (huge.size, huge.mtime_ns, huge.ctime_ns) == (len(NOISE), status.st_mtime_ns, status.st_ctime_ns)
        assert not huge.changed


async def test_holes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(10 << 20)
        file.seek(1 << 20)
        file.write(b"a" * 4096)
        file.seek(5 << 20)
        file.write(NOISE[: 200 * 1024])
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 30)
    async with worker_store(tmp_path) as store:
        sparse, hole = await store.pool.store_files([os.fsencode(path), os.fsencode(tmp_path / "hole")])
        assert isinstance(sparse, StoredFile) and isinstance(hole, StoredFile)
        assert store.content(sparse) == path.read_bytes()
        assert sparse.extents[0][:2] == (1 << 20, 4096)
        assert sparse.extents[1][0] == 5 << 20
        # Each run is cut from its own first byte.
        assert [length for _, length, _ in sparse.extents[1:]] == cut(NOISE[: 200 * 1024])
        assert (hole.size, hole.extents) == (1 << 30, [])


async def test_what_cannot_be_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"good")
    (tmp_path / "link").symlink_to("good")
    os.mkfifo(tmp_path / "fifo")
    names = ["absent", "good", "link", "fifo", "."]
    async with worker_store(tmp_path) as store:
        results = await store.pool.store_files([os.fsencode(tmp_path / name) for name in names])
        assert store.content(results[1]) == b"good"
        numbers = [r.errno if isinstance(r, OSError) else 0 for r in results]
        assert numbers == [errno.ENOENT, 0, errno.ELOOP, errno.EINVAL, errno.EINVAL]
        assert isinstance(results[0], OSError) and results[0].filename == str(tmp_path / "absent")
        assert await store.pool.store_files([]) == []


async def test_one_content_is_stored_once(tmp_path: Path) -> None:
    same = NOISE[:10_000]
    paths = write_files(tmp_path / "in", {f"f{n}": same for n in range(900)})
    async with worker_store(tmp_path) as store:
        results = await store.pool.store_files(paths)
        assert all(isinstance(r, StoredFile) and r.extents == [(0, 10_000, chunk_id(same))] for r in results)
        await store.pool.sync()
        stats = store.pool.stats()
        assert (stats.chunks_new, stats.new_raw_bytes) == (1, 10_000)
        assert store.index.stats().chunks == 1
        before = store.pack_bytes()
        assert await store.pool.store_files(paths) == results
        await store.pool.sync()
        assert store.pack_bytes() == before
        assert store.pool.stats().chunks_new == 1


async def test_runs_are_cut_from_log_and_chunks(tmp_path: Path) -> None:
    segment = tmp_path / "seg-0001"
    sources = tuple(
        log_source(segment, NOISE[at : at + 100_000], 0, 100_000) for at in range(0, len(NOISE), 100_000)
    )
    ends = [0]
    for length in cut(NOISE):
        ends.append(ends[-1] + length)
    runs = [
        CutRun(sources),
        CutRun((sources[0]._replace(start=10, length=50),)),
        CutRun(sources, (ends[3], ends[5])),
        CutRun(()),
    ]
    async with worker_store(tmp_path) as store:
        whole, small, stopped, nothing = await store.pool.cut_runs(runs)
        assert b"".join(store.chunk(id_) for id_, _ in whole.pieces) == NOISE
        assert whole.consumed == len(NOISE)
        assert [length for _, length in whole.pieces] == cut(NOISE)
        assert small.pieces == ((chunk_id(NOISE[10:60]), 50),)
        assert stopped == (whole.pieces[:3], ends[3])
        assert nothing == ((), 0)


async def test_damage_fails_its_run_alone(tmp_path: Path) -> None:
    segment = tmp_path / "seg"
    good, bad = log_source(segment, b"good" * 100, 0, 400), log_source(segment, b"bad!" * 100, 0, 400)
    with segment.open("r+b") as file:
        file.seek(bad.payload_offset + 7)
        file.write(b"X")
    async with worker_store(tmp_path) as store:
        results = await store.pool.cut_each([CutRun((good,)), CutRun((bad,)), CutRun((good,))])
        assert not isinstance(results[0], Damaged)
        assert isinstance(results[1], Damaged) and results[1].errno == errno.EIO
        assert results[0] == results[2]
        with pytest.raises(Damaged, match="damaged block at 0"):
            await store.pool.cut_runs([CutRun((good,)), CutRun((bad,))])
        # It is the run that is damaged, not the worker.
        assert len(await store.pool.cut_runs([CutRun((good,))])) == 1
        assert store.pool.stats().lost == 0


async def test_many_runs_are_divided_into_jobs(tmp_path: Path) -> None:
    segment = tmp_path / "seg"
    sources = [log_source(segment, b"%d" % n, 0, len(b"%d" % n)) for n in range(450)]
    async with worker_store(tmp_path) as store:
        results = await store.pool.cut_runs([CutRun((source,)) for source in sources])
        assert [store.chunk(r.pieces[0][0]) for r in results] == [b"%d" % n for n in range(450)]
        assert store.pool.stats().jobs == 3


async def test_the_index_learns_of_chunks_at_a_sync(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "in", {f"f{n}": b"%d" % n for n in range(250)})
    async with worker_store(tmp_path) as store:
        await store.pool.store_files(paths)
        assert store.index.stats().chunks == 0
        assert store.pool.stats().waiting == 250
        assert store.pool.place(chunk_id(b"7")) is not None
        await store.pool.sync()
        assert store.index.stats().chunks == 250
        assert store.pool.stats().waiting == 0
        assert store.pool.place(chunk_id(b"7")) is None
        assert store.chunk(chunk_id(b"7")) == b"7"
        await store.pool.sync()  # Nothing to do.


async def test_a_sync_does_not_wait_for_a_long_job(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(random.Random(5).randbytes(48 << 20))
    order: list[str] = []
    asked = trio.Event()
    async with worker_store(tmp_path, count=1) as store:

        def hook() -> None:
            asked.set()

        store.index.hook = hook

        async def long_job() -> None:
            await store.pool.store_files([os.fsencode(path)])
            order.append("job")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(long_job)
            await asked.wait()
            while not store.pool.stats().waiting:
                await trio.lowlevel.checkpoint()
            await store.pool.sync()
            order.append("sync")
        assert order == ["sync", "job"]
        assert store.index.stats().chunks > 0
        await store.pool.sync()
        assert store.pool.stats().waiting == 0


async def test_memory_does_not_follow_the_size_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        for seed in range(160):
            file.write(random.Random(seed).randbytes(1 << 20))
    async with worker_store(tmp_path, count=1) as store:
        (result,) = await store.pool.store_files([os.fsencode(path)])
        assert isinstance(result, StoredFile) and result.size == 160 << 20
        status = Path(f"/proc/{store.pool.pids()[0]}/status").read_text()
        peak_kib = int(status.split("VmHWM:")[1].split()[0])
        assert peak_kib < 80 << 10
        assert sum(length for _, length, _ in result.extents) == 160 << 20


async def test_packs_that_take_no_more_fail_the_job_and_not_the_pool(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "in", {"a": b"a", "b": b"b"})
    async with worker_store(tmp_path, count=1) as store:
        shutil.rmtree(store.packs)
        with pytest.raises(OSError) as raised:
            await store.pool.store_files(paths)
        assert raised.value.errno == errno.ENOENT
        store.packs.mkdir()
        assert [store.content(r) for r in await store.pool.store_files(paths)] == [b"a", b"b"]
        assert store.pool.stats().lost == 0


async def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """The file size limit stands for a full disk: a part of the batch is written, then EFBIG."""
    first, second = write_files(tmp_path / "in", {"first": b"before", "second": NOISE})
    async with worker_store(tmp_path, count=1) as store:
        (before,) = await store.pool.store_files([first])
        pid = store.pool.pids()[0]
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        with pytest.raises(OSError) as raised:
            await store.pool.store_files([second])
        assert raised.value.errno == errno.EFBIG
        assert store.pool.stats().waiting == 1
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        (after,) = await store.pool.store_files([second])
        await store.pool.sync()
        assert store.pool.pids() == [pid]
        assert (store.content(before), store.content(after)) == (b"before", NOISE)
        (pack,) = store.packs.iterdir()
        assert len(list(store.reader.scan(int(pack.name[5:])))) == store.index.stats().chunks


async def test_the_worker_is_nice_and_out_of_the_terminals_reach(tmp_path: Path) -> None:
    async with worker_store(tmp_path) as store:
        store.pool.start()
        assert len(store.pool.pids()) == 2
        await store.pool.scan_tree(os.fsencode(tmp_path), ignore)
        # The last one taken did the walk, so it has started.
        pid = store.pool.pids()[-1]
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert os.getpgid(pid) == pid
        descriptors = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        assert not [name for name in descriptors if str(tmp_path) in name]


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root can't take niceness back")
async def test_workers_whom_somebody_waits_for_are_not_nice(tmp_path: Path) -> None:
    def niceness() -> set[int]:
        return {os.getpriority(os.PRIO_PROCESS, pid) for pid in store.pool.pids()}

    async with worker_store(tmp_path) as store:
        with store.pool.urged():
            store.pool.start()
            assert niceness() == {0}
            with store.pool.urged():
                pass
            assert niceness() == {0}
        assert niceness() == {19}
        with store.pool.urged():
            assert niceness() == {0}
        await store.pool.scan_tree(os.fsencode(tmp_path), ignore)
        assert niceness() == {19}


async def ignore(nodes: list[ScannedNode], warnings: list[ScanWarning]) -> None:
    pass


async def test_a_closed_pool_says_so(tmp_path: Path) -> None:
    async with worker_store(tmp_path) as store:
        store.pool.start()
        await store.pool.close()
        await store.pool.close()
        with pytest.raises(OSError) as raised:
            await store.pool.store_files([b"/x"])
        assert raised.value.errno == errno.ESHUTDOWN


async def test_a_cancelled_job_leaves_a_good_pool(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "in", {"a": NOISE})
    async with worker_store(tmp_path, count=1) as store:
        with trio.CancelScope() as scope:
            store.index.hook = scope.cancel
            await store.pool.store_files(paths)
        assert scope.cancelled_caught
        store.index.hook = None
        assert store.content((await store.pool.store_files(paths))[0]) == NOISE


async def test_a_file_that_is_written_to_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(random.Random(9).randbytes(24 << 20))
    asked = 0
    async with worker_store(tmp_path, count=1) as store:

        def hook() -> None:
            nonlocal asked
            asked += 1
            if asked == 1:
                with path.open("ab") as file:
                    file.write(b"more")

        store.index.hook = hook
        (result,) = await store.pool.store_files([os.fsencode(path)])
        assert store.content(result) == path.read_bytes()
        assert isinstance(result, StoredFile) and not result.changed

        def always() -> None:
            with path.open("ab") as file:
                file.write(b"more")

        store.index.hook = always
        (result,) = await store.pool.store_files([os.fsencode(path)])
        assert isinstance(result, StoredFile) and result.changed


# --- walking -----------------------------------------------------------------------------------------


async def test_walk(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "f").write_bytes(b"12345")
    os.link(root / "d" / "e" / "f", root / "g")
    (root / "l").symlink_to("to\udcff")
    os.mkfifo(root / "fifo", 0o640)
    (root / ".helios").mkdir()
    (root / ".helios" / "inside").touch()
    (root / "d" / ".helios").touch()
    os.utime(root / "g", ns=(1, -1_500_000_001))
    os.setxattr(root / "g", "user.a", b"\0b")
    for n in range(500):
        (root / "d" / f"{n}").touch()
    os.mkdir(os.fsencode(root) + b"/\xff\n")
    nodes: list[ScannedNode] = []
    warnings: list[ScanWarning] = []
    batches: list[int] = []

    async def deliver(found: list[ScannedNode], told: list[ScanWarning]) -> None:
        nodes.extend(found)
        warnings.extend(told)
        batches.append(len(found))

    async with worker_store(tmp_path) as store:
        (tmp_path / "to").symlink_to(root)
        await store.pool.scan_tree(os.fsencode(tmp_path / "to"), deliver)
    paths: list[bytes] = []
    for at, node in enumerate(nodes):
        assert node.parent < at
        paths.append(node.name if node.parent <= 0 else paths[node.parent] + b"/" + node.name)
    found = dict(zip(paths, nodes, strict=True))
    expected = {b"", b"d", b"d/e", b"d/e/f", b"g", b"l", b"fifo", b"d/.helios", b"\xff\n"}
    assert set(found) == expected | {b"d/%d" % n for n in range(500)}
    assert max(batches) <= 200
    assert [w.path for w in warnings] == [b".helios"]
    for path, node in found.items():
        status = os.lstat(os.fsencode(root) + b"/" + path)
        assert (node.mode, node.uid, node.gid, node.rdev, node.size, node.mtime_ns, node.ctime_ns) == (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        assert (node.dev, node.ino, node.nlink) == (status.st_dev, status.st_ino, status.st_nlink)
    assert found[b"l"].target == b"to\xff"
    assert found[b"g"].xattrs == found[b"d/e/f"].xattrs == ((b"user.a", b"\0b"),)
    assert found[b"g"].mtime_ns == -1_500_000_001


@pytest.mark.parametrize(("name", "number"), [("absent", errno.ENOENT), ("file", errno.ENOTDIR)])
async def test_a_root_that_is_none(tmp_path: Path, name: str, number: int) -> None:
    (tmp_path / "file").touch()
    async with worker_store(tmp_path, count=1) as store:
        with pytest.raises(OSError) as raised:
            await store.pool.scan_tree(os.fsencode(tmp_path / name), ignore)
        assert raised.value.errno == number
        assert store.pool.stats().lost == 0


async def test_the_store_is_not_walked(tmp_path: Path) -> None:
    names: set[bytes] = set()
    reasons: list[str] = []

    async def deliver(found: list[ScannedNode], told: list[ScanWarning]) -> None:
        names.update(node.name for node in found)
        reasons.extend(warning.reason for warning in told)

    (tmp_path / "other").mkdir()
    async with worker_store(tmp_path) as store:
        await store.pool.scan_tree(os.fsencode(tmp_path), deliver)
    assert names == {b"", b"other"}
    assert reasons == ["the store itself is not imported"]
