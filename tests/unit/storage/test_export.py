"""Exports of a real store, as a tree and as a tar; what the destination refuses."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from heliosfs.core.errors import FsError
from heliosfs.core.ids import NodeId, ViewNo
from heliosfs.filesystem import Filesystem, open_filesystem
from heliosfs.filesystem.types import Caller
from heliosfs.storage.exporting import export_tar, export_tree
from heliosfs.storage.importing import import_tree
from tests.support.trees import listing, make_tree

MINE = Caller(os.geteuid(), os.getegid())


def quiet(files: int, size: int) -> None:
    pass


@asynccontextmanager
async def opened(directory: Path, tree: Path | None) -> AsyncIterator[tuple[Filesystem, ViewNo]]:
    async with open_filesystem(directory / "store", create=True, background=False) as fs:
        if tree is not None:
            await import_tree(fs, os.fsencode(tree), b"main", quiet, MINE)
        yield fs, fs.find_branch(b"main").view


async def tar_of(fs: Filesystem, view: ViewNo) -> tuple[bytes, list[str]]:
    stream = io.BytesIO()
    result = await export_tar(fs, view, stream, quiet)
    return stream.getvalue(), result.warnings


async def test_a_tar_holds_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_tree(tree)
    async with opened(tmp_path, tree) as (fs, view):
        data, warnings = await tar_of(fs, view)
    assert warnings == ["socket: a socket has no place in a tar"]
    (tmp_path / "out").mkdir()
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=user.*", "-xpf", "-", "-C", str(tmp_path / "out")],
        input=data,
        check=True,
        capture_output=True,
        timeout=60,
    )
    expected, found = listing(tree, sockets=False), listing(tmp_path / "out", sockets=False)
    assert found.keys() == expected.keys()
    for path, entry in expected.items():
        assert found[path] == entry, path


async def test_a_tar_goes_down_a_pipe(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "f").write_bytes(b"x" * 5000)
    async with opened(tmp_path, tree) as (fs, view):
        process = subprocess.Popen(["tar", "-tf", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        await export_tar(fs, view, process.stdin, quiet)  # type: ignore[arg-type]
        out, _ = process.communicate(timeout=60)
    assert out.split() == [b"./", b"f"]


async def test_tar_records(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_tree(tree)
    async with opened(tmp_path, tree) as (fs, view):
        data, _ = await tar_of(fs, view)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {member.name: member for member in tar.getmembers()}
    names = [name for name in members if members[name].islnk()]
    assert len(names) == 3
    text = next(members[n] for n in ("text", "a hard link", "dir/hard link") if members[n].isreg())
    assert text.pax_headers["SCHILY.xattr.user.plain"] == "value"
    assert "SCHILY.xattr.user.bin é%3D%25" in text.pax_headers
    assert members["large"].pax_headers["mtime"].count(".") == 1
    assert members["empty"].pax_headers["mtime"] == "-0.987654321"
    order = list(members)
    inside = [at for at, name in enumerate(order) if name == "dir" or name.startswith("dir/")]
    assert inside == list(range(inside[0], inside[0] + len(inside)))


async def test_an_xattr_name_that_pax_cannot_hold_is_a_warning(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    os.setxattr(tree, b"user.\xff", b"v")
    async with opened(tmp_path, tree) as (fs, view):
        _, warnings = await tar_of(fs, view)
    assert warnings == [".: the name of xattr user.\\xff is not UTF-8, which PAX keywords are"]


@pytest.mark.parametrize("what", ["directory", "file"])
async def test_a_destination_in_use_is_refused(tmp_path: Path, what: str) -> None:
    dest = tmp_path / "dest"
    if what == "directory":
        dest.mkdir()
        (dest / "mine").touch()
    else:
        dest.touch()
    async with opened(tmp_path, None) as (fs, view):
        with pytest.raises(OSError) as raised:
            await export_tree(fs, view, os.fsencode(dest), quiet)
    assert raised.value.errno == (errno.ENOTEMPTY if what == "directory" else errno.ENOTDIR)
    assert dest.exists()


async def test_an_empty_destination_is_taken(tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir()
    async with opened(tmp_path, None) as (fs, view):
        result = await export_tree(fs, view, os.fsencode(tmp_path / "dest"), quiet)
        assert result.files == 0
        with pytest.raises(FsError) as raised:
            await export_tree(fs, ViewNo(99), os.fsencode(tmp_path / "none"), quiet)
    assert raised.value.errno == errno.ESTALE
    assert not (tmp_path / "none").exists()


async def test_a_snapshot_is_exported_as_it_was(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_tree(tree)
    async with opened(tmp_path, tree) as (fs, view):
        name = fs.latest(view)
        assert name is not None
        entry = await fs.resolve(view, b"text")
        await fs.write(entry.node, 0, b"overwritten", MINE)
        snapshot = await fs.snapshot_root(view, name)
        await export_tree(fs, ViewNo(snapshot.node >> 40), os.fsencode(tmp_path / "out"), quiet)
    assert listing(tmp_path / "out") == listing(tree)


async def test_a_file_that_cannot_be_read_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("bad", "good"):
        (tree / name).write_bytes(name.encode() * 100)
    os.link(tree / "bad", tree / "bad too")
    async with opened(tmp_path, tree) as (fs, view):
        bad = (await fs.resolve(view, b"bad")).node
        read = fs.read

        async def damaged(node: NodeId, offset: int, size: int) -> bytes:
            if node == bad:
                raise FsError(errno.EIO, "damaged")
            return await read(node, offset, size)

        monkeypatch.setattr(fs, "read", damaged)
        result = await export_tree(fs, view, os.fsencode(tmp_path / "out"), quiet)
        assert sorted(os.listdir(tmp_path / "out")) == ["good"]
        assert len(result.warnings) == 2 and "damaged" in "".join(result.warnings)
        data, warnings = await tar_of(fs, view)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            contents = {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]
        assert contents.pop("good") == b"good" * 100
        assert list(contents.values()) == [bytes(300)]
        assert any("zeros" in warning for warning in warnings)


async def test_set_id_bits_are_given_up_with_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "tool").write_bytes(b"#!")
    (tree / "tool").chmod(0o6755)
    async with opened(tmp_path, tree) as (fs, view):
        somebody = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: somebody)
        await export_tree(fs, view, os.fsencode(tmp_path / "out"), quiet)
    assert stat.S_IMODE(os.stat(tmp_path / "out" / "tool").st_mode) == 0o755


async def test_a_full_destination_ends_the_export(tmp_path: Path) -> None:
    async with opened(tmp_path, None) as (fs, view):
        with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError) as raised:
            await export_tar(fs, view, full, quiet)  # type: ignore[arg-type]
    assert raised.value.errno == errno.ENOSPC
