"""What a store should hold, kept by applying one operation after another.

An operation is a tuple: its verb, the branch's path, arguments; paths within a branch are tuples of names.
`Model.plan` is pure: it raises `Refused`, or gives a function that makes the change. Must not know: the
filesystem under test, files on disk, how operations are chosen.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from blake3 import blake3

Path = tuple[bytes, ...]
Operation = tuple[Any, ...]

Made: TypeAlias = "Node | list[Snapshot] | None"
Change: TypeAlias = Callable[[], Made]

NOREPLACE = 1
EXCHANGE = 2
ANY = 0
"""In `Refused`: one of several errnos, which depends on the order of checks."""


class Refused(Exception):
    """The operation must fail.

    Attributes:
        errno: With this, or ANY.
    """

    def __init__(self, errno_: int) -> None:
        super().__init__(errno.errorcode.get(errno_, "any errno"))
        self.errno = errno_


@dataclass(eq=False, slots=True)
class Node:
    """An inode. `ino` 0 and `mtime_ns`, `uid` None: not known."""

    mode: int
    uid: int | None = 0
    ino: int = 0
    data: bytes = b""
    target: bytes = b""
    mtime_ns: int | None = None
    names: dict[bytes, Node] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    digest: bytes = b""

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)

    def is_dir(self) -> bool:
        return self.kind == stat.S_IFDIR

    def change(self, data: bytes) -> None:
        self.data = data
        self.digest = b""
        self.mtime_ns = None

    def content(self) -> bytes:
        """Digest of the data."""
        if not self.digest:
            self.digest = blake3(self.data).digest()
        return self.digest

    def inodes(self) -> dict[int, Node]:
        """Every inode from here down, by id()."""
        found: dict[int, Node] = {}
        waiting = [self]
        while waiting:
            node = waiting.pop()
            if id(node) not in found:
                found[id(node)] = node
                waiting.extend(node.names.values())
        return found

    def paths(self) -> Iterator[tuple[Path, Node]]:
        """Every name from here down; () for this."""
        waiting: list[tuple[Path, Node]] = [((), self)]
        while waiting:
            path, node = waiting.pop()
            yield path, node
            waiting.extend(((*path, name), below) for name, below in node.names.items())


def copied(root: Node) -> Node:
    """A copy of a tree that shares no node; hard links stay so."""
    twins: dict[int, Node] = {}

    def twin(node: Node) -> Node:
        found = twins.get(id(node))
        if found is None:
            found = twins[id(node)] = Node(
                node.mode,
                node.uid,
                node.ino,
                node.data,
                node.target,
                node.mtime_ns,
                {},
                dict(node.xattrs),
                node.digest,
            )
            found.names = {name: twin(below) for name, below in node.names.items()}
        return found

    return twin(root)


@dataclass(eq=False, slots=True)
class Snapshot:
    """A frozen tree. A name of None is one that the filesystem chose and has not told yet.

    Attributes:
        first_name: The name that it had first.
        kind: As the filesystem calls it: user, auto, restore, import, base.
    """

    name: bytes | None
    kind: str
    root: Node
    first_name: bytes | None = None

    def call(self, name: bytes) -> None:
        """This is what the filesystem has called it."""
        self.name = self.first_name = name


@dataclass(eq=False, slots=True)
class Branch:
    """A writable tree; `latest` is what restore calls so."""

    root: Node
    snapshots: list[Snapshot] = field(default_factory=list)
    latest: Snapshot | None = None

    def snapshot(self, name: bytes) -> Snapshot:
        found = self.latest if name == b"latest" else next((s for s in self.snapshots if s.name == name), None)
        if found is None:
            raise Refused(errno.ENOENT)
        return found

    def newest_asked(self) -> Snapshot | None:
        base = None
        for snapshot in reversed(self.snapshots):
            if snapshot.kind == "base":
                base = snapshot
            elif snapshot.kind != "restore":
                return snapshot
        return base


class Model:
    """Branches by path. Every change goes through `plan`."""

    def __init__(self) -> None:
        self.branches: dict[bytes, Branch] = {b"main": Branch(Node(stat.S_IFDIR | 0o755))}

    def plan(self, operation: Operation) -> Change:
        """The change that the operation makes. Raises Refused. The function gives what was made, if anything."""
        verb, branch = operation[0], self.branches.get(operation[1])
        if branch is None:
            raise Refused(errno.ENOENT)
        change: Change = getattr(self, "_" + verb)(branch, *operation[1:])
        return change

    def copy(self) -> Model:
        """One that changes by itself. The trees of snapshots, which never change, are shared."""
        twin = Model()
        twin.branches = {}
        for path, branch in self.branches.items():
            made = twin.branches[path] = Branch(copied(branch.root))
            for snapshot in branch.snapshots:
                made.snapshots.append(Snapshot(snapshot.name, snapshot.kind, snapshot.root, snapshot.first_name))
                if snapshot is branch.latest:
                    made.latest = made.snapshots[-1]
        return twin

    # --- names ---------------------------------------------------------------------------------------

    def _make(self, branch: Branch, at: bytes, path: Path, mode: int, target: bytes) -> Change:
        parent = self._directory(branch, path)
        if path[-1] in parent.names:
            raise Refused(errno.EEXIST)

        def change() -> Node:
            parent.mtime_ns = None
            node = parent.names[path[-1]] = Node(mode, target=target)
            return node

        return change

    def _link(self, branch: Branch, at: bytes, path: Path, new: Path) -> Change:
        node = self.find(branch, path)
        parent = self._directory(branch, new)
        if node.is_dir():
            raise Refused(errno.EPERM)
        if new[-1] in parent.names:
            raise Refused(errno.EEXIST)

        def change() -> None:
            parent.mtime_ns = None
            parent.names[new[-1]] = node

        return change

    def _unlink(self, branch: Branch, at: bytes, path: Path) -> Change:
        parent = self._directory(branch, path)
        node = self.find(branch, path)
        if node.is_dir():
            raise Refused(errno.EISDIR)

        def change() -> None:
            parent.mtime_ns = None
            del parent.names[path[-1]]

        return change

    def _rmdir(self, branch: Branch, at: bytes, path: Path) -> Change:
        parent = self._directory(branch, path)
        node = self.find(branch, path)
        if not node.is_dir():
            raise Refused(errno.ENOTDIR)
        if node.names:
            raise Refused(errno.ENOTEMPTY)

        def change() -> None:
            parent.mtime_ns = None
            del parent.names[path[-1]]

        return change

    def _rename(self, branch: Branch, at: bytes, path: Path, new: Path, flags: int) -> Change:
        holder, into = self._directory(branch, path), self._directory(branch, new)
        moved = self.find(branch, path)
        target = into.names.get(new[-1])
        if moved.is_dir() and new[: len(path)] == path and new != path:
            raise Refused(ANY)
        if flags == EXCHANGE:
            if target is None or (target.is_dir() and path[: len(new)] == new and new != path):
                raise Refused(ANY)
        elif target is not None:
            if flags == NOREPLACE:
                raise Refused(ANY)
            if target is not moved and (moved.is_dir() != target.is_dir() or target.names):
                raise Refused(ANY)

        def change() -> None:
            if target is moved and flags != EXCHANGE:
                return
            holder.mtime_ns = into.mtime_ns = None
            if flags == EXCHANGE:
                assert target is not None
                holder.names[path[-1]], into.names[new[-1]] = target, moved
            else:
                del holder.names[path[-1]]
                into.names[new[-1]] = moved

        return change

    # --- attributes and content ----------------------------------------------------------------------

    def _write(self, branch: Branch, at: bytes, path: Path, offset: int, data: bytes) -> Change:
        node = self._regular(branch, path)

        def change() -> None:
            old = node.data
            if data:
                node.change(old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :])

        return change

    def _append(self, branch: Branch, at: bytes, path: Path, data: bytes) -> Change:
        return self._write(branch, at, path, len(self._regular(branch, path).data), data)

    def _truncate(self, branch: Branch, at: bytes, path: Path, size: int) -> Change:
        node = self._regular(branch, path)
        return lambda: node.change(node.data[:size].ljust(size, b"\0"))

    def _copy(
        self, branch: Branch, at: bytes, path: Path, start: int, target: Path, into: int, length: int
    ) -> Change:
        data = self._regular(branch, path).data[start : start + length]
        return self._write(branch, at, target, into, data)

    def _allocate(self, branch: Branch, at: bytes, path: Path, mode: int, offset: int, length: int) -> Change:
        node = self._regular(branch, path)

        def change() -> None:
            data, end = node.data, offset + length
            if not mode & 1:
                data = data.ljust(end, b"\0")
            if mode & ~1:
                zeros = bytes(max(0, min(end, len(data)) - offset))
                data = data[:offset] + zeros + data[offset + len(zeros) :]
            node.change(data)

        return change

    def _chmod(self, branch: Branch, at: bytes, path: Path, mode: int) -> Change:
        node = self.find(branch, path)

        def change() -> None:
            node.mode = node.kind | mode

        return change

    def _chown(self, branch: Branch, at: bytes, path: Path, uid: int) -> Change:
        node = self.find(branch, path)

        def change() -> None:
            node.uid = uid

        return change

    def _utimens(self, branch: Branch, at: bytes, path: Path, mtime_ns: int) -> Change:
        node = self.find(branch, path)

        def change() -> None:
            node.mtime_ns = mtime_ns

        return change

    def _setxattr(self, branch: Branch, at: bytes, path: Path, name: bytes, value: bytes) -> Change:
        node = self.find(branch, path)

        def change() -> None:
            node.xattrs[name] = value

        return change

    def _removexattr(self, branch: Branch, at: bytes, path: Path, name: bytes) -> Change:
        node = self.find(branch, path)
        if name not in node.xattrs:
            raise Refused(errno.ENODATA)

        def change() -> None:
            del node.xattrs[name]

        return change

    def _fsync(self, branch: Branch, at: bytes, path: Path) -> Change:
        self.find(branch, path)
        return _nothing

    def _hold(self, branch: Branch, at: bytes, path: Path) -> Change:
        """Unlink, the file kept open."""
        return self._unlink(branch, at, path)

    def _scribble(self, branch: Branch, at: bytes, offset: int, data: bytes) -> Change:
        """Write to the file that was unlinked and kept open."""
        return _nothing

    def _release(self, branch: Branch, at: bytes) -> Change:
        return _nothing

    # --- versions ------------------------------------------------------------------------------------

    def _look(self, branch: Branch, at: bytes, name: bytes) -> Change:
        """Look a snapshot's directory up, which gives it a view number."""
        branch.snapshot(name)
        return _nothing

    def _persist(self, branch: Branch, at: bytes) -> Change:
        return _nothing

    def _collect(self, branch: Branch, at: bytes) -> Change:
        return _nothing

    def _root(self, branch: Branch, at: bytes) -> Change:
        return _nothing

    def _checkpoint(self, branch: Branch, at: bytes, name: bytes | None) -> Change:
        if name is not None and any(s.name == name for s in branch.snapshots):
            raise Refused(errno.EEXIST)

        def change() -> list[Snapshot]:
            return [self._freeze(branch, name, "auto" if name is None else "user")]

        return change

    def _freeze(self, branch: Branch, name: bytes | None, kind: str) -> Snapshot:
        snapshot = Snapshot(name, kind, copied(branch.root), name)
        branch.snapshots.append(snapshot)
        if kind != "restore":
            branch.latest = snapshot
        return snapshot

    def _fork(self, branch: Branch, at: bytes, name: bytes, snapshot: bytes | None) -> Change:
        root = branch.root if snapshot is None else branch.snapshot(snapshot).root
        if at + b"/" + name in self.branches:
            raise Refused(errno.EEXIST)

        def change() -> None:
            made = self.branches[at + b"/" + name] = Branch(copied(root))
            self._freeze(made, b"base", "base")

        return change

    def _restore(self, branch: Branch, at: bytes, name: bytes) -> Change:
        snapshot = branch.snapshot(name)

        def change() -> list[Snapshot]:
            safety = self._freeze(branch, None, "restore")
            branch.root = copied(snapshot.root)
            branch.latest = snapshot
            return [safety]

        return change

    def _forget(self, branch: Branch, at: bytes, name: bytes) -> Change:
        snapshot = branch.snapshot(name)

        def change() -> None:
            branch.snapshots.remove(snapshot)
            if branch.latest is snapshot:
                branch.latest = branch.newest_asked()

        return change

    def _rename_snapshot(self, branch: Branch, at: bytes, old: bytes, new: bytes) -> Change:
        snapshot = branch.snapshot(old)
        if any(s.name == new for s in branch.snapshots):
            raise Refused(errno.EEXIST)

        def change() -> None:
            snapshot.name = new

        return change

    def _discard(self, branch: Branch, at: bytes) -> Change:
        if at == b"main" or any(path.startswith(at + b"/") for path in self.branches):
            raise Refused(errno.EBUSY)

        def change() -> None:
            del self.branches[at]

        return change

    def _adopt(self, branch: Branch, at: bytes, tree: Any, source: str) -> Change:
        """An import. Inodes of what was there at a path already stay; which, is the filesystem's affair."""

        def change() -> list[Snapshot]:
            made = []
            if branch.root.names or branch.snapshots:
                made.append(self._freeze(branch, None, "restore"))
            branch.root = tree_of(tree, branch.root.ino)
            return [*made, self._freeze(branch, None, "import")]

        return change

    # --- finding -------------------------------------------------------------------------------------

    def find(self, branch: Branch, path: Path) -> Node:
        """The node at a path. Raises Refused ENOENT, ENOTDIR."""
        node = branch.root
        for name in path:
            if not node.is_dir():
                raise Refused(errno.ENOTDIR)
            found = node.names.get(name)
            if found is None:
                raise Refused(errno.ENOENT)
            node = found
        return node

    def _directory(self, branch: Branch, path: Path) -> Node:
        parent = self.find(branch, path[:-1])
        if not parent.is_dir():
            raise Refused(errno.ENOTDIR)
        return parent

    def _regular(self, branch: Branch, path: Path) -> Node:
        node = self.find(branch, path)
        if node.kind != stat.S_IFREG:
            raise Refused(errno.EISDIR if node.is_dir() else errno.EINVAL)
        return node


def _nothing() -> None:
    """The change of an operation that makes none."""


def tree_of(spec: Any, ino: int) -> Node:
    """The tree of an import's description: (mode, mtime_ns, data) or (mode, mtime_ns, {name: ...})."""
    mode, mtime_ns, content = spec
    node = Node(mode, mtime_ns=mtime_ns, ino=ino)
    if isinstance(content, dict):
        node.names = {name: tree_of(below, 0) for name, below in content.items()}
    else:
        node.data = content
    return node
