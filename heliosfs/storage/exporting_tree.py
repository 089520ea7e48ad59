"""An export into a directory tree.

Invariants: while it is written everything is private to this user; a directory gets its mode and times after
all that is in it, last of all the root. Must not know: where the steps come from.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Final

from heliosfs.storage.exporting_steps import BeginNode, EndFile, FileData, Step, shown

_REFUSALS: Final = frozenset((errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL, errno.E2BIG))
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID


class TreeSink:
    """Writes the steps below a directory."""

    def __init__(self, dest: bytes) -> None:
        """Write into `dest`, which must not exist or be an empty directory."""
        self._dest = dest
        self._directories: list[BeginNode] = []
        self._file: BeginNode | None = None
        self._fd = -1
        self._is_root = os.geteuid() == 0
        self._warnings: list[str] = []

    def start(self) -> None:
        """See Sink. Raises OSError ENOTEMPTY, ENOTDIR, ENOENT (no parent), EACCES."""
        try:
            os.mkdir(self._dest, 0o700)
        except FileExistsError:
            if os.listdir(self._dest):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), os.fsdecode(self._dest)) from None

    def write(self, steps: Sequence[Step]) -> list[str]:
        """See Sink."""
        self._warnings = []
        try:
            for step in steps:
                if type(step) is FileData:
                    self._write_data(step)
                elif type(step) is EndFile:
                    self._end_file()
                elif type(step) is BeginNode:
                    self._begin(step)
                else:
                    self._drop_file()
        except BaseException:
            self._close()
            raise
        return self._warnings

    def finish(self) -> list[str]:
        """See Sink: attributes of directories, the deepest first."""
        self._warnings = []
        for node in reversed(self._directories):
            self._attributes(self._path(node.path), node)
        return self._warnings

    def _path(self, relative: bytes) -> bytes:
        return self._dest + b"/" + relative if relative else self._dest

    def _begin(self, node: BeginNode) -> None:
        path = self._path(node.path)
        kind = stat.S_IFMT(node.mode)
        if kind == stat.S_IFDIR:
            if node.path:
                os.mkdir(path, 0o700)
            self._directories.append(node)
        elif node.first:
            try:
                os.link(self._path(node.first), path, follow_symlinks=False)
            except FileNotFoundError:
                self._warn(node, "the file that it is a further name of was left out")
        elif kind == stat.S_IFREG:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)
            self._file = node
        elif kind == stat.S_IFLNK:
            os.symlink(node.target, path)
            self._attributes(path, node)
        else:
            try:
                os.mknod(path, kind | 0o600, node.rdev)
            except PermissionError as error:
                self._warn(node, f"can't be made: {error.strerror}")
            else:
                self._attributes(path, node)

    def _write_data(self, step: FileData) -> None:
        view = memoryview(step.data)
        offset = step.offset
        while view:
            count = os.pwrite(self._fd, view, offset)
            offset += count
            view = view[count:]

    def _end_file(self) -> None:
        node = self._file
        assert node is not None
        os.ftruncate(self._fd, node.size)
        self._close()
        self._attributes(self._path(node.path), node)

    def _drop_file(self) -> None:
        node = self._file
        assert node is not None
        self._close()
        os.unlink(self._path(node.path))

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _attributes(self, path: bytes, node: BeginNode) -> None:
        mode = stat.S_IMODE(node.mode)
        if self._is_root:
            os.chown(path, node.uid, node.gid, follow_symlinks=False)
        elif node.uid != os.geteuid():
            # It is ours now: another user's set-id program must not become one of ours.
            mode &= ~_SET_ID
        # After chown, which drops security.capability; before chmod, because an ACL sets mode bits.
        for name, value in node.xattrs:
            try:
                os.setxattr(path, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                self._warn(node, f"xattr {name.decode('utf-8', 'backslashreplace')}: {error.strerror}")
        if not stat.S_ISLNK(node.mode):
            os.chmod(path, mode)
        os.utime(path, ns=(node.atime_ns, node.mtime_ns), follow_symlinks=False)

    def _warn(self, node: BeginNode, reason: str) -> None:
        self._warnings.append(f"{shown(node.path)}: {reason}")
