"""Imports into a real store: what arrives, what is read again, and what a failure leaves."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cas.digest import chunk_id
from heliosfs.core.errors import FsError
from heliosfs.filesystem import Filesystem, open_filesystem
from heliosfs.filesystem.types import Caller
from heliosfs.storage.exporting import export_tree
from heliosfs.storage.importing import ImportResult, import_tree
from heliosfs.storage.importing_nodes import NodeList
from heliosfs.storage.workers import ScannedNode, StoredFile, WorkerLost
from heliosfs.storage.workers.pool import Deliver
from tests.support.trees import allocated, listing, make_tree, walk

ROOT = Caller(0, 0)
MINE = Caller(os.geteuid(), os.getegid())


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Filesystem]:
    async with open_filesystem(directory / "store", create=True, background=False) as fs:
        yield fs


def quiet(files: int, size: int) -> None:
    pass


async def imported(fs: Filesystem, tree: Path, caller: Caller = MINE) -> ImportResult:
    return await import_tree(fs, os.fsencode(tree), b"main", quiet, caller)


async def content(fs: Filesystem, path: bytes) -> bytes:
    entry = await fs.resolve(fs.find_branch(b"main").view, path)
    return await fs.read(entry.node, 0, entry.attr.size)


async def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    make_tree(tree)
    seen: list[tuple[int, int]] = []
    async with opened(tmp_path) as fs:
        result = await import_tree(
            fs, os.fsencode(tree), b"main", lambda files, size: seen.append((files, size)), MINE
        )
        assert result.warnings == []
        await export_tree(fs, fs.find_branch(b"main").view, os.fsencode(out), quiet)
        assert fs.latest(fs.find_branch(b"main").view) == result.snapshot.encode()
    assert listing(out) == listing(tree)
    assert result.snapshot.startswith("import-")
    assert result.files == len(listing(tree)) - 1
    assert allocated(out / "sparse") < 2 << 20
    assert seen == sorted(seen)
    found = [os.lstat(path) for path in walk(tree)]
    sizes = {status.st_ino: status.st_size for status in found if stat.S_ISREG(status.st_mode)}
    assert seen[-1] == (result.files + 1, result.bytes) == (len(found), sum(sizes.values()))


async def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_tree(tree)
    async with opened(tmp_path) as fs:
        first = await imported(fs, tree)
        assert first.unchanged == 0
        asked = fs.pool.stats().chunks_asked
        second = await imported(fs, tree)
        assert fs.pool.stats().chunks_asked == asked
        assert (second.new_bytes, second.files, second.bytes) == (0, first.files, first.bytes)
        assert second.unchanged > 0
        (tree / "text").write_text("HELLO\n" * 1000)
        (tree / "new").write_bytes(b"brand new")
        (tree / "large").unlink()
        shutil.rmtree(tree / "dir" / "deep")
        third = await imported(fs, tree)
        # text (6,000 bytes), the one whose name comes first; and new.
        assert third.new_bytes == 6000 + 9
        out = tmp_path / "out"
        await export_tree(fs, fs.find_branch(b"main").view, os.fsencode(out), quiet)
        assert listing(out) == listing(tree)
        # A file that became another kind of thing is not "the same" for having size and time of the old one.
        status = os.stat(tree / "new")
        (tree / "new").unlink()
        (tree / "new").symlink_to("123456789")
        os.utime(tree / "new", ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)
        await imported(fs, tree)
        assert await fs.readlink((await fs.resolve(fs.find_branch(b"main").view, b"new")).node) == b"123456789"


async def test_a_store_survives_with_what_was_imported(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_tree(tree)
    async with opened(tmp_path) as fs:
        await imported(fs, tree)
    async with opened(tmp_path) as fs:
        await export_tree(fs, fs.find_branch(b"main").view, os.fsencode(tmp_path / "out"), quiet)
    assert listing(tmp_path / "out") == listing(tree)


async def test_the_state_before_is_a_snapshot(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    async with opened(tmp_path) as fs:
        await imported(fs, tmp_path / "one")
        await imported(fs, tmp_path / "two")
        view = fs.find_branch(b"main").view
        with pytest.raises(FsError):
            await content(fs, b"one")
        assert await content(fs, b"two") == b"two"
        names = [s.name for s in fs.snapshots(view)]
        kept = [await fs.readdir((await fs.snapshot_root(view, name)).node, 0, 9) for name in names]
        assert [sorted(entry[0] for entry in found) for found in kept] == [[b"one"], [b"one"], [b"two"]]


@pytest.mark.parametrize(("name", "number"), [("absent", errno.ENOENT), ("file", errno.ENOTDIR)])
async def test_a_root_that_is_none(tmp_path: Path, name: str, number: int) -> None:
    (tmp_path / "file").touch()
    async with opened(tmp_path) as fs:
        with pytest.raises(OSError) as raised:
            await imported(fs, tmp_path / name)
        assert raised.value.errno == number
        assert name in str(raised.value)
        assert fs.snapshots(fs.find_branch(b"main").view) == []


async def test_an_unknown_branch(tmp_path: Path) -> None:
    async with opened(tmp_path) as fs:
        with pytest.raises(FsError) as raised:
            await import_tree(fs, os.fsencode(tmp_path), b"main/none", quiet, MINE)
        assert raised.value.errno == errno.ENOENT


async def test_a_control_directory_and_the_store_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ".helios").mkdir()
    (tmp_path / "f").write_bytes(b"f")
    async with opened(tmp_path) as fs:
        result = await imported(fs, tmp_path)
        assert sorted(result.warnings) == [
            ".helios: a control directory is not imported",
            "store: the store itself is not imported",
        ]
        root = fs.branch_root(fs.find_branch(b"main").view)
        assert [name for name, _, _ in await fs.readdir(root.node, 0, 9)] == [b"f"]


async def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_bytes(b"f")
    async with opened(tmp_path) as fs:
        await imported(fs, tmp_path / "tree")
        view = fs.find_branch(b"main").view
        before = await fs.tree_root(view)
        snapshots = fs.snapshots(view)
        (tmp_path / "tree" / "g").write_bytes(b"g")

        async def full(paths: Sequence[bytes]) -> list[StoredFile | OSError]:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(fs.pool, "store_files", full)
            with pytest.raises(OSError, match="no space left in the store for this import") as raised:
                await imported(fs, tmp_path / "tree")
            assert raised.value.errno == errno.ENOSPC
        assert await fs.tree_root(view) == before
        assert [s.name for s in fs.snapshots(view)] == [s.name for s in snapshots]
        assert (await imported(fs, tmp_path / "tree")).new_bytes == 1


async def test_packs_that_take_no_more_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_bytes(os.urandom(300_000))
    async with opened(tmp_path) as fs:
        view = fs.find_branch(b"main").view
        before = await fs.tree_root(view)
        for pid in fs.pool.pids():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        with pytest.raises(OSError) as raised:
            await imported(fs, tmp_path / "tree")
        assert raised.value.errno == errno.EFBIG
        assert await fs.tree_root(view) == before
        assert fs.snapshots(view) == []


async def test_a_walk_that_dies_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path / "tree")
    async with opened(tmp_path) as fs:
        scan = fs.pool.scan_tree
        walks = 0

        async def dying(directory: bytes, deliver: Deliver) -> None:
            nonlocal walks
            walks += 1

            async def each(nodes: list[ScannedNode], warnings: list[object]) -> None:
                if walks < 3:
                    for pid in fs.pool.pids():
                        os.kill(pid, signal.SIGKILL)
                await deliver(nodes, warnings)  # type: ignore[arg-type]
                if walks < 3:
                    raise WorkerGone

            try:
                await scan(directory, each)  # type: ignore[arg-type]
            except WorkerGone:
                raise WorkerLost("killed") from None

        monkeypatch.setattr(fs.pool, "scan_tree", dying)
        await imported(fs, tmp_path / "tree")
        assert walks == 3
        await export_tree(fs, fs.find_branch(b"main").view, os.fsencode(tmp_path / "out"), quiet)
    assert listing(tmp_path / "out") == listing(tmp_path / "tree")


class WorkerGone(Exception):
    pass


async def test_a_file_that_vanishes_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    for name in ("a", "b"):
        (tree / name).write_bytes(name.encode())
    os.link(tree / "a", tree / "d" / "linked")
    async with opened(tmp_path) as fs:
        store = fs.pool.store_files
        gone: list[bytes] = []

        async def vanishing(paths: Sequence[bytes]) -> list[StoredFile | OSError]:
            for path in paths:
                if not gone and path.endswith((b"/a", b"/linked")):
                    os.unlink(path)
                    gone.append(path)
            return await store(paths)

        monkeypatch.setattr(fs.pool, "store_files", vanishing)
        result = await imported(fs, tree)
        assert len(result.warnings) == 1 and "No such file" in result.warnings[0]
        left = b"d/linked" if gone[0].endswith(b"/a") else b"a"
        assert await content(fs, left) == b"a"
        assert await content(fs, b"b") == b"b"
        assert result.files == 3


# --- the list of nodes, without a store --------------------------------------------------------------


def scanned(parent: int, name: bytes, mode: int = stat.S_IFREG | 0o644, **more: object) -> ScannedNode:
    node = ScannedNode(parent, name, mode, 1000, 1000, 0, 4, 5, 6, 7, 8, 1, (), b"")
    return node._replace(**more)  # type: ignore[arg-type]


def rooted(caller: Caller) -> NodeList:
    nodes = NodeList(b"/r", None, caller)
    nodes.add(scanned(-1, b"", stat.S_IFDIR | 0o755))
    return nodes


def test_other_peoples_files_become_the_callers() -> None:
    xattrs = ((b"security.capability", b"c"), (b"trusted.x", b"t"), (b"user.helios.x", b"h"), (b"user.x", b"u"))
    nodes = rooted(Caller(1000, 1000))
    nodes.add(scanned(0, b"mine", stat.S_IFREG | 0o6755, gid=50, xattrs=xattrs))
    nodes.add(scanned(0, b"roots", stat.S_IFREG | 0o6755, uid=0, gid=3, xattrs=xattrs))
    _, mine, other = nodes.finished()
    assert (mine.uid, mine.gid, mine.mode, mine.orig_uid) == (1000, 50, stat.S_IFREG | 0o6755, -1)
    assert (other.uid, other.gid, other.orig_uid, other.orig_gid) == (1000, 1000, 0, 3)
    assert other.mode == stat.S_IFREG | 0o755
    assert mine.xattrs == other.xattrs == {b"user.x": b"u"}


def test_root_keeps_owners_and_xattrs() -> None:
    nodes = rooted(ROOT)
    xattrs = ((b"security.capability", b"c"), (b"user.helios.x", b"h"))
    nodes.add(scanned(0, b"f", stat.S_IFREG | 0o6755, uid=7, gid=8, xattrs=xattrs))
    _, node = nodes.finished()
    assert (node.uid, node.gid, node.mode, node.orig_uid) == (7, 8, stat.S_IFREG | 0o6755, -1)
    assert node.xattrs == {b"security.capability": b"c"}


def test_names_of_one_file_follow_the_first_that_can_be_read() -> None:
    nodes = rooted(ROOT)
    to_read = [nodes.add(scanned(0, name, nlink=3))[0] for name in (b"a", b"b", b"c")]
    assert to_read[1:] == [None, None]
    first = to_read[0]
    assert first is not None and first.path == b"/r/a"
    again = nodes.failed(first, FileNotFoundError(errno.ENOENT, "gone"))
    assert again is not None and again.path == b"/r/b"
    nodes.stored(again, StoredFile(4, 5, 6, False, [(0, 4, chunk_id(b"data"))]))
    _, b, c = nodes.finished()
    assert (b.name, b.link_to, b.extents) == (b"b", -1, [(0, 4, chunk_id(b"data"))])
    assert (c.name, c.link_to) == (b"c", 1)


def test_all_names_of_a_file_that_may_not_be_read_are_left_out() -> None:
    nodes = rooted(ROOT)
    first, _ = nodes.add(scanned(0, b"a", nlink=2))
    nodes.add(scanned(0, b"b", nlink=2))
    nodes.add(scanned(0, b"d", stat.S_IFDIR | 0o755))
    nodes.add(scanned(3, b"e", size=0))
    assert first is not None
    assert nodes.failed(first, PermissionError(errno.EACCES, "denied")) is None
    kept = nodes.finished()
    assert [(node.name, node.parent) for node in kept] == [(b"", -1), (b"d", 0), (b"e", 1)]
    assert nodes.warnings == ["a: denied"]


def test_a_file_that_changed_while_it_was_read_is_told() -> None:
    nodes = rooted(ROOT)
    file, _ = nodes.add(scanned(0, b"odd \xff"))
    assert file is not None
    nodes.stored(file, StoredFile(9, 10, 11, True, []))
    assert nodes.warnings == ["odd \\xff: was written to while it was read"]
    node = nodes.finished()[1]
    assert (node.size, node.mtime_ns) == (9, 10)
