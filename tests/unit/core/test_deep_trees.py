"""Trees and branches nested deeper than the interpreter's stack: no rule may overflow it, least of all an apply."""

from __future__ import annotations

import stat
import sys

import pytest

from heliosfs.core import directory, oplog
from heliosfs.core.adopt import TreeBuilder
from heliosfs.core.apply import apply
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ROOT_INO
from heliosfs.core.imported import ImportedNode
from tests.support.corelab import CoreLab

DIR = stat.S_IFDIR | 0o755
DEPTH = sys.getrecursionlimit() * 2


def deep(lab: CoreLab) -> None:
    """d/d/d/..., made from directory to directory, as mkdir and cd would."""
    from heliosfs.core import namespace

    ino = ROOT_INO
    for _ in range(DEPTH):
        ino = lab.do(namespace.plan_make, lab.main, ino, b"d", DIR, 0, 0, lab.now()).ino


def depth(lab: CoreLab) -> int:
    """How deep `d` in the main branch goes."""
    head, levels = lab.engine.branches[lab.main].head, 0
    inode = head.get(ROOT_INO, lab.pages)
    while inode is not None:
        dentry = directory.find(inode.tree, b"d", lab.pages)
        if dentry is None:
            return levels
        inode = head.get(dentry.ino, lab.pages)
        levels += 1
    raise AssertionError("a name without an inode")


def test_restore_of_a_deep_path_that_is_gone_and_of_one_that_is_there() -> None:
    lab = CoreLab()
    deep(lab)
    lab.checkpoint(lab.main, b"deep")
    lab.rename(lab.main, b"d", b"other")
    lab.restore_path(lab.main, b"deep", b"d")
    assert depth(lab) == DEPTH
    lab.check()
    lab.restore_path(lab.main, b"deep", b"d")
    assert depth(lab) == DEPTH


def test_a_restored_file_takes_the_place_of_a_deep_directory() -> None:
    lab = CoreLab()
    lab.make(lab.main, b"d", stat.S_IFREG | 0o644)
    lab.checkpoint(lab.main, b"flat")
    lab.unlink(lab.main, b"d")
    deep(lab)
    lab.restore_path(lab.main, b"flat", b"d")
    found = lab.engine.branches[lab.main].head.get(lab.ino(lab.main, b"d"), lab.pages)
    assert found is not None and found.is_file()
    lab.check()


def test_the_record_of_a_deep_restore_replays() -> None:
    lab = CoreLab()
    deep(lab)
    lab.checkpoint(lab.main, b"deep")
    lab.rename(lab.main, b"d", b"other")
    lab.restore_path(lab.main, b"deep", b"d")
    again = CoreLab()
    for kind, body, place in lab.log:
        apply(again.engine, oplog.decode(kind, body), place)
    assert depth(again) == DEPTH


def test_an_import_of_a_deep_tree() -> None:
    lab = CoreLab()
    nodes = [ImportedNode(-1, b"", DIR, 0, 0, 0, 1, 0)]
    for number in range(DEPTH):
        nodes.append(ImportedNode(number, b"d", DIR, 0, 0, 0, 1, 0))
    builder = TreeBuilder(lab.engine.branches[lab.main].head, nodes, lab.engine.next_ino, 5, lab.pages)
    for _ in builder.steps():
        pass
    assert builder.files == DEPTH + 1


def test_branches_of_branches() -> None:
    """Their paths end at 4,096 bytes, as every path does."""
    lab = CoreLab()
    view = lab.main
    with pytest.raises(FsError) as refused:
        for _ in range(DEPTH * 2):
            view = lab.fork(view, b"b")
    assert refused.value.errno == 36
    path = lab.engine.branches[view].path
    assert 4000 < len(path) <= 4095 and path.count(b"/") > sys.getrecursionlimit()
