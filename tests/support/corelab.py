"""The core without disk, loop or kernel: an engine, a log that is a list, a page store that is a dict."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cas import chunker
from cas.digest import ChunkId, chunk_id
from heliosfs.core import cut as cuts
from heliosfs.core import extent, namespace, oplog, pages, pathrestore, radix, ranges, recut, rename, versions
from heliosfs.core.apply import apply
from heliosfs.core.attributes import SetAttr, plan_remove_xattr, plan_set_attributes, plan_set_xattr
from heliosfs.core.check import check
from heliosfs.core.data import plan_read, plan_write
from heliosfs.core.engine import Engine
from heliosfs.core.errors import NeedPages
from heliosfs.core.extent import ChunkRef, LogData, locate
from heliosfs.core.ids import Ino, Lsn, PageId, SnapshotId, ViewNo
from heliosfs.core.inode import Inode
from heliosfs.core.oplog import Record
from heliosfs.core.radix import Node
from heliosfs.core.recut import Cutting
from heliosfs.core.view import State, View


@dataclass(slots=True)
class LabPlace:
    lsn: int
    end_lsn: int
    life: int
    offset: int
    length: int
    sums: bytes = b""


@dataclass(slots=True)
class DictPages:
    """A page store; `missing` pages raise NeedPages once, as a cold cache does."""

    stored: dict[PageId, bytes] = field(default_factory=dict)
    decoded: dict[PageId, Node] = field(default_factory=dict)
    cold: bool = False

    def node(self, page_id: PageId) -> Node:
        found = self.decoded.get(page_id)
        if found is None:
            if self.cold:
                raise NeedPages((page_id,))
            found = self.decoded[page_id] = pages.decode(self.stored[page_id])
        return found


class CoreLab:
    """Plans, logs and applies; cuts like the persister does."""

    def __init__(self) -> None:
        self.pages = DictPages()
        self.engine = Engine(self.pages)
        self.engine.found(0, 0, 1)
        self.log: list[tuple[int, bytes, LabPlace]] = []
        self.payloads: dict[int, bytes] = {}
        self.chunks: dict[ChunkId, bytes] = {}
        self.clock = itertools.count(1000)
        self.end = 4096

    @property
    def main(self) -> ViewNo:
        assert self.engine.main is not None
        return self.engine.main.view

    def now(self) -> int:
        return next(self.clock)

    def carry_out(self, record: Record, data: bytes = b"") -> Any:
        body = record.encode()
        lsn = self.end
        self.end += 64 + len(body) + len(data)
        place = LabPlace(lsn, self.end, 1, lsn, len(data))
        self.payloads[lsn] = data
        self.log.append((record.KIND, body, place))
        decoded = oplog.decode(record.KIND, body)
        assert decoded == record
        return apply(self.engine, record, place)

    def do(self, plan: Callable[..., Record | None], *args: Any, **more: Any) -> Any:
        record = plan(self.engine, *args, **more)
        return None if record is None else self.carry_out(record)

    # --- file operations by path ---------------------------------------------------------------------

    def ino(self, view: ViewNo, path: bytes) -> Ino:
        return pathrestore.walk(self.engine.tree(view), path, self.pages).ino

    def split(self, view: ViewNo, path: bytes) -> tuple[Ino, bytes]:
        parent, _, name = path.rpartition(b"/")
        return self.ino(view, parent), name

    def make(self, view: ViewNo, path: bytes, mode: int, target: bytes = b"") -> Inode:
        parent, name = self.split(view, path)
        made: Inode = self.do(namespace.plan_make, view, parent, name, mode, 0, 0, self.now(), target=target)
        return made

    def write(self, view: ViewNo, ino: Ino, offset: int, data: bytes) -> None:
        record = plan_write(self.engine, view, ino, offset, len(data), self.now())
        self.carry_out(record, data)

    def truncate(self, view: ViewNo, ino: Ino, size: int) -> None:
        self.do(plan_set_attributes, view, ino, SetAttr(size=size), self.now())

    def chmod(self, view: ViewNo, ino: Ino, mode: int) -> None:
        self.do(plan_set_attributes, view, ino, SetAttr(mode=mode), self.now())

    def set_xattr(self, view: ViewNo, ino: Ino, name: bytes, value: bytes) -> None:
        self.do(plan_set_xattr, view, ino, name, value, 0, self.now())

    def remove_xattr(self, view: ViewNo, ino: Ino, name: bytes) -> None:
        self.do(plan_remove_xattr, view, ino, name, self.now())

    def unlink(self, view: ViewNo, path: bytes) -> None:
        self.do(namespace.plan_unlink, view, *self.split(view, path), self.now())

    def rmdir(self, view: ViewNo, path: bytes) -> None:
        self.do(namespace.plan_remove_directory, view, *self.split(view, path), self.now())

    def link(self, view: ViewNo, path: bytes, new: bytes) -> None:
        ino = self.ino(view, path)
        self.do(namespace.plan_link, view, ino, *self.split(view, new), self.now())

    def rename(self, view: ViewNo, path: bytes, new: bytes, flags: int = 0) -> None:
        self.do(rename.plan_rename, view, *self.split(view, path), *self.split(view, new), flags, self.now())

    def read(self, view: ViewNo, ino: Ino, offset: int = 0, size: int = 1 << 40) -> bytes:
        out = b""
        for piece in plan_read(self.engine, view, ino, offset, size):
            if piece.source is None:
                out += bytes(piece.length)
                continue
            for source, start, length in locate(piece.source, piece.start, piece.length):
                out += self.bytes_of(source, start, length)
        return out

    def bytes_of(self, source: LogData | ChunkRef, start: int, length: int) -> bytes:
        data = self.chunks[source.id] if isinstance(source, ChunkRef) else self.payloads[source.offset]
        assert start + length <= len(data)
        return data[start : start + length]

    def copy(self, source: tuple[ViewNo, Ino], at: int, target: tuple[ViewNo, Ino], to: int, length: int) -> int:
        record = ranges.plan_copy(self.engine, source, at, target, to, length, self.now())
        if record is None:
            return 0
        self.carry_out(record)
        return record.length

    def fallocate(self, view: ViewNo, ino: Ino, mode: int, offset: int, length: int) -> None:
        self.do(ranges.plan_fallocate, view, ino, mode, offset, length, self.now())

    def seek(self, view: ViewNo, ino: Ino, offset: int, whence: int) -> int:
        return ranges.plan_seek(self.engine, view, ino, offset, whence)

    def make_unnamed(self, view: ViewNo, parent: bytes = b"", mode: int = 0o100644) -> Inode:
        made: Inode = self.do(namespace.plan_make_unnamed, view, self.ino(view, parent), mode, 0, 0, self.now())
        return made

    # --- versions ------------------------------------------------------------------------------------

    def checkpoint(self, view: ViewNo, name: bytes) -> None:
        self.do(versions.plan_checkpoint, view, name, oplog.KIND_USER, 0, 0, self.now())

    def fork(self, view: ViewNo, name: bytes, snapshot: bytes | None = None) -> ViewNo:
        source = SnapshotId(0)
        if snapshot is not None:
            source = versions.find_snapshot(self.engine.branches[view], snapshot).id
        branch = self.do(versions.plan_fork, view, name, source, 0, 0, 0, self.now())
        new: ViewNo = branch.view
        return new

    def restore(self, view: ViewNo, name: bytes) -> Any:
        return self.do(versions.plan_restore, view, name, 0, 0, self.now())

    def restore_path(self, view: ViewNo, name: bytes, path: bytes) -> Any:
        return self.do(pathrestore.plan_restore_path, view, name, path, 0, 0, self.now())

    def snapshot_view(self, view: ViewNo, name: bytes) -> ViewNo:
        """The view number of a snapshot, given at the first call."""
        snapshot = self.engine.branches[view].snapshots[name]
        if not snapshot.view:
            self.carry_out(oplog.AssignView(view, snapshot.id, self.engine.next_view))
        return snapshot.view

    def replayed(self) -> CoreLab:
        """Another lab to which the same log has led."""
        other = CoreLab()
        other.payloads, other.chunks = self.payloads, self.chunks
        for kind, body, place in self.log:
            apply(other.engine, oplog.decode(kind, body), place)
        return other

    # --- storing -------------------------------------------------------------------------------------

    def cut(self) -> dict[int, PageId]:
        """Begin and finish a cut at once, with canonical pages and chunks."""
        cut = cuts.begin(self.engine, Lsn(self.end))
        return self.finish(cut)

    def finish(self, cut: cuts.Cut) -> dict[int, PageId]:
        roots: dict[int, PageId] = {}
        memo: dict[int, Inode] = {}
        for branch_cut in cut.branches:
            for orphan in branch_cut.orphans.values():
                self._stored(orphan, cut, memo)
        for state in cut.wanted:
            base, changes = cuts.changes_of(state, roots)
            table = radix.update(base, [(i, n and self._stored(n, cut, memo)) for i, n in changes], self.pages)
            assert table is not None
            roots[id(state)] = self.store(table)
        for source, moved in cut.moves:
            extent.move(source, moved)
        cuts.finish(self.engine, cut, roots)
        return roots

    def _stored(self, inode: Inode, cut: cuts.Cut, memo: dict[int, Inode]) -> Inode:
        if id(inode) in memo:
            return memo[id(inode)]
        copy = inode.copy(Lsn(0))
        if inode.is_file():
            copy.tree = self.canonical(inode, cut)
        memo[id(inode)] = copy
        return copy

    def canonical(self, inode: Inode, cut: cuts.Cut) -> radix.Tree:
        done: list[tuple[recut.Region, Cutting]] = []
        for run in recut.plan(inode, self.pages):
            accepted, rest = recut.accept(run, {r.offset: self.cutting(r) for r in run.regions})
            done.extend(accepted)
            if rest is not None:
                done.append((rest, self.cutting(rest)))
        tree, moves = recut.apply_cuttings(inode.tree, done, self.pages)
        cut.moves.extend(moves)
        return tree

    def cutting(self, region: recut.Region) -> Cutting:
        data = b"".join(self.bytes_of(*source) for source in region.sources)
        pieces: list[tuple[ChunkId, int]] = []
        at = 0
        for length in chunker.cut(data):
            piece = data[at : at + length]
            at += length
            id_ = chunk_id(piece)
            self.chunks[id_] = piece
            pieces.append((id_, length))
            if at in region.resync:
                break
        return Cutting(pieces, at)

    def store(self, node: Node) -> PageId:
        if node.stored is not None:
            return node.stored
        if isinstance(node, radix.Branch):
            for index, kid in enumerate(node.kids):
                if kid is not None and not isinstance(kid, bytes):
                    node.kids[index] = self.store(kid)
        elif isinstance(node.values[0], Inode):
            for inode in node.values:
                tree = inode.tree
                if tree is None or isinstance(tree, bytes):
                    continue
                if isinstance(tree, radix.Leaf) and len(pages.encode(tree)) <= pages.INLINE_MAX:
                    continue
                inode.tree = self.store(tree)
        encoded = pages.encode(node)
        id_ = pages.page_id(encoded)
        node.stored = id_
        self.pages.stored[id_] = encoded
        return id_

    def root_of(self, view: ViewNo) -> PageId:
        """The Merkle root of a branch as it is now."""
        state = self.engine.branches[view].head.freeze(Lsn(self.end))
        if state.root is None:
            self.engine.requested.append(state)
            self.cut()
        assert state.root is not None
        return state.root

    def forget_decoded(self) -> None:
        self.pages.decoded.clear()

    def check(self) -> None:
        assert check(self.engine) == []

    def tree(self, view: ViewNo) -> View | State:
        return self.engine.tree(view)


def assert_canonical(lab: CoreLab, view: ViewNo) -> None:
    """Every stored file has the chunks that cutting each of its data runs anew gives."""
    for _, inode in radix.items(lab.engine.branches[view].head.base, lab.pages):
        if not inode.is_file():
            continue
        for run in extent.data_runs(inode.tree, lab.pages):
            assert all(isinstance(e.source, extent.ChunkRef) and e.is_whole_chunk() for _, e in run)
            data = b"".join(lab.chunks[e.source.id] for _, e in run)
            assert [e.length for _, e in run] == list(chunker.cut(data))
