"""Names: every refusal of make, link, unlink, rmdir and rename, and what a success changes."""

from __future__ import annotations

import errno
import stat

import pytest

from heliosfs.core import namespace, rename
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import ROOT_INO, Ino, ViewNo
from tests.support.corelab import CoreLab

DIR = stat.S_IFDIR | 0o755
REG = stat.S_IFREG | 0o644


@pytest.fixture
def lab() -> CoreLab:
    lab = CoreLab()
    view = lab.main
    lab.make(view, b"d", DIR)
    lab.make(view, b"d/sub", DIR)
    lab.make(view, b"f", REG)
    lab.make(view, b"e", DIR)
    return lab


def refused(number: int, call: object, *args: object, **more: object) -> FsError:
    with pytest.raises(FsError) as caught:
        call(*args, **more)  # type: ignore[operator]
    assert caught.value.errno == number, caught.value
    return caught.value


@pytest.mark.parametrize(
    ("path", "mode", "number"),
    [
        (b"f", REG, errno.EEXIST),
        (b"d", DIR, errno.EEXIST),
        (b"f/x", REG, errno.ENOTDIR),
        (b"n" * 256, REG, errno.ENAMETOOLONG),
        (b"..", REG, errno.EINVAL),
        (b"a\0b", REG, errno.EINVAL),
        (b"x", 0o644, errno.EINVAL),
    ],
)
def test_make_refuses(lab: CoreLab, path: bytes, mode: int, number: int) -> None:
    before = lab.end
    refused(number, lab.make, lab.main, path, mode)
    assert lab.end == before
    lab.check()


def test_symlinks_have_targets_of_1_to_4095_bytes(lab: CoreLab) -> None:
    refused(errno.ENOENT, lab.make, lab.main, b"l", stat.S_IFLNK | 0o777)
    refused(errno.ENAMETOOLONG, lab.make, lab.main, b"l", stat.S_IFLNK | 0o777, b"t" * 4096)
    assert lab.make(lab.main, b"l", stat.S_IFLNK | 0o777, b"t" * 4095).size == 4095


def test_make_in_a_removed_directory_is_enoent(lab: CoreLab) -> None:
    ino = lab.ino(lab.main, b"e")
    lab.rmdir(lab.main, b"e")
    refused(errno.ENOENT, namespace.plan_make, lab.engine, lab.main, ino, b"x", REG, 0, 0, lab.now())


def test_make_in_a_snapshot_is_erofs_and_in_a_dead_view_estale(lab: CoreLab) -> None:
    lab.checkpoint(lab.main, b"s")
    from heliosfs.core.oplog import AssignView

    snapshot = lab.engine.branches[lab.main].snapshots[b"s"]
    lab.carry_out(AssignView(lab.main, snapshot.id, lab.engine.next_view))
    refused(errno.EROFS, lab.make, snapshot.view, b"x", REG)
    with pytest.raises(StaleHandle):
        lab.engine.writable(ViewNo(4000))
    with pytest.raises(StaleHandle):
        lab.engine.inode(ViewNo(4000), ROOT_INO)
    with pytest.raises(StaleHandle):
        lab.engine.inode(snapshot.view, Ino(999_999))


def test_setgid_directories_hand_on_their_group(lab: CoreLab) -> None:
    view = lab.main
    from heliosfs.core.attributes import SetAttr, plan_set_attributes

    ino = lab.ino(view, b"d")
    lab.do(plan_set_attributes, view, ino, SetAttr(mode=0o2755, gid=50), lab.now())
    lab.do(plan_set_attributes, view, ino, SetAttr(mode=0o2755), lab.now())
    below = lab.make(view, b"d/new", DIR)
    file = lab.make(view, b"d/file", REG)
    assert below.gid == file.gid == 50
    assert below.mode & stat.S_ISGID
    assert not file.mode & stat.S_ISGID


def test_link_rules(lab: CoreLab) -> None:
    view = lab.main
    refused(errno.EPERM, lab.link, view, b"d", b"d2")
    refused(errno.EEXIST, lab.link, view, b"f", b"d")
    ino = lab.ino(view, b"f")
    lab.link(view, b"f", b"g")
    assert lab.engine.inode(view, ino).nlink == 2
    lab.unlink(view, b"f")
    lab.unlink(view, b"g")
    refused(errno.ENOENT, namespace.plan_link, lab.engine, view, ino, ROOT_INO, b"again", lab.now())
    inode = lab.engine.branches[view].orphans[ino]
    inode.nlink = namespace.LINK_MAX
    refused(errno.EMLINK, namespace.plan_link, lab.engine, view, ino, ROOT_INO, b"again", lab.now())


