"""Copies by reference, fallocate, holes, files without a name: refusals, and what a success changes."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable

import pytest

from heliosfs.core import namespace, radix
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import Ino, ViewNo
from heliosfs.core.inode import MAX_SIZE, Inode
from heliosfs.core.ranges import (
    BLOCK,
    COLLAPSE_RANGE,
    COPY_EXTENTS,
    INSERT_RANGE,
    KEEP_SIZE,
    PUNCH_HOLE,
    UNSHARE_RANGE,
    ZERO_RANGE,
    space_wanted,
)
from tests.support.corelab import CoreLab

REG = stat.S_IFREG | 0o644
DIR = stat.S_IFDIR | 0o755
DATA = random.Random(1).randbytes(5 * BLOCK)


class Files:
    """A lab with two files, the first one with content."""

    def __init__(self) -> None:
        self.lab = CoreLab()
        self.view: ViewNo = self.lab.main
        self.a: Ino = self.lab.make(self.view, b"a", REG).ino
        self.b: Ino = self.lab.make(self.view, b"b", REG).ino
        self.d: Ino = self.lab.make(self.view, b"d", DIR).ino
        self.lab.write(self.view, self.a, 0, DATA)

    def copy(self, source: Ino, at: int, target: Ino, to: int, length: int) -> int:
        return self.lab.copy((self.view, source), at, (self.view, target), to, length)

    def inode(self, ino: Ino) -> Inode:
        return self.lab.engine.inode(self.view, ino)

    def content(self, ino: Ino) -> bytes:
        return self.lab.read(self.view, ino)

    def allocate(self, mode: int, offset: int, length: int, ino: Ino | None = None) -> None:
        self.lab.fallocate(self.view, self.a if ino is None else ino, mode, offset, length)


@pytest.fixture
def files() -> Files:
    return Files()


def refused(number: int, call: Callable[..., object], *args: object) -> None:
    with pytest.raises(FsError) as caught:
        call(*args)
    assert caught.value.errno == number


# --- copies ----------------------------------------------------------------------------------------------


def test_a_copy_is_one_small_record_and_shares_what_it_copies(files: Files) -> None:
    before, end = len(files.lab.log), files.lab.end
    assert files.copy(files.a, 100, files.b, 7, 2 * BLOCK) == 2 * BLOCK
    assert len(files.lab.log) == before + 1
    assert files.lab.end - end < 200
    assert files.content(files.b) == bytes(7) + DATA[100 : 100 + 2 * BLOCK]
    sources = {id(extent.source) for _, extent in radix.items(files.inode(files.b).tree, files.lab.pages)}
    assert sources == {id(extent.source) for _, extent in radix.items(files.inode(files.a).tree, files.lab.pages)}
    assert files.inode(files.b).allocated == 2 * BLOCK
    files.lab.check()


def test_a_clone_of_a_whole_file_is_its_tree(files: Files) -> None:
    for number in range(200):
        files.lab.write(files.view, files.a, number * 2 * BLOCK, b"x")
    files.lab.write(files.view, files.b, 5, b"old")
    assert files.copy(files.a, 0, files.b, 0, MAX_SIZE) == files.inode(files.a).size
    assert files.inode(files.b).tree is files.inode(files.a).tree
    before = files.content(files.a)
    files.lab.write(files.view, files.b, 0, b"only b")
    assert files.content(files.a) == before
    assert files.content(files.b) == b"only b" + before[6:]
    files.lab.check()


def test_a_copy_ends_where_its_source_ends(files: Files) -> None:
    assert files.copy(files.a, 4 * BLOCK, files.b, 0, 99 * BLOCK) == BLOCK
    before = len(files.lab.log)
    assert files.copy(files.a, 5 * BLOCK, files.b, 0, 1) == 0
    assert files.copy(files.a, 0, files.b, 0, 0) == 0
    assert len(files.lab.log) == before
    assert files.content(files.b) == DATA[4 * BLOCK :]


def test_a_copy_of_very_many_extents_is_done_in_parts(files: Files) -> None:
    for number in range(COPY_EXTENTS + 500):
        files.lab.write(files.view, files.a, 2 * number, b"x")
    size = files.inode(files.a).size
    parts = []
    while copied := files.copy(files.a, sum(parts), files.b, 1 + sum(parts), size):
        parts.append(copied)
    assert parts == [COPY_EXTENTS, COPY_EXTENTS, size - 2 * COPY_EXTENTS]
    assert files.content(files.b) == b"\0" + files.content(files.a)
    assert files.copy(files.a, 0, files.b, 0, size) < size
    files.lab.truncate(files.view, files.b, 0)
    assert files.copy(files.a, 0, files.b, 0, size) == size
    files.lab.check()


def test_holes_are_copied_as_holes(files: Files) -> None:
    files.allocate(PUNCH_HOLE | KEEP_SIZE, BLOCK, 2 * BLOCK)
    files.lab.write(files.view, files.b, 0, b"y" * 5 * BLOCK)
    assert files.copy(files.a, 0, files.b, 0, 4 * BLOCK) == 4 * BLOCK
    assert files.content(files.b) == DATA[:BLOCK] + bytes(2 * BLOCK) + DATA[3 * BLOCK : 4 * BLOCK] + b"y" * BLOCK
    assert files.inode(files.b).allocated == 3 * BLOCK
    assert files.lab.seek(files.view, files.b, 0, os.SEEK_HOLE) == BLOCK
    files.lab.check()


def test_within_a_file_only_where_the_ranges_do_not_meet(files: Files) -> None:
    refused(errno.EINVAL, files.copy, files.a, 0, files.a, BLOCK - 1, BLOCK)
    refused(errno.EINVAL, files.copy, files.a, BLOCK, files.a, 1, BLOCK)
    refused(errno.EINVAL, files.copy, files.a, 0, files.a, 0, 1)
    assert files.copy(files.a, 0, files.a, BLOCK, BLOCK) == BLOCK
    assert files.copy(files.a, 4 * BLOCK, files.a, 5 * BLOCK, MAX_SIZE) == BLOCK
    assert files.content(files.a) == DATA[:BLOCK] + DATA[:BLOCK] + DATA[2 * BLOCK :] + DATA[4 * BLOCK :]
    files.lab.check()


def test_what_a_copy_refuses(files: Files) -> None:
    refused(errno.EISDIR, files.copy, files.d, 0, files.b, 0, 1)
    refused(errno.EISDIR, files.copy, files.a, 0, files.d, 0, 1)
    refused(errno.EINVAL, files.copy, files.a, -1, files.b, 0, 1)
    refused(errno.EINVAL, files.copy, files.a, 0, files.b, -1, 1)
    fifo = files.lab.make(files.view, b"p", stat.S_IFIFO | 0o644).ino
    refused(errno.EINVAL, files.copy, fifo, 0, files.b, 0, 1)
    refused(errno.EFBIG, files.copy, files.a, 0, files.b, MAX_SIZE, 1)
    assert files.copy(files.a, 0, files.b, MAX_SIZE - 3, 10) == 3
    files.lab.checkpoint(files.view, b"s")
    frozen = files.lab.snapshot_view(files.view, b"s")
    refused(errno.EROFS, files.lab.copy, (files.view, files.a), 0, (frozen, files.b), 0, 1)
    with pytest.raises(StaleHandle):
        files.lab.copy((ViewNo(77), files.a), 0, (files.view, files.b), 0, 1)


def test_between_branches_and_from_a_snapshot(files: Files) -> None:
    files.lab.checkpoint(files.view, b"s")
    frozen = files.lab.snapshot_view(files.view, b"s")
    files.lab.write(files.view, files.a, 0, b"changed since")
    fork = files.lab.fork(files.view, b"f")
    assert files.lab.copy((frozen, files.a), 0, (fork, files.b), 0, MAX_SIZE) == len(DATA)
    assert files.lab.read(fork, files.b) == DATA
    assert files.lab.copy((fork, files.a), 0, (files.view, files.b), 0, 13) == 13
    assert files.content(files.b) == b"changed since"
    files.lab.check()
    again = files.lab.replayed()
    assert again.read(fork, files.b) == DATA
    assert again.read(files.view, files.b) == b"changed since"


def test_a_copy_counts_as_a_write_to_its_target_alone(files: Files) -> None:
    files.lab.chmod(files.view, files.b, 0o6755)
    files.lab.set_xattr(files.view, files.b, b"security.capability", b"cap")
    before = files.inode(files.a).mtime_ns, files.inode(files.a).ctime_ns
    then = files.inode(files.b).ctime_ns
    files.copy(files.a, 0, files.b, 0, 1)
    assert (files.inode(files.a).mtime_ns, files.inode(files.a).ctime_ns) == before
    assert files.inode(files.b).mtime_ns == files.inode(files.b).ctime_ns > then
    assert files.inode(files.b).mode & 0o7777 == 0o6755
    assert not files.inode(files.b).xattrs


# --- fallocate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "mode", "offset", "length"),
    [
        (errno.EINVAL, 0, -1, 1),
        (errno.EINVAL, 0, 0, 0),
        (errno.EINVAL, 0, 0, -1),
        (errno.EOPNOTSUPP, PUNCH_HOLE, 0, 1),
        (errno.EOPNOTSUPP, PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, 0, 1),
        (errno.EOPNOTSUPP, COLLAPSE_RANGE | KEEP_SIZE, 0, BLOCK),
        (errno.EOPNOTSUPP, INSERT_RANGE | KEEP_SIZE, 0, BLOCK),
        (errno.EOPNOTSUPP, 4, 0, 1),
        (errno.EOPNOTSUPP, 0x100, 0, 1),
        (errno.EFBIG, 0, MAX_SIZE, 1),
        (errno.EFBIG, 0, 1, MAX_SIZE),
        (errno.EINVAL, COLLAPSE_RANGE, 1, BLOCK),
        (errno.EINVAL, COLLAPSE_RANGE, 0, 100),
        (errno.EINVAL, COLLAPSE_RANGE, 0, 5 * BLOCK),
        (errno.EINVAL, COLLAPSE_RANGE, 4 * BLOCK, BLOCK),
        (errno.EINVAL, INSERT_RANGE, 1, BLOCK),
        (errno.EINVAL, INSERT_RANGE, BLOCK, 1),
        (errno.EINVAL, INSERT_RANGE, 5 * BLOCK, BLOCK),
        (errno.EFBIG, INSERT_RANGE, 0, (MAX_SIZE // BLOCK - 1) * BLOCK),
    ],
)
def test_what_fallocate_refuses(files: Files, number: int, mode: int, offset: int, length: int) -> None:
    before = len(files.lab.log)
    refused(number, files.allocate, mode, offset, length)
    assert len(files.lab.log) == before


def test_fallocate_of_what_is_no_file(files: Files) -> None:
    refused(errno.EISDIR, files.allocate, 0, 0, 1, files.d)
    refused(errno.ENODEV, files.allocate, 0, 0, 1, files.lab.make(files.view, b"p", stat.S_IFIFO | 0o644).ino)


@pytest.mark.parametrize("mode", [0, ZERO_RANGE, UNSHARE_RANGE])
def test_allocating_makes_a_file_longer_unless_its_size_is_kept(files: Files, mode: int) -> None:
    files.allocate(mode | KEEP_SIZE, 6 * BLOCK, BLOCK)
    assert files.inode(files.a).size == 5 * BLOCK
    files.allocate(mode, 6 * BLOCK, BLOCK)
    assert files.content(files.a) == DATA + bytes(2 * BLOCK)
    files.allocate(mode, 0, 1)
    assert files.content(files.a)[1:] == DATA[1:] + bytes(2 * BLOCK)
    files.lab.check()


def test_punching_and_zeroing(files: Files) -> None:
    files.allocate(PUNCH_HOLE | KEEP_SIZE, 100, 50)
    files.allocate(ZERO_RANGE, BLOCK, BLOCK)
    files.allocate(PUNCH_HOLE | KEEP_SIZE, 9 * BLOCK, BLOCK)
    expected = DATA[:100] + bytes(50) + DATA[150:BLOCK] + bytes(BLOCK) + DATA[2 * BLOCK :]
    assert files.content(files.a) == expected
    assert files.inode(files.a).allocated == 4 * BLOCK - 50
    files.lab.check()


def test_collapsing_and_inserting(files: Files) -> None:
    files.allocate(COLLAPSE_RANGE, BLOCK, 2 * BLOCK)
    assert files.content(files.a) == DATA[:BLOCK] + DATA[3 * BLOCK :]
    files.allocate(INSERT_RANGE, BLOCK, 3 * BLOCK)
    assert files.content(files.a) == DATA[:BLOCK] + bytes(3 * BLOCK) + DATA[3 * BLOCK :]
    assert files.inode(files.a).allocated == 3 * BLOCK
    files.lab.check()


def test_fallocate_is_a_change_of_content(files: Files) -> None:
    files.lab.chmod(files.view, files.a, 0o6755)
    before = files.inode(files.a).ctime_ns
    files.allocate(0, 0, 1)
    assert files.inode(files.a).mtime_ns == files.inode(files.a).ctime_ns > before
    assert files.inode(files.a).mode & 0o7777 == 0o6755


def test_the_space_that_an_allocation_needs(files: Files) -> None:
    engine, inode = files.lab.engine, files.inode(files.a)
    assert space_wanted(inode, 0, BLOCK, 9 * BLOCK, engine) == 5 * BLOCK
    assert space_wanted(inode, ZERO_RANGE, BLOCK, 9 * BLOCK, engine) == 9 * BLOCK
    assert space_wanted(inode, PUNCH_HOLE | KEEP_SIZE, 0, 9 * BLOCK, engine) == 0
    assert space_wanted(inode, INSERT_RANGE, 0, BLOCK, engine) == 0


# --- holes -----------------------------------------------------------------------------------------------


def test_data_and_holes_in_whole_blocks(files: Files) -> None:
    files.lab.write(files.view, files.b, 2 * BLOCK + 10, b"x" * 10)
    files.lab.write(files.view, files.b, 3 * BLOCK + 10, b"x")
    files.lab.truncate(files.view, files.b, 6 * BLOCK + 1)

    def seek(offset: int, whence: int) -> int:
        return files.lab.seek(files.view, files.b, offset, whence)

    assert seek(0, os.SEEK_DATA) == 2 * BLOCK
    assert seek(2 * BLOCK + 100, os.SEEK_DATA) == 2 * BLOCK + 100
    assert seek(0, os.SEEK_HOLE) == 0
    assert seek(1, os.SEEK_HOLE) == 1
    assert seek(2 * BLOCK, os.SEEK_HOLE) == 4 * BLOCK
    assert seek(3 * BLOCK + 9, os.SEEK_HOLE) == 4 * BLOCK
    assert seek(6 * BLOCK, os.SEEK_HOLE) == 6 * BLOCK
    refused(errno.ENXIO, seek, 4 * BLOCK, os.SEEK_DATA)
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        refused(errno.ENXIO, seek, 6 * BLOCK + 1, whence)
        refused(errno.ENXIO, seek, -1, whence)
    refused(errno.EINVAL, seek, 0, os.SEEK_SET)


def test_a_file_of_data_has_its_hole_at_the_end(files: Files) -> None:
    files.lab.write(files.view, files.b, 0, b"x" * 10)
    assert files.lab.seek(files.view, files.b, 3, os.SEEK_HOLE) == 10
    assert files.lab.seek(files.view, files.b, 3, os.SEEK_DATA) == 3
    refused(errno.EISDIR, files.lab.seek, files.view, files.d, 0, os.SEEK_DATA)


# --- without a name --------------------------------------------------------------------------------------


def test_a_file_without_a_name_gets_one_and_then_no_other_way_back(files: Files) -> None:
    before = files.inode(Ino(1)).mtime_ns
    inode = files.lab.make_unnamed(files.view, b"d", REG)
    assert inode.nlink == 0
    assert files.inode(Ino(1)).mtime_ns == before
    files.lab.write(files.view, inode.ino, 0, b"content")
    files.lab.check()
    files.lab.do(namespace.plan_link, files.view, inode.ino, Ino(1), b"named", files.lab.now())
    assert files.inode(inode.ino).nlink == 1
    assert files.content(files.lab.ino(files.view, b"named")) == b"content"
    files.lab.check()
    files.lab.unlink(files.view, b"named")
    refused(
        errno.ENOENT, files.lab.do, namespace.plan_link, files.view, inode.ino, Ino(1), b"again", files.lab.now()
    )


def test_it_belongs_to_the_group_of_a_set_group_id_directory(files: Files) -> None:
    lab = files.lab
    parent = lab.make(files.view, b"g", stat.S_IFDIR | 0o2775)
    record = namespace.plan_make_unnamed(lab.engine, files.view, parent.ino, REG, 5, 6, lab.now())
    made = lab.carry_out(record)
    assert (made.uid, made.gid, made.mode) == (5, parent.gid, REG)


def test_what_making_one_refuses(files: Files) -> None:
    lab, now = files.lab, files.lab.now()
    plan = namespace.plan_make_unnamed
    refused(errno.ENOTDIR, plan, lab.engine, files.view, files.a, REG, 0, 0, now)
    refused(errno.EINVAL, plan, lab.engine, files.view, files.d, DIR, 0, 0, now)
    lab.rmdir(files.view, b"d")
    refused(errno.ENOENT, plan, lab.engine, files.view, files.d, REG, 0, 0, now)
    lab.checkpoint(files.view, b"s")
    refused(errno.EROFS, plan, lab.engine, lab.snapshot_view(files.view, b"s"), Ino(1), REG, 0, 0, now)
