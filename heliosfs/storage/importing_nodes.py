"""The nodes of a tree that is being imported, as they become known: the walk first, contents afterwards.

Invariants: a directory comes before what is in it; of a file with several names the first found one holds
the content and the others link to it. No await, no I/O. Must not know: workers, the filesystem.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from heliosfs.core.imported import ImportedNode
from heliosfs.core.inode import NO_XATTRS
from heliosfs.storage.workers.jobs import ScannedNode, StoredFile

_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_OURS: Final = b"user.helios."


class Importer(Protocol):
    """On whose behalf the import is."""

    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...


Known = tuple[int, int, int, int]
"""(inode number, mode, size, mtime_ns) of what a branch has at a path."""


class FileToRead(NamedTuple):
    """A regular file whose content is wanted: number of its node, where it is, bytes it had."""

    node: int
    path: bytes
    size: int


class NodeList:
    """Builds the list of imported nodes.

    Attributes:
        unchanged: Files that need not be read.
        warnings: One line each.
    """

    def __init__(self, root: bytes, baseline: Callable[[bytes], Known | None] | None, caller: Importer) -> None:
        """Begin a list.

        Args:
            root: Path of the tree.
            baseline: Tells what the branch has at a path now; None: it is empty.
            caller: Who imports; unless he is root, other people's files become his.
        """
        self.unchanged = 0
        self.warnings: list[str] = []
        self._root = root
        self._baseline = baseline
        self._caller = caller
        self._nodes: list[ImportedNode | None] = []
        self._directories: dict[int, bytes] = {}
        self._first: dict[tuple[int, int], int] = {}
        self._links: dict[int, list[int]] = {}

    def add(self, scanned: ScannedNode) -> tuple[FileToRead | None, int]:
        """The next node of the walk. Returns what has to be read, if anything, else the bytes that need not."""
        index = len(self._nodes)
        node = self._imported(scanned)
        self._nodes.append(node)
        kind = stat.S_IFMT(scanned.mode)
        if kind == stat.S_IFDIR:
            self._directories[index] = self._path(scanned)
            return None, 0
        if scanned.nlink > 1:
            first = self._first.setdefault((scanned.dev, scanned.ino), index)
            if first != index:
                node.link_to = first
                self._links.setdefault(first, []).append(index)
                return None, 0
        if kind != stat.S_IFREG:
            return None, 0
        path = self._path(scanned)
        if self._baseline is not None:
            known = self._baseline(path)
            if known is not None and known[2:] == (scanned.size, scanned.mtime_ns) and stat.S_ISREG(known[1]):
                node.extents = None
                self.unchanged += 1
                return None, scanned.size
        if not scanned.size:
            return None, 0
        return FileToRead(index, self._root + b"/" + path, scanned.size), 0

    def stored(self, file: FileToRead, result: StoredFile) -> None:
        """The content of a file, as it was read: its size and mtime are those of that moment."""
        node = self._nodes[file.node]
        assert node is not None
        node.size = result.size
        node.mtime_ns = result.mtime_ns
        node.extents = result.extents
        if result.changed:
            self.warn(file.path[len(self._root) + 1 :], "was written to while it was read")

    def failed(self, file: FileToRead, error: OSError) -> FileToRead | None:
        """A file can't be read and is left out. If it has gone, another name of it, to be read in its place."""
        self.warn(file.path[len(self._root) + 1 :], error.strerror or str(error))
        self._nodes[file.node] = None
        links = self._links.pop(file.node, None)
        if not links:
            return None
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL):
            for index in links:
                self._nodes[index] = None
            return None
        first, *others = links
        node = self._nodes[first]
        assert node is not None
        node.link_to = -1
        if others:
            self._links[first] = others
        for index in others:
            other = self._nodes[index]
            assert other is not None
            other.link_to = first
        return FileToRead(first, self._root + b"/" + self._directory(node.parent) + node.name, file.size)

    def warn(self, path: bytes, reason: str) -> None:
        """Note something about a path below the root."""
        self.warnings.append(f"{path.decode('utf-8', 'backslashreplace') or '.'}: {reason}")

    def finished(self) -> list[ImportedNode]:
        """All nodes, without those that were left out. The list can't be used any more."""
        kept: list[ImportedNode] = []
        new_index: list[int] = []
        for node in self._nodes:
            new_index.append(len(kept))
            if node is not None:
                if node.parent >= 0:
                    node.parent = new_index[node.parent]
                if node.link_to >= 0:
                    node.link_to = new_index[node.link_to]
                kept.append(node)
        return kept

    def _imported(self, scanned: ScannedNode) -> ImportedNode:
        caller_uid = self._caller.uid
        mode, uid, gid = scanned.mode, scanned.uid, scanned.gid
        orig_uid = orig_gid = -1
        xattrs = scanned.xattrs
        if caller_uid:
            if uid != caller_uid:
                orig_uid, orig_gid = uid, gid
                uid, gid = caller_uid, self._caller.gid
                if not stat.S_ISDIR(mode):
                    # Else anybody's set-uid program would become one of the caller's; cp does the same.
                    mode &= ~_SET_ID
            # security.capability and its like are root's to give.
            xattrs = tuple([x for x in xattrs if x[0].startswith((b"user.", b"system."))])
        return ImportedNode(
            scanned.parent,
            scanned.name,
            mode,
            uid,
            gid,
            scanned.rdev,
            scanned.mtime_ns,
            scanned.size if stat.S_ISREG(mode) else 0,
            {name: value for name, value in xattrs if not name.startswith(_OURS)} if xattrs else NO_XATTRS,
            scanned.target,
            [],
            -1,
            orig_uid,
            orig_gid,
        )

    def _path(self, scanned: ScannedNode) -> bytes:
        return self._directory(scanned.parent) + scanned.name

    def _directory(self, index: int) -> bytes:
        """Path of a directory below the root, with a slash behind it; b"" for the root."""
        path = self._directories.get(index)
        return path + b"/" if path else b""