def test_directories_count_their_subdirectories(lab: CoreLab) -> None:
    view = lab.main
    assert lab.engine.inode(view, lab.ino(view, b"d")).nlink == 3
    lab.rename(view, b"d/sub", b"e/sub")
    assert lab.engine.inode(view, lab.ino(view, b"d")).nlink == 2
    assert lab.engine.inode(view, lab.ino(view, b"e")).nlink == 3
    lab.check()
    lab.engine.inode(view, lab.ino(view, b"e")).nlink = namespace.LINK_MAX
    refused(errno.EMLINK, lab.make, view, b"e/more", DIR)


def test_unlink_and_rmdir_refuse_the_wrong_kind(lab: CoreLab) -> None:
    refused(errno.EISDIR, lab.unlink, lab.main, b"d")
    refused(errno.ENOTDIR, lab.rmdir, lab.main, b"f")
    refused(errno.ENOTEMPTY, lab.rmdir, lab.main, b"d")
    refused(errno.ENOENT, lab.unlink, lab.main, b"nothing")
    refused(errno.ENOENT, lab.rmdir, lab.main, b"nothing")


@pytest.mark.parametrize(
    ("old", "new", "flags", "number"),
    [
        (b"nothing", b"x", 0, errno.ENOENT),
        (b"f", b"d", 0, errno.EISDIR),
        (b"e", b"f", 0, errno.ENOTDIR),
        (b"e", b"d", 0, errno.ENOTEMPTY),
        (b"d", b"d/sub/x", 0, errno.EINVAL),
        (b"f", b"e", rename.NOREPLACE, errno.EEXIST),
        (b"f", b"x", rename.EXCHANGE, errno.ENOENT),
        (b"f", b"e", rename.EXCHANGE | rename.NOREPLACE, errno.EINVAL),
        (b"f", b"x", 8, errno.EINVAL),
        (b"d/sub", b"d", rename.EXCHANGE, errno.EINVAL),
        (b"f", b"y" * 256, 0, errno.ENAMETOOLONG),
    ],
)
def test_rename_refuses(lab: CoreLab, old: bytes, new: bytes, flags: int, number: int) -> None:
    before = lab.end
    refused(number, lab.rename, lab.main, old, new, flags)
    assert lab.end == before
    lab.check()


def test_rename_of_two_names_of_one_file_does_nothing(lab: CoreLab) -> None:
    lab.link(lab.main, b"f", b"g")
    before = lab.end
    lab.rename(lab.main, b"f", b"g")
    assert lab.end == before
    assert lab.ino(lab.main, b"f") == lab.ino(lab.main, b"g")


def test_rename_whiteout_leaves_a_character_device(lab: CoreLab) -> None:
    view = lab.main
    moved = lab.ino(view, b"f")
    lab.rename(view, b"f", b"x", rename.WHITEOUT)
    left = lab.engine.inode(view, lab.ino(view, b"f"))
    assert stat.S_ISCHR(left.mode)
    assert left.rdev == 0
    assert lab.ino(view, b"x") == moved
    lab.check()


def test_rename_over_a_file_makes_it_an_orphan_until_it_is_forgotten(lab: CoreLab) -> None:
    view = lab.main
    lab.make(view, b"victim", REG)
    ino = lab.ino(view, b"victim")
    lab.write(view, ino, 0, b"still here")
    lab.rename(view, b"f", b"victim")
    assert lab.read(view, ino) == b"still here"
    lab.write(view, ino, 0, b"STILL")
    assert lab.read(view, ino) == b"STILL here"
    lab.checkpoint(view, b"s")
    lab.write(view, ino, 0, b"after")
    lab.cut()
    assert lab.read(view, ino) == b"after here"
    lab.check()


def test_exchange_of_a_directory_and_a_file_across_directories(lab: CoreLab) -> None:
    view = lab.main
    lab.make(view, b"e/file", REG)
    lab.rename(view, b"d/sub", b"e/file", rename.EXCHANGE)
    assert lab.engine.inode(view, lab.ino(view, b"e/file")).is_dir()
    assert lab.engine.inode(view, lab.ino(view, b"d/sub")).is_file()
    lab.check()


def test_names_with_equal_hashes_live_together(lab: CoreLab, monkeypatch: pytest.MonkeyPatch) -> None:
    from heliosfs.core import directory

    monkeypatch.setattr(directory, "name_key", lambda name: 77)
    view = lab.main
    lab.make(view, b"same", DIR)
    for name in (b"b", b"a", b"c"):
        lab.make(view, b"same/" + name, REG)
    lab.unlink(view, b"same/b")
    tree = lab.engine.inode(view, lab.ino(view, b"same")).tree
    assert [d.name for d in directory.entries(tree, lab.pages)] == [b"a", b"c"]
    assert [key for key, _ in directory.after(tree, 0, lab.pages)] == [77]
    lab.unlink(view, b"same/a")
    lab.unlink(view, b"same/c")
    assert lab.engine.inode(view, lab.ino(view, b"same")).tree is None
