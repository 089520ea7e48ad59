"""Everything that an open store shows, as plain values: {branch path: (latest, snapshots, tree)}.

A tree is {path: (mode, uid, inode number, links, size, mtime in ns, content, xattrs)}; content is the
BLAKE3 of a file's bytes or the target of a link. A snapshot is (name, kind, tree or None). All bytes are
read, so damage raises.
"""

from __future__ import annotations

from typing import Any

from blake3 import blake3

from heliosfs.core import directory, extent, oplog
from heliosfs.core.ids import Ino
from heliosfs.filesystem import Filesystem

_STEP = 1 << 20


async def dump(fs: Filesystem, turn: int) -> dict[bytes, Any]:
    """Of all branches. Of their snapshots the unstored ones, and every fourth, which `turn` chooses; all for -1."""
    if turn % 8:
        # Most of the time without a thread for what was written before this life: it costs 0.1 ms a file.
        fs.reader._first_own_life = 0
    found: dict[bytes, Any] = {}
    seen: dict[int, Any] = {}
    for branch in list(fs.engine.branches.values()):
        snapshots = []
        for snapshot in branch.snapshots.values():
            if turn >= 0 and snapshot.state.root is not None and (snapshot.id // 8 + turn) % 4:
                snapshots.append((snapshot.name, oplog.SNAPSHOT_KINDS[snapshot.kind], None))
                continue
            if id(snapshot.state) not in seen:
                seen[id(snapshot.state)] = await _tree(fs, snapshot.state)
            snapshots.append((snapshot.name, oplog.SNAPSHOT_KINDS[snapshot.kind], seen[id(snapshot.state)]))
        latest = branch.latest.name if branch.latest is not None else None
        found[branch.path] = (latest, tuple(snapshots), await _tree(fs, branch.head))
    return found


async def _tree(fs: Filesystem, tree: Any) -> dict[tuple[bytes, ...], Any]:
    found: dict[tuple[bytes, ...], Any] = {}
    waiting: list[tuple[tuple[bytes, ...], Ino]] = [((), Ino(1))]
    while waiting:
        path, ino = waiting.pop()
        with fs.cache.blocking():
            inode = tree.get(ino, fs.engine.pages)
            assert inode is not None, f"{path} names inode {ino}, which is gone"
            below = (
                [(d.name, d.ino) for d in directory.entries(inode.tree, fs.engine.pages)] if inode.is_dir() else []
            )
        content = inode.target
        if inode.is_file():
            hasher = blake3()
            for offset in range(0, inode.size, _STEP):
                with fs.cache.blocking():
                    length = min(_STEP, inode.size - offset)
                    plan = extent.pieces(inode.tree, offset, length, fs.engine.pages)
                data = await fs.reader.read(plan)
                assert len(data) == length
                hasher.update(data)
            content = hasher.digest()
        found[path] = (
            inode.mode,
            inode.uid,
            inode.ino,
            inode.nlink,
            inode.size,
            inode.mtime_ns,
            content,
            tuple(sorted(inode.xattrs.items())),
        )
        waiting.extend(((*path, name), child) for name, child in below)
    return found
