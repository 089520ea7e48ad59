"""Walking a directory tree: names, attributes, xattrs and link targets, directories before what is in them.

Mounts are crossed, as cp -a does. What can't be read is a warning, and the rest goes on.
Must not know: the socket, what the tree is imported into.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from heliosfs.storage.workers.jobs import ScannedNode, ScanWarning

BATCH_NODES: Final = 200
CONTROL_NAME: Final = b".helios"

Emit = Callable[[list[ScannedNode], list[ScanWarning]], None]


def walk(root: bytes, emit: Emit, *, skip: tuple[int, int] | None = None) -> None:
    """Walk the directory `root` (a symbolic link to one is followed) and emit its nodes in batches.

    The root is node 0, with an empty name. A control directory at the root is left out with a warning.

    Args:
        emit: Called with at most BATCH_NODES nodes, and the warnings since the last call.
        skip: (st_dev, st_ino) of a directory to leave out, with a warning: the store that is imported into.

    Raises:
        OSError: The root is no directory or can't be listed (ENOENT, ENOTDIR, EACCES).
    """
    _Walk(root, emit, skip).run()


class _Walk:
    __slots__ = ("_count", "_emit", "_nodes", "_root", "_skip", "_warnings")

    def __init__(self, root: bytes, emit: Emit, skip: tuple[int, int] | None) -> None:
        self._root = root
        self._emit = emit
        self._skip = skip
        self._count = 0
        self._nodes: list[ScannedNode] = []
        self._warnings: list[ScanWarning] = []

    def run(self) -> None:
        root = self._root
        status = os.stat(root)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        # Not to be listed is an error here, and a warning below.
        os.scandir(root).close()
        # A link as the root stands for what it points to: its path must not name the link itself.
        self._add(-1, b"", root + b"/", b"", status)
        waiting: list[tuple[int, bytes, bytes]] = [(0, root, b"")]
        while waiting:
            index, path, relative = waiting.pop()
            try:
                with os.scandir(path) as entries:
                    for entry in entries:
                        below = self._entry(index, entry, relative)
                        if below is not None:
                            waiting.append(below)
            except OSError as error:
                self._warn(relative, error)
        self._emit(self._nodes, self._warnings)

    def _entry(self, parent: int, entry: os.DirEntry[bytes], above: bytes) -> tuple[int, bytes, bytes] | None:
        """Add one name; returns (index, path, path below the root) if it is a directory to walk."""
        name = entry.name
        relative = above + b"/" + name if above else name
        if not parent and name == CONTROL_NAME:
            self._warnings.append(ScanWarning(relative, 0, "a control directory is not imported"))
            return None
        path = entry.path
        try:
            status = entry.stat(follow_symlinks=False)
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFDIR and (status.st_dev, status.st_ino) == self._skip:
                self._warnings.append(ScanWarning(relative, 0, "the store itself is not imported"))
                return None
            target = os.readlink(path) if kind == stat.S_IFLNK else b""
        except OSError as error:
            self._warn(relative, error)
            return None
        index = self._add(parent, name, path, target, status, relative)
        return (index, path, relative) if kind == stat.S_IFDIR else None

    def _add(
        self,
        parent: int,
        name: bytes,
        path: bytes,
        target: bytes,
        status: os.stat_result,
        relative: bytes = b"",
    ) -> int:
        index = self._count
        self._count += 1
        self._nodes.append(
            ScannedNode(
                parent,
                name,
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_dev,
                status.st_ino,
                status.st_nlink,
                self._xattrs(path, relative),
                target,
            )
        )
        if len(self._nodes) >= BATCH_NODES:
            self._emit(self._nodes, self._warnings)
            self._nodes = []
            self._warnings = []
        return index

    def _xattrs(self, path: bytes, relative: bytes) -> tuple[tuple[bytes, bytes], ...]:
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
                self._warn(relative, error)
            return ()
        if not names:
            return ()
        found: list[tuple[bytes, bytes]] = []
        for name in names:
            try:
                found.append((os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)))
            except OSError as error:
                if error.errno != errno.ENODATA:
                    self._warn(relative, error)
        return tuple(sorted(found))

    def _warn(self, relative: bytes, error: OSError) -> None:
        self._warnings.append(ScanWarning(relative, error.errno or errno.EIO, error.strerror or str(error)))
