"""check(): every invariant of docs/invariants.md that the state of a store can show.

fsck, the debug mode and every property test call it. It walks everything, so it costs O(store).
"""

from __future__ import annotations

import stat
from collections import Counter

from heliosfs.core import directory, radix
from heliosfs.core.engine import Engine
from heliosfs.core.extent import ChunkRef, Extent
from heliosfs.core.ids import ROOT_INO, Ino
from heliosfs.core.inode import Inode
from heliosfs.core.radix import LEAF_MAX, Branch, Leaf, Pages, Tree
from heliosfs.core.refs import Branch as BranchRef
from heliosfs.core.view import GONE, State, View


def check(engine: Engine) -> list[str]:
    """What is wrong, one line each; [] when all is well. Pages must be loadable (blocking)."""
    wrong: list[str] = []
    check_branches(engine, wrong)
    seen: set[int] = set()
    for branch in engine.branches.values():
        where = _shown(branch.path)
        check_tree(branch.head, engine.pages, where, wrong)
        for ino in branch.orphans:
            if branch.head.get(ino, engine.pages) is not None:
                wrong.append(f"{where}: orphan {ino} is in the tree")
        for snapshot in branch.snapshots.values():
            if id(snapshot.state) in seen:
                continue
            seen.add(id(snapshot.state))
            check_tree(snapshot.state, engine.pages, f"{where}@{_shown(snapshot.name)}", wrong)
    return wrong


def check_branches(engine: Engine, wrong: list[str]) -> None:
    """Check names, numbers and counters of branches and snapshots; no page is read."""
    for view_no, branch in engine.branches.items():
        where = _shown(branch.path)
        if branch.view != view_no:
            wrong.append(f"{where}: view number {branch.view} filed under {view_no}")
        _check_branch(engine, branch, where, wrong)
    for view_no, snapshot in engine.snapshot_views.items():
        if snapshot.view != view_no or view_no in engine.branches:
            wrong.append(f"snapshot view {view_no} is not its own")


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _check_branch(engine: Engine, branch: BranchRef, where: str, wrong: list[str]) -> None:
    for ino, inode in branch.orphans.items():
        if inode.nlink:
            wrong.append(f"{where}: orphan {ino} has {inode.nlink} names")
    for name, snapshot in branch.snapshots.items():
        if snapshot.name != name or snapshot.branch != branch.id:
            wrong.append(f"{where}: snapshot {name!r} is misfiled")
    if {s.id: s for s in branch.snapshots.values()} != branch.by_id:
        wrong.append(f"{where}: snapshots by number are not those by name")
    if branch.latest is not None and branch.snapshots.get(branch.latest.name) is not branch.latest:
        wrong.append(f"{where}: latest names a snapshot that is gone")
    for name, child in branch.children.items():
        if child.name != name or child.parent is not branch or child.view not in engine.branches:
            wrong.append(f"{where}: child {name!r} is misfiled")
    if branch.lease_end > engine.next_ino or branch.next_ino > branch.lease_end:
        wrong.append(f"{where}: lease {branch.next_ino}..{branch.lease_end} beyond {engine.next_ino}")


def check_tree(tree: View | State, pages: Pages, where: str, wrong: list[str]) -> None:
    """Check one view: reachability, link counts, entries, extents, sums."""
    inodes = _all_inodes(tree, pages)
    links: Counter[Ino] = Counter()
    subdirectories: Counter[Ino] = Counter()
    for ino, inode in inodes.items():
        if inode.ino != ino:
            wrong.append(f"{where}: inode {inode.ino} filed under {ino}")
        if inode.is_dir():
            _check_directory(ino, inode, inodes, pages, where, wrong, links, subdirectories)
        elif inode.is_file():
            _check_extents(inode, pages, where, wrong)
            if inode.parent:
                wrong.append(f"{where}: file {ino} has a name and is marked as made without")
    root = inodes.get(ROOT_INO)
    if root is None or not root.is_dir():
        wrong.append(f"{where}: no root directory")
        return
    for ino, inode in inodes.items():
        expected = 2 + subdirectories[ino] if inode.is_dir() else links[ino]
        if inode.nlink != expected:
            wrong.append(f"{where}: inode {ino} has nlink {inode.nlink}, {expected} expected")
        if ino != ROOT_INO and inode.is_dir() and links[ino] != 1:
            wrong.append(f"{where}: directory {ino} has {links[ino]} names")
    if len(inodes) != tree.files:
        wrong.append(f"{where}: {len(inodes)} inodes, {tree.files} counted")
    size = sum(inode.size for inode in inodes.values() if inode.is_file())
    if size != tree.size_bytes:
        wrong.append(f"{where}: {size} bytes, {tree.size_bytes} counted")


