"""A program on a mount: a process that carries out operations by system calls, one message each.

It outlives the daemons that serve it. Must not know: the model, when the daemon dies.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any

from blake3 import blake3

from tests.crash.soak.server import receive, send

_INO_MASK = (1 << 40) - 1
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def fork(point: bytes, channel: socket.socket, others: list[socket.socket]) -> int:
    """Start a program at a mountpoint; its process id. It ends when the other end of `channel` is closed."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for other in others:
            other.close()
        os.umask(0)
        program = _Program(point)
        while True:
            operation = receive(channel)
            try:
                answer = 0, program.do(operation)
            except OSError as error:
                answer = error.errno or errno.EIO, None
            send(channel, answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        code = 0
    finally:
        os._exit(code)


class _Program:
    """Attributes:
    clung: Descriptor of a file that was open when the daemon died; held: of one without a name.
    """

    def __init__(self, point: bytes) -> None:
        self._point = point
        self._clung = -1
        self._held = -1

    def do(self, operation: Any) -> Any:
        return getattr(self, "_" + operation[0])(*operation[1:])

    def _branch(self, branch: bytes) -> bytes:
        return b"/.helios/branches/".join([self._point, *branch.split(b"/")[1:]])

    def _at(self, branch: bytes, path: tuple[bytes, ...]) -> bytes:
        return b"/".join((self._branch(branch), *path))

    def _control(self, branch: bytes, *names: bytes) -> bytes:
        return b"/".join((self._branch(branch), b".helios", *names))

    # --- files ---------------------------------------------------------------------------------------

    def _make(self, branch: bytes, path: Any, mode: int, target: bytes) -> int:
        at = self._at(branch, path)
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFDIR:
            os.mkdir(at, stat.S_IMODE(mode))
        elif kind == stat.S_IFLNK:
            os.symlink(target, at)
        else:
            os.mknod(at, mode)
        return 0

    def _link(self, branch: bytes, path: Any, new: Any) -> None:
        os.link(self._at(branch, path), self._at(branch, new), follow_symlinks=False)

    def _unlink(self, branch: bytes, path: Any) -> None:
        os.unlink(self._at(branch, path))

    def _rmdir(self, branch: bytes, path: Any) -> None:
        os.rmdir(self._at(branch, path))

    def _rename(self, branch: bytes, path: Any, new: Any, flags: int) -> None:
        _renameat2(self._at(branch, path), self._at(branch, new), flags)

    def _write(self, branch: bytes, path: Any, offset: int, data: bytes) -> None:
        fd = os.open(self._at(branch, path), os.O_WRONLY | _OPEN)
        if self._clung >= 0:
            os.close(self._clung)
        self._clung = fd
        _whole(os.pwrite(fd, data, offset), data)

    def _append(self, branch: bytes, path: Any, data: bytes) -> None:
        fd = os.open(self._at(branch, path), os.O_WRONLY | os.O_APPEND | _OPEN)
        try:
            _whole(os.write(fd, data), data)
        finally:
            os.close(fd)

    def _truncate(self, branch: bytes, path: Any, size: int) -> None:
        fd = os.open(self._at(branch, path), os.O_WRONLY | _OPEN)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def _copy(self, branch: bytes, path: Any, start: int, target: Any, into: int, length: int) -> None:
        source = os.open(self._at(branch, path), os.O_RDONLY | _OPEN)
        fd = os.open(self._at(branch, target), os.O_WRONLY | _OPEN)
        try:
            if os.copy_file_range(source, fd, length, start, into) != length:
                raise OSError(errno.EIO, "a short copy")
        finally:
            os.close(fd)
            os.close(source)

    def _allocate(self, branch: bytes, path: Any, mode: int, offset: int, length: int) -> None:
        import ctypes

        fd = os.open(self._at(branch, path), os.O_WRONLY | _OPEN)
        try:
            if ctypes.CDLL(None, use_errno=True).fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
                raise OSError(ctypes.get_errno(), "fallocate")
        finally:
            os.close(fd)

    def _chmod(self, branch: bytes, path: Any, mode: int) -> None:
        os.chmod(self._at(branch, path), mode)

    def _chown(self, branch: bytes, path: Any, uid: int) -> None:
        os.chown(self._at(branch, path), uid, -1, follow_symlinks=False)

    def _utimens(self, branch: bytes, path: Any, mtime_ns: int) -> None:
        os.utime(self._at(branch, path), ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def _setxattr(self, branch: bytes, path: Any, name: bytes, value: bytes) -> None:
        os.setxattr(self._at(branch, path), name, value, follow_symlinks=False)

    def _removexattr(self, branch: bytes, path: Any, name: bytes) -> None:
        os.removexattr(self._at(branch, path), name, follow_symlinks=False)

    def _fsync(self, branch: bytes, path: Any) -> None:
        fd = os.open(self._at(branch, path), os.O_RDONLY | _OPEN)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _hold(self, branch: bytes, path: Any) -> None:
        at = self._at(branch, path)
        self._release(branch)
        self._held = os.open(at, os.O_RDWR | _OPEN)
        os.unlink(at)

    def _scribble(self, branch: bytes, offset: int, data: bytes) -> None:
        if self._held >= 0:
            os.pwrite(self._held, data, offset)

    def _release(self, branch: bytes) -> None:
        if self._held >= 0:
            fd, self._held = self._held, -1
            os.close(fd)

    def _cling(self, data: bytes) -> None:
        """Write to what was open when the daemon died. Raises: that is what must come of it."""
        fds = [fd for fd in (self._clung, self._held) if fd >= 0]
        self._clung = self._held = -1
        written = 0
        for fd in fds:
            try:
                written += os.write(fd, data)
                os.fsync(fd)
            except OSError:
                pass
            finally:
                try:
                    os.close(fd)
                except OSError:
                    pass
        if written:
            raise OSError(errno.EBADFD, "a write through a dead mount was acknowledged")

    # --- versions ------------------------------------------------------------------------------------

    def _checkpoint(self, branch: bytes, name: bytes | None) -> None:
        control = self._control(branch, b"checkpoint")
        if name is None:
            os.utime(control)
        else:
            _say(control, name)

    def _fork(self, branch: bytes, name: bytes, snapshot: bytes | None) -> None:
        if snapshot is None:
            os.mkdir(self._control(branch, b"branches", name))
        else:
            _say(self._control(branch, b"ctl"), b"branch %s --from %s" % (name, snapshot))

    def _restore(self, branch: bytes, name: bytes) -> None:
        _say(self._control(branch, b"restore"), name)

    def _forget(self, branch: bytes, name: bytes) -> None:
        os.rmdir(self._control(branch, b"snapshots", name))

    def _rename_snapshot(self, branch: bytes, old: bytes, new: bytes) -> None:
        os.rename(self._control(branch, b"snapshots", old), self._control(branch, b"snapshots", new))

    def _look(self, branch: bytes, name: bytes) -> None:
        os.listdir(self._control(branch, b"snapshots", name))

    def _discard(self, branch: bytes) -> None:
        above, _, name = branch.rpartition(b"/")
        os.rmdir(self._control(above, b"branches", name))

    def _root(self, branch: bytes) -> None:
        os.getxattr(self._branch(branch), b"user.helios.root")

    # --- looking at everything -----------------------------------------------------------------------

    def _dump(self, turn: int) -> Any:
        """As dump.py shows an open store, kinds of snapshots apart."""
        found: dict[bytes, Any] = {}
        waiting = [b"main"]
        while waiting:
            branch = waiting.pop()
            waiting += [branch + b"/" + name for name in os.listdir(self._control(branch, b"branches"))]
            snapshots = []
            latest = None
            for number, name in enumerate(sorted(os.listdir(self._control(branch, b"snapshots")))):
                at = self._control(branch, b"snapshots", name)
                if name == b"latest":
                    latest = os.readlink(at)
                else:
                    wanted = turn < 0 or (number + turn) % 4 == 0
                    snapshots.append((name, None, _tree(at) if wanted else None))
            found[branch] = (latest, tuple(snapshots), _tree(self._branch(branch)))
        return found


def _say(control: bytes, words: bytes) -> None:
    fd = os.open(control, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, words + b"\n")
    finally:
        os.close(fd)


def _whole(written: int, data: bytes) -> None:
    if written != len(data):
        raise OSError(errno.EIO, "a short write")


def _renameat2(old: bytes, new: bytes, flags: int) -> None:
    if not flags:
        os.rename(old, new)
        return
    import ctypes

    if ctypes.CDLL(None, use_errno=True).renameat2(-100, old, -100, new, flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def _tree(top: bytes) -> Any:
    found: dict[tuple[bytes, ...], Any] = {}
    waiting: list[tuple[bytes, ...]] = [()]
    while waiting:
        path = waiting.pop()
        at = b"/".join((top, *path))
        status = os.lstat(at)
        content, size = b"", status.st_size
        if stat.S_ISDIR(status.st_mode):
            names = os.listdir(at)
            size = len(names)
            waiting.extend((*path, name) for name in names)
        elif stat.S_ISREG(status.st_mode):
            with open(at, "rb") as file:
                content = blake3(file.read()).digest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(at)
        attributes = os.listxattr(at, follow_symlinks=False)
        found[path] = (
            status.st_mode,
            status.st_uid,
            status.st_ino & _INO_MASK,
            status.st_nlink,
            size,
            status.st_mtime_ns,
            content,
            tuple(sorted((os.fsencode(n), os.getxattr(at, n, follow_symlinks=False)) for n in attributes)),
        )
    return found
