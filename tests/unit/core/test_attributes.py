"""Attributes, set-id bits, xattrs and access control lists."""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Callable

import pytest

from heliosfs.core import acl, attributes
from heliosfs.core.attributes import SetAttr, plan_remove_xattr, plan_set_attributes, plan_set_xattr
from heliosfs.core.data import plan_read, plan_write
from heliosfs.core.errors import FsError
from heliosfs.core.ids import Ino
from heliosfs.core.inode import MAX_SIZE, Inode
from tests.support.corelab import CoreLab

REG = stat.S_IFREG | 0o644


class File:
    """A lab with one file in it."""

    def __init__(self) -> None:
        self.lab = CoreLab()
        self.view = self.lab.main
        self.ino: Ino = self.lab.make(self.view, b"f", REG).ino

    def set(self, **wanted: int) -> Inode:
        inode: Inode = self.lab.do(plan_set_attributes, self.view, self.ino, SetAttr(**wanted), self.lab.now())
        return inode

    @property
    def inode(self) -> Inode:
        return self.lab.engine.inode(self.view, self.ino)


@pytest.fixture
def file() -> File:
    return File()


def refused(number: int, call: Callable[..., object], *args: object) -> None:
    with pytest.raises(FsError) as caught:
        call(*args)
    assert caught.value.errno == number


@pytest.mark.parametrize("how", ["write", "truncate", "chown", "chgrp"])
def test_capabilities_go_with_content_or_owner_and_set_id_bits_with_the_owner(file: File, how: str) -> None:
    file.set(mode=0o6755)
    file.lab.set_xattr(file.view, file.ino, b"security.capability", b"cap")
    file.lab.set_xattr(file.view, file.ino, b"user.keep", b"1")
    if how == "write":
        file.lab.write(file.view, file.ino, 0, b"x")
    elif how == "truncate":
        file.set(size=0)
    elif how == "chown":
        file.set(uid=7)
    else:
        file.set(gid=7)
    assert file.inode.mode & 0o7777 == (0o755 if how in ("chown", "chgrp") else 0o6755)
    assert dict(file.inode.xattrs) == {b"user.keep": b"1"}


@pytest.mark.parametrize(
    ("before", "member", "stranger"),
    [(0o6755, 0o755, 0o755), (0o4644, 0o644, 0o644), (0o2644, 0o2644, 0o644), (0o1777, 0o1777, 0o1777)],
)
def test_what_a_writer_without_the_right_leaves_of_a_mode(before: int, member: int, stranger: int) -> None:
    assert attributes.without_set_id(before) == member
    assert attributes.without_set_id(before, member=False) == stranger


def test_kill_set_id_is_for_files_and_yields_to_a_mode(file: File) -> None:
    file.set(mode=0o6755)
    file.set(size=1, kill_set_id=True)
    assert file.inode.mode & 0o7777 == 0o755
    file.set(mode=0o6711, kill_set_id=True)
    assert file.inode.mode & 0o7777 == 0o6711
    lab = CoreLab()
    lab.make(lab.main, b"d", stat.S_IFDIR | 0o755)
    directory = lab.ino(lab.main, b"d")
    lab.do(plan_set_attributes, lab.main, directory, SetAttr(mode=0o2775), lab.now())
    lab.do(plan_set_attributes, lab.main, directory, SetAttr(kill_set_id=True), lab.now())
    assert lab.engine.inode(lab.main, directory).mode & 0o7777 == 0o2775


def test_chown_of_a_directory_keeps_its_bits() -> None:
    lab = CoreLab()
    ino = lab.make(lab.main, b"d", stat.S_IFDIR | 0o2755).ino
    inode = lab.do(plan_set_attributes, lab.main, ino, SetAttr(uid=5), lab.now())
    assert inode.mode & 0o7777 == 0o2755


def test_chown_of_the_branch_root_hands_the_branch_over() -> None:
    lab = CoreLab()
    lab.do(plan_set_attributes, lab.main, Ino(1), SetAttr(uid=5, gid=6), lab.now())
    branch = lab.engine.branches[lab.main]
    assert (branch.uid, branch.gid) == (5, 6)


def test_times(file: File) -> None:
    file.set(atime_ns=-5, mtime_ns=1 << 40)
    assert (file.inode.atime_ns, file.inode.mtime_ns) == (-5, 1 << 40)
    other = file.lab.make(file.view, b"g", REG)
    assert other.atime_ns == other.mtime_ns


