"""check() finds each kind of damage that it is there to find."""

from __future__ import annotations

import stat
from collections.abc import Callable

import pytest

from heliosfs.core import directory, radix
from heliosfs.core.check import check
from heliosfs.core.directory import Dentry
from heliosfs.core.extent import Extent, LogData
from heliosfs.core.ids import Ino
from heliosfs.core.inode import Inode
from heliosfs.core.oplog import AssignView
from heliosfs.core.radix import Branch, Leaf
from tests.support.corelab import CoreLab

DIR = stat.S_IFDIR | 0o755
REG = stat.S_IFREG | 0o644


def a_lab() -> CoreLab:
    lab = CoreLab()
    view = lab.main
    lab.make(view, b"d", DIR)
    lab.make(view, b"d/sub", DIR)
    lab.make(view, b"f", REG)
    lab.write(view, lab.ino(view, b"f"), 0, b"0123456789")
    for number in range(100):
        lab.make(view, b"d/%d" % number, REG)
    lab.make(view, b"orphan", REG)
    lab.unlink(view, b"orphan")
    lab.checkpoint(view, b"s")
    lab.fork(view, b"c")
    return lab


def inode(lab: CoreLab, path: bytes) -> Inode:
    return lab.engine.inode(lab.main, lab.ino(lab.main, path))


def put(lab: CoreLab, path: bytes, dentry: Dentry) -> None:
    holder = inode(lab, path)
    holder.tree = directory.put(holder.tree, dentry, lab.pages)
    holder.size += 1


def broken_name(lab: CoreLab) -> None:
    put(lab, b"d", Dentry(b"ghost", Ino(99_999), 8))


def wrong_type(lab: CoreLab) -> None:
    holder = inode(lab, b"")
    holder.tree = directory.put(holder.tree, Dentry(b"f", lab.ino(lab.main, b"f"), 4), lab.pages)


def two_names_of_a_directory(lab: CoreLab) -> None:
    put(lab, b"", Dentry(b"again", lab.ino(lab.main, b"d/sub"), 4))


def link_count(lab: CoreLab) -> None:
    inode(lab, b"f").nlink = 2


def size_of_a_directory(lab: CoreLab) -> None:
    inode(lab, b"d").size = 3


def parent(lab: CoreLab) -> None:
    inode(lab, b"d/sub").parent = Ino(1)


def data_behind_the_end(lab: CoreLab) -> None:
    inode(lab, b"f").size = 5


def allocated(lab: CoreLab) -> None:
    inode(lab, b"f").allocated = 5


def overlap(lab: CoreLab) -> None:
    data = LogData(1, 0, 10, b"")
    inode(lab, b"f").tree = Leaf([0, 5], [Extent(10, data, 0), Extent(5, data, 0)])


def beyond_its_source(lab: CoreLab) -> None:
    inode(lab, b"f").tree = Leaf([0], [Extent(10, LogData(1, 0, 4, b""), 0)])


def counters(lab: CoreLab) -> None:
    lab.engine.branches[lab.main].head.files += 1


def bytes_counter(lab: CoreLab) -> None:
    lab.engine.branches[lab.main].head.size_bytes += 1


def no_root(lab: CoreLab) -> None:
    head = lab.engine.branches[lab.main].head
    head.overlay = head.overlay.delete(Ino(1))


def misfiled_inode(lab: CoreLab) -> None:
    inode(lab, b"f").ino = Ino(5)


def orphan_in_the_tree(lab: CoreLab) -> None:
    branch = lab.engine.branches[lab.main]
    branch.orphans[lab.ino(lab.main, b"f")] = inode(lab, b"f")


def misfiled_snapshot(lab: CoreLab) -> None:
    branch = lab.engine.branches[lab.main]
    branch.snapshots[b"t"] = branch.snapshots[b"s"]


def latest_is_gone(lab: CoreLab) -> None:
    lab.engine.branches[lab.main].snapshots.clear()


def misfiled_child(lab: CoreLab) -> None:
    branch = lab.engine.branches[lab.main]
    branch.children[b"x"] = branch.children[b"c"]


def lease(lab: CoreLab) -> None:
    lab.engine.next_ino = Ino(5)


def view_number(lab: CoreLab) -> None:
    lab.engine.branches[lab.main].view += 7  # type: ignore[assignment, operator]


def snapshot_view(lab: CoreLab) -> None:
    branch = lab.engine.branches[lab.engine.main.view]  # type: ignore[union-attr]
    snapshot = branch.snapshots[b"s"]
    lab.carry_out(AssignView(lab.main, snapshot.id, lab.engine.next_view))
    snapshot.view += 1  # type: ignore[assignment, operator]


def wrong_key(lab: CoreLab) -> None:
    holder = inode(lab, b"")
    holder.tree = Leaf([5], [(Dentry(b"f", lab.ino(lab.main, b"f"), 8),)])


def unsorted_bucket(lab: CoreLab) -> None:
    holder = inode(lab, b"")
    assert isinstance(holder.tree, Leaf)
    bucket = holder.tree.values[0]
    holder.tree.values[0] = (Dentry(b"zz", bucket[0].ino, 4), *bucket)


def leaf_order(lab: CoreLab) -> None:
    tree = inode(lab, b"").tree
    assert isinstance(tree, Leaf)
    tree.keys.reverse()


def branch_count(lab: CoreLab) -> None:
    tree = inode(lab, b"d").tree
    assert isinstance(tree, Branch)
    tree.count += 1


def branch_place(lab: CoreLab) -> None:
    tree = inode(lab, b"d").tree
    assert isinstance(tree, Branch)
    tree.prefix += 1


DAMAGE = [
    broken_name,
    wrong_type,
    two_names_of_a_directory,
    link_count,
    size_of_a_directory,
    parent,
    data_behind_the_end,
    allocated,
    overlap,
    beyond_its_source,
    counters,
    bytes_counter,
    no_root,
    misfiled_inode,
    orphan_in_the_tree,
    misfiled_snapshot,
    latest_is_gone,
    misfiled_child,
    lease,
    view_number,
    snapshot_view,
    wrong_key,
    unsorted_bucket,
    leaf_order,
    branch_count,
    branch_place,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_it_is_found(damage: Callable[[CoreLab], None]) -> None:
    lab = a_lab()
    assert check(lab.engine) == []
    damage(lab)
    assert check(lab.engine)


def test_a_stored_store_is_whole() -> None:
    lab = a_lab()
    lab.cut()
    lab.forget_decoded()
    assert check(lab.engine) == []
    assert radix.count(lab.tree(lab.main).base, lab.pages) > 100
    assert radix.count(None, lab.pages) == 0
