"""An import keeps what is the same: inodes, and what nobody has to store again."""

from __future__ import annotations

import errno
import stat

import pytest

from cas.digest import chunk_id
from heliosfs.core import oplog, radix
from heliosfs.core.adopt import TreeBuilder, first_free_lease
from heliosfs.core.errors import FsError
from heliosfs.core.ids import Ino
from heliosfs.core.imported import ImportedNode
from heliosfs.core.inode import MAX_SIZE, Inode
from heliosfs.core.oplog import Adopt
from tests.support.corelab import CoreLab

DIR = stat.S_IFDIR | 0o755
REG = stat.S_IFREG | 0o644


def node(parent: int, name: bytes, mode: int, data: bytes | None = None, **more: object) -> ImportedNode:
    more.setdefault("size", len(data or b""))
    made = ImportedNode(parent, name, mode, 0, 0, 0, 5, **more)  # type: ignore[arg-type]
    if stat.S_ISREG(mode) and data is not None:
        made.extents = [(0, len(data), chunk_id(data))] if data else []
    return made


def adopt(lab: CoreLab, nodes: list[ImportedNode], name: bytes) -> dict[Ino, Inode | None]:
    """As the door does it: build against the present tree, store, swap."""
    lab.cut()
    branch = lab.engine.branches[lab.main]
    builder = TreeBuilder(branch.head, nodes, lab.engine.next_ino, lab.now(), lab.pages)
    for _ in builder.steps():
        pass
    table = radix.update(branch.head.base, sorted(builder.changes.items()), lab.pages)
    root = table if isinstance(table, bytes) else lab.store(table)  # type: ignore[arg-type]
    lab.carry_out(
        Adopt(
            lab.main,
            lab.now(),
            0,
            0,
            builder.files,
            builder.size_bytes,
            first_free_lease(builder.next_ino),
            b"safety-" + name,
            name,
            root,
        )
    )
    lab.check()
    return builder.changes


def a_tree() -> list[ImportedNode]:
    return [
        node(-1, b"", DIR),
        node(0, b"d", DIR),
        node(1, b"a", REG, b"alpha"),
        node(1, b"b", REG, b"alpha", link_to=2),
        node(0, b"l", stat.S_IFLNK | 0o777, target=b"d/a"),
        node(0, b"empty", REG, b""),
        node(0, b"x", REG, b"xattrs", xattrs={b"user.k": b"v"}),
    ]


def test_a_tree_is_adopted_with_its_links() -> None:
    lab = CoreLab()
    adopt(lab, a_tree(), b"one")
    view = lab.main
    assert lab.ino(view, b"d/a") == lab.ino(view, b"d/b")
    assert lab.engine.inode(view, lab.ino(view, b"d/a")).nlink == 2
    assert lab.engine.inode(view, lab.ino(view, b"l")).target == b"d/a"
    assert lab.engine.inode(view, lab.ino(view, b"x")).xattrs == {b"user.k": b"v"}
    branch = lab.engine.branches[view]
    assert branch.latest is branch.snapshots[b"one"]
    assert branch.snapshots[b"safety-one"].kind == oplog.KIND_RESTORE


def test_the_same_tree_again_changes_nothing() -> None:
    lab = CoreLab()
    adopt(lab, a_tree(), b"one")
    before = {path: lab.ino(lab.main, path) for path in (b"d", b"d/a", b"l", b"x", b"empty")}
    assert adopt(lab, a_tree(), b"two") == {}
    unread = a_tree()
    for each in unread:
        each.extents = None
    assert adopt(lab, unread, b"three") == {}
    assert {path: lab.ino(lab.main, path) for path in before} == before


def test_what_is_gone_goes_and_what_changed_keeps_its_number() -> None:
    lab = CoreLab()
    adopt(lab, a_tree(), b"one")
    view = lab.main
    ino_a, ino_x = lab.ino(view, b"d/a"), lab.ino(view, b"x")
    nodes = [
        node(-1, b"", DIR),
        node(0, b"d", DIR),
        node(1, b"a", REG, b"beta"),
        node(0, b"l", DIR),
        node(3, b"inside", REG, b"i"),
        node(0, b"x", REG, b"xattrs", xattrs={b"user.k": b"v"}),
    ]
    changes = adopt(lab, nodes, b"two")
    assert lab.ino(view, b"d/a") == ino_a
    assert lab.engine.inode(view, ino_a).nlink == 1
    assert lab.ino(view, b"x") == ino_x
    assert ino_x not in changes
    assert lab.engine.inode(view, lab.ino(view, b"l")).is_dir()
    assert lab.engine.branches[view].head.files == 6


def test_a_directory_that_became_a_file_takes_all_below_with_it() -> None:
    lab = CoreLab()
    adopt(lab, a_tree(), b"one")
    adopt(lab, [node(-1, b"", DIR), node(0, b"d", REG, b"now a file")], b"two")
    assert lab.engine.branches[lab.main].head.files == 2
    many = [node(-1, b"", DIR), *[node(0, b"%d" % n, REG, b"%d" % n) for n in range(250)]]
    adopt(lab, many, b"three")
    adopt(lab, many[:120], b"four")
    assert lab.engine.branches[lab.main].head.files == 120
    lab.restore(lab.main, b"one")
    lab.check()
    assert lab.ino(lab.main, b"d/a")


def test_more_bytes_than_the_record_has_room_for_are_refused() -> None:
    """Holes included: sparse files of the largest size are cheap to make."""
    lab = CoreLab()
    for count in (2, 3):
        files = [node(0, b"%d" % number, REG, size=MAX_SIZE, extents=[]) for number in range(count)]
        if count == 2:
            adopt(lab, [node(-1, b"", DIR), *files], b"two")
        else:
            with pytest.raises(FsError, match=r"2\^64") as raised:
                adopt(lab, [node(-1, b"", DIR), *files], b"three")
            assert raised.value.errno == errno.EFBIG
