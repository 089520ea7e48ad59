"""A dumb model of a tree, and its comparison with the core's. Must not know: what changes it."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import Any

from heliosfs.core import directory, extent
from heliosfs.core.ids import Ino, ViewNo
from tests.support.corelab import CoreLab


@dataclass(eq=False)
class Thing:
    """A file, directory or link of the model."""

    kind: int
    mode: int
    data: bytearray = field(default_factory=bytearray)
    names: dict[bytes, Thing] = field(default_factory=dict)
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


def walk(root: Thing, path: bytes) -> Thing | None:
    """What is at a path; None: nothing."""
    at: Thing | None = root
    for name in path.split(b"/"):
        if name:
            at = at.names.get(name) if at is not None else None
    return at


def rename_refused(
    holder: Thing | None, moved: Thing | None, into: Thing | None, target: Thing | None, flags: int
) -> bool:
    """Whether rename(2) of `moved` in `holder` over `target` in `into` fails. `flags`: 1 NOREPLACE, 2 EXCHANGE."""
    if holder is None or into is None or moved is None or into.kind != stat.S_IFDIR:
        return True
    if moved.kind == stat.S_IFDIR and holds(moved, into):
        return True
    if flags == 2:
        return target is None or (target.kind == stat.S_IFDIR and holds(target, holder))
    if target is None:
        return False
    if flags == 1:
        return True
    if target.kind == stat.S_IFDIR:
        return moved.kind != stat.S_IFDIR or bool(target.names)
    return moved.kind == stat.S_IFDIR


def holds(top: Thing, thing: Thing) -> bool:
    """Whether one is the other, or somewhere below it."""
    return top is thing or any(holds(below, thing) for below in top.names.values())


def shape(thing: Thing) -> Any:
    """All that is below, as plain values."""
    if thing.kind == stat.S_IFDIR:
        return {name: shape(below) for name, below in thing.names.items()}
    return bytes(thing.data), thing.xattrs


def as_model(lab: CoreLab, view: ViewNo, ino: Ino, seen: dict[Ino, Thing]) -> Thing:
    """What the core has at an inode. `seen`: what was met already, by number."""
    if ino in seen:
        return seen[ino]
    inode = lab.engine.inode(view, ino)
    thing = seen[ino] = Thing(stat.S_IFMT(inode.mode), inode.mode & 0o7777, xattrs=dict(inode.xattrs))
    if inode.is_dir():
        for dentry in directory.entries(inode.tree, lab.pages):
            thing.names[dentry.name] = as_model(lab, view, dentry.ino, seen)
    else:
        thing.data = bytearray(lab.read(view, ino))
    return thing


def compare(lab: CoreLab, tree: Any, model: Thing) -> None:
    """A tree of the core is what the model says. Raises AssertionError."""
    inos: dict[int, Thing] = {}
    waiting: list[tuple[Ino, Thing]] = [(Ino(1), model)]
    while waiting:
        ino, thing = waiting.pop()
        inode = tree.get(ino, lab.pages)
        assert inode is not None
        assert stat.S_IFMT(inode.mode) == thing.kind
        assert dict(inode.xattrs) == thing.xattrs
        assert inos.setdefault(ino, thing) is thing
        if thing.kind == stat.S_IFDIR:
            entries = {d.name: d.ino for d in directory.entries(inode.tree, lab.pages)}
            assert entries.keys() == thing.names.keys()
            waiting.extend((entries[name], below) for name, below in thing.names.items())
        else:
            assert inode.size == len(thing.data)
            if thing.data:
                assert _content(lab, inode) == bytes(thing.data)


def _content(lab: CoreLab, inode: Any) -> bytes:
    out = []
    for piece in extent.pieces(inode.tree, 0, inode.size, lab.pages):
        if piece.source is None:
            out.append(bytes(piece.length))
        else:
            out.extend(lab.bytes_of(*at) for at in extent.locate(piece.source, piece.start, piece.length))
    return b"".join(out)