def _all_inodes(tree: View | State, pages: Pages) -> dict[Ino, Inode]:
    inodes = {Ino(key): value for key, value in radix.items(tree.base, pages)}
    for ino, found in tree.overlay.items():
        if found is GONE:
            inodes.pop(ino, None)
        else:
            assert isinstance(found, Inode)
            inodes[ino] = found
    return inodes


def _check_directory(
    ino: Ino,
    inode: Inode,
    inodes: dict[Ino, Inode],
    pages: Pages,
    where: str,
    wrong: list[str],
    links: Counter[Ino],
    subdirectories: Counter[Ino],
) -> None:
    check_shape(inode.tree, pages, f"{where}: directory {ino}", wrong)
    names = 0
    for key, bucket in radix.items(inode.tree, pages):
        if list(bucket) != sorted(bucket):
            wrong.append(f"{where}: directory {ino} has an unsorted bucket")
        for name, child_ino, kind in bucket:
            names += 1
            links[child_ino] += 1
            if directory.name_key(name) != key:
                wrong.append(f"{where}: {name!r} in directory {ino} lies under the wrong key")
            child = inodes.get(child_ino)
            if child is None:
                wrong.append(f"{where}: {name!r} in directory {ino} names inode {child_ino}, which is gone")
                continue
            if stat.S_IFMT(child.mode) >> 12 != kind:
                wrong.append(f"{where}: {name!r} in directory {ino} has the wrong type")
            if child.is_dir():
                subdirectories[ino] += 1
                if child.parent != ino:
                    wrong.append(f"{where}: directory {child_ino} says its parent is {child.parent}, not {ino}")
    if names != inode.size:
        wrong.append(f"{where}: directory {ino} has {names} names, {inode.size} counted")


def _check_extents(inode: Inode, pages: Pages, where: str, wrong: list[str]) -> None:
    check_shape(inode.tree, pages, f"{where}: file {inode.ino}", wrong)
    position = 0
    allocated = 0
    for offset, extent in radix.items(inode.tree, pages):
        assert isinstance(extent, Extent)
        if offset < position or extent.length <= 0:
            wrong.append(f"{where}: file {inode.ino} has overlapping or empty extents at {offset}")
        position = offset + extent.length
        allocated += extent.length
        room = extent.source.length
        if extent.start < 0 or extent.start + extent.length > room:
            kind = "chunk" if isinstance(extent.source, ChunkRef) else "log data"
            wrong.append(f"{where}: file {inode.ino} at {offset} reaches beyond its {kind}")
    if position > inode.size:
        wrong.append(f"{where}: file {inode.ino} has data up to {position}, size {inode.size}")
    if allocated != inode.allocated:
        wrong.append(f"{where}: file {inode.ino} has {allocated} bytes allocated, {inode.allocated} counted")


def check_shape(tree: Tree, pages: Pages, where: str, wrong: list[str]) -> int:
    """Check that a radix tree has its canonical shape. Returns its items."""
    node = radix.resolve(tree, pages)
    if node is None:
        return 0
    if isinstance(node, Leaf):
        if not 0 < len(node.keys) <= LEAF_MAX or node.keys != sorted(set(node.keys)):
            wrong.append(f"{where}: a leaf has {len(node.keys)} items or wrong order")
        return len(node.keys)
    assert isinstance(node, Branch)
    total = 0
    kids = 0
    for index, kid in enumerate(node.kids):
        if kid is None:
            continue
        kids += 1
        total += check_shape(kid, pages, where, wrong)
        first = next(radix.items(kid, pages))[0]
        if first >> node.shift & 15 != index or first >> node.shift + 4 != node.prefix:
            wrong.append(f"{where}: a key lies in the wrong branch")
    if total != node.count or total <= LEAF_MAX or kids < 2:
        wrong.append(f"{where}: a branch counts {node.count} items in {kids} kids, has {total}")
    return total