def test_truncate_rules(file: File) -> None:
    view, lab = file.view, file.lab
    lab.make(view, b"d", stat.S_IFDIR | 0o755)
    lab.make(view, b"p", stat.S_IFIFO | 0o644)
    refused(errno.EISDIR, lab.truncate, view, lab.ino(view, b"d"), 0)
    refused(errno.EINVAL, lab.truncate, view, lab.ino(view, b"p"), 0)
    refused(errno.EFBIG, lab.truncate, view, file.ino, MAX_SIZE + 1)
    lab.write(view, file.ino, 0, b"abcdef")
    lab.truncate(view, file.ino, 3)
    lab.truncate(view, file.ino, 5)
    assert lab.read(view, file.ino) == b"abc\0\0"
    assert file.inode.allocated == 3
    assert file.inode.blocks == 1
    lab.check()


def test_write_and_read_refuse_what_is_no_file(file: File) -> None:
    lab, view = file.lab, file.view
    lab.make(view, b"p", stat.S_IFIFO | 0o644)
    refused(errno.EISDIR, plan_write, lab.engine, view, Ino(1), 0, 1, 1)
    refused(errno.EINVAL, plan_write, lab.engine, view, lab.ino(view, b"p"), 0, 1, 1)
    refused(errno.EFBIG, plan_write, lab.engine, view, file.ino, MAX_SIZE, 1, 1)
    refused(errno.EFBIG, plan_write, lab.engine, view, file.ino, -1, 1, 1)
    refused(errno.EISDIR, plan_read, lab.engine, view, Ino(1), 0, 1)
    assert plan_read(lab.engine, view, file.ino, 100, 1) == []


def test_xattr_rules(file: File) -> None:
    def put(name: bytes, value: bytes, flags: int = 0) -> None:
        file.lab.do(plan_set_xattr, file.view, file.ino, name, value, flags, file.lab.now())

    refused(errno.ERANGE, put, b"", b"")
    refused(errno.ERANGE, put, b"n" * 256, b"")
    refused(errno.E2BIG, put, b"user.a", bytes(65537))
    refused(errno.ENODATA, put, b"user.a", b"", attributes.XATTR_REPLACE)
    put(b"user.a", b"1", attributes.XATTR_CREATE)
    refused(errno.EEXIST, put, b"user.a", b"2", attributes.XATTR_CREATE)
    put(b"user.0", bytes(65536))
    refused(errno.ENOSPC, put, b"user.last", bytes(65536))
    file.lab.remove_xattr(file.view, file.ino, b"user.a")
    refused(errno.ENODATA, plan_remove_xattr, file.lab.engine, file.view, file.ino, b"user.a", 1)


def an_acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


BASE = ((1, 6, 0), (4, 4, 0), (0x20, 0, 0))
NAMED = ((1, 7, 0), (2, 7, 1000), (4, 5, 0), (0x10, 5, 0), (0x20, 1, 0))


def test_a_base_acl_is_only_the_mode(file: File) -> None:
    file.lab.set_xattr(file.view, file.ino, acl.ACCESS, an_acl(*BASE))
    assert file.inode.mode & 0o777 == 0o640
    assert not file.inode.xattrs


def test_chmod_and_acl_keep_in_step(file: File) -> None:
    file.lab.set_xattr(file.view, file.ino, acl.ACCESS, an_acl(*NAMED))
    assert file.inode.mode & 0o777 == 0o751
    file.set(mode=0o640)
    found = {tag: perm for tag, perm, _ in acl.entries(file.inode.xattrs[acl.ACCESS])}
    assert found == {1: 6, 2: 7, 4: 5, 0x10: 4, 0x20: 0}


def test_default_acls_are_inherited(file: File) -> None:
    lab, view = file.lab, file.view
    ino = lab.make(view, b"d", stat.S_IFDIR | 0o755).ino
    lab.set_xattr(view, ino, acl.DEFAULT, an_acl(*NAMED))
    made = lab.make(view, b"d/f", REG)
    assert made.mode & 0o777 == 0o640
    assert acl.ACCESS in made.xattrs
    assert acl.DEFAULT not in made.xattrs
    below = lab.make(view, b"d/sub", stat.S_IFDIR | 0o777)
    assert below.xattrs[acl.DEFAULT] == an_acl(*NAMED)
    link = lab.make(view, b"d/l", stat.S_IFLNK | 0o777, b"t")
    assert not link.xattrs
    lab.set_xattr(view, ino, acl.DEFAULT, an_acl(*BASE))
    plain = lab.make(view, b"d/g", stat.S_IFREG | 0o666)
    assert plain.mode & 0o777 == 0o640
    assert not plain.xattrs


def test_malformed_acls_have_no_entries() -> None:
    assert list(acl.entries(b"")) == []
    assert list(acl.entries(b"\1\0\0\0")) == []
    assert list(acl.entries(an_acl(*BASE)[:-1])) == []
