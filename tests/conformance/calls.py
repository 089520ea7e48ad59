"""System calls made in one directory, each written down with what it gave: a trace that two filesystems share.

A case is a function that is given `Calls`. What it calls is recorded in a form that does not depend on the
filesystem: errno names, contents, modes, owners, sizes, link counts; whether times moved, never what they are.
Invariant: a case makes no decision on anything that is not recorded. Must not know: which filesystem it is on.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

_libc = ctypes.CDLL(None, use_errno=True)
_libc.copy_file_range.restype = ctypes.c_ssize_t

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_EMPTY_PATH: Final = 0x1000
_AT_FDCWD: Final = -100
_COARSE_CLOCK: Final = 5
"""CLOCK_REALTIME_COARSE, which the time module lacks: what local filesystems take times from."""

Path: TypeAlias = str | bytes
Case: TypeAlias = "Callable[[Calls], None]"


@dataclass(frozen=True, slots=True)
class Registered:
    """A case: its group is the module's last name.

    Attributes:
        root_only: It changes users, or makes what only root may.
    """

    group: str
    name: str
    function: Case
    root_only: bool


CASES: Final[list[Registered]] = []


def case(function: Case) -> Case:
    """Register a case that any user can run."""
    CASES.append(Registered(function.__module__.rpartition(".")[2], function.__name__, function, False))
    return function


def root_case(function: Case) -> Case:
    """Register a case that needs root."""
    CASES.append(Registered(function.__module__.rpartition(".")[2], function.__name__, function, True))
    return function


class Timespec(ctypes.Structure):
    """struct timespec."""

    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


class Calls:
    """The calls. Functions of `os` can be called by their name; paths are relative to the case's directory.

    A call that fails is recorded and gives None (a descriptor: -1), so that a case goes on.
    """

    def __init__(self) -> None:
        self.trace: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def call(*args: Any, **keywords: Any) -> Any:
            return self.record(name, args, lambda: function(*args, **keywords), keywords)

        return call

    def note(self, line: str) -> None:
        """Write something down."""
        self.trace.append(line)

    def record(
        self,
        name: str,
        args: tuple[Any, ...],
        action: Callable[[], Any],
        keywords: dict[str, Any] | None = None,
        *,
        show: bool = True,
    ) -> Any:
        """Do it and write down what it gave."""
        said = ", ".join([*map(_short, args), *(f"{key}={value}" for key, value in (keywords or {}).items())])
        try:
            value = action()
        except OSError as error:
            self.note(f"{name}({said}) = {errno.errorcode[error.errno or 0]}")
            return None
        self.note(f"{name}({said}) = {_short(value) if show else 'ok'}")
        return value

    def open(self, path: Path, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        """open(2): a descriptor, -1 for none; which number it is is not recorded."""
        found = self.record("open", (path, oct(flags), oct(mode)), lambda: os.open(path, flags, mode), show=False)
        return -1 if found is None else int(found)

    def create(self, path: Path, content: bytes = b"", mode: int = 0o644) -> None:
        """A new file with content."""
        descriptor = self.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        if descriptor >= 0:
            if content:
                os.write(descriptor, content)
            os.close(descriptor)

    def content(self, path: Path) -> None:
        """All of a file, written down."""

        def action() -> bytes:
            with open(path, "rb", buffering=0) as file:
                return file.readall()

        self.record("content", (path,), action)

    def stat(self, path: Path | int, *, follow: bool = True) -> None:
        """What stat(2) or lstat(2) shows, without times and numbers that are the filesystem's own business."""
        shown = "fd" if isinstance(path, int) else path
        self.record("stat", (shown, follow), lambda: self._shape(os.stat(path, follow_symlinks=follow)))

    def lstat(self, path: Path) -> None:
        """lstat(2)."""
        self.stat(path, follow=False)

    def same(self, one: Path, two: Path) -> None:
        """Whether two names lead to one inode."""
        self.record("same", (one, two), lambda: os.lstat(one).st_ino == os.lstat(two).st_ino)

    def listdir(self, path: Path = ".") -> None:
        """Names, sorted."""
        self.record("listdir", (path,), lambda: sorted(os.listdir(os.fsencode(path))))

    def access(self, path: Path, mode: int) -> None:
        """access(2) with effective ids."""
        self.record("access", (path, mode), lambda: os.access(path, mode, effective_ids=True))

    def listxattr(self, path: Path, *, follow: bool = True) -> None:
        """Names in the user and trusted name spaces, sorted."""
        self.record("listxattr", (path,), lambda: sorted(os.listxattr(path, follow_symlinks=follow)))

    def renameat2(self, old: Path, new: Path, flags: int) -> None:
        """renameat2(2)."""

        def action() -> None:
            _check(_libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags))

        self.record("renameat2", (old, new, flags), action)

    def linkat(self, old: Path, new: Path, flags: int) -> None:
        """linkat(2)."""

        def action() -> None:
            _check(_libc.linkat(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags))

        self.record("linkat", (old, new, flags), action)

    def utimensat(self, path: Path, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0) -> None:
        """utimensat(2), with UTIME_NOW and UTIME_OMIT."""

        def action() -> None:
            both = (Timespec * 2)(Timespec(*atime), Timespec(*mtime))
            _check(_libc.utimensat(_AT_FDCWD, os.fsencode(path), both, flags))

        self.record("utimensat", (path, atime, mtime, flags), action)

    def flock(self, descriptor: int, operation: int) -> None:
        """flock(2)."""
        self.record("flock", ("fd", operation), lambda: fcntl.flock(descriptor, operation))

    def lockf(self, descriptor: int, operation: int, length: int = 0, start: int = 0) -> None:
        """fcntl(2) locks."""
        self.record(
            "lockf", ("fd", operation, length, start), lambda: fcntl.lockf(descriptor, operation, length, start)
        )

    def fallocate(self, descriptor: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2) itself, without the library's emulation."""

        def action() -> None:
            _check(_libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))

        self.record("fallocate", ("fd", mode, offset, length), action)

    def copy_range(
        self, source: int, at: int | None, target: int, to: int | None, length: int, *, flags: int = 0
    ) -> None:
        """copy_file_range(2); without an offset at the position, which moves."""

        def action() -> int:
            places = [None if place is None else ctypes.byref(ctypes.c_longlong(place)) for place in (at, to)]
            return _check(
                _libc.copy_file_range(source, places[0], target, places[1], ctypes.c_size_t(length), flags)
            )

        self.record("copy_file_range", ("source", at, "target", to, length, flags), action)

    def seek(self, descriptor: int, offset: int, whence: int) -> None:
        """lseek(2)."""
        self.record("lseek", (offset, whence), lambda: os.lseek(descriptor, offset, whence))

    def holes(self, descriptor: int, *offsets: int) -> None:
        """Where data and holes are, from each of these."""
        for offset in offsets:
            self.seek(descriptor, offset, os.SEEK_DATA)
            self.seek(descriptor, offset, os.SEEK_HOLE)

    def link_descriptor(self, descriptor: int, new: Path) -> None:
        """linkat(2) of what a descriptor is open on, with AT_EMPTY_PATH."""

        def action() -> None:
            _check(_libc.linkat(descriptor, b"", _AT_FDCWD, os.fsencode(new), _AT_EMPTY_PATH))

        self.record("linkat", ("descriptor", new), action)

    def set_times(self, path: Path, atime_ns: int, mtime_ns: int, *, follow: bool = True) -> None:
        """utimensat(2), and what stat shows then."""
        times = (atime_ns, mtime_ns)
        self.record("utime", (path, *times), lambda: os.utime(path, ns=times, follow_symlinks=follow))

    def show_times(self, path: Path, *, follow: bool = True) -> None:
        """atime and mtime in full: only for times that the case has set."""

        def action() -> tuple[int, int]:
            found = os.stat(path, follow_symlinks=follow)
            return found.st_atime_ns, found.st_mtime_ns

        self.record("times", (path,), action)

    def show_mtime(self, path: Path) -> None:
        """mtime in full."""
        self.record("mtime", (path,), lambda: os.lstat(path).st_mtime_ns)

    @contextmanager
    def watch(self, *paths: Path) -> Iterator[None]:
        """Write down whether mtime and ctime of these move in the block. They are watched by descriptor."""
        descriptors = [os.open(path, os.O_PATH | os.O_NOFOLLOW) for path in paths]
        before = [_both(os.fstat(descriptor)) for descriptor in descriptors]
        latest = max(moment for pair in before for moment in pair)
        # The local filesystem's clock moves in ticks of up to 10 ms.
        until = time.monotonic() + 5
        while time.clock_gettime_ns(_COARSE_CLOCK) <= latest and time.monotonic() < until:
            time.sleep(0.001)
        yield
        for path, descriptor, (mtime, ctime) in zip(paths, descriptors, before, strict=True):
            now_m, now_c = _both(os.fstat(descriptor))
            self.note(f"watched {_short(path)}: mtime {_moved(mtime, now_m)}, ctime {_moved(ctime, now_c)}")
            os.close(descriptor)

    @contextmanager
    def user(self, uid: int, gid: int | None = None, groups: tuple[int, ...] = ()) -> Iterator[None]:
        """Be another user in the block."""
        gid = uid if gid is None else gid
        self.note(f"as {uid}:{gid} {groups}")
        os.setgroups(list(groups))
        os.setegid(gid)
        os.seteuid(uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups([])
            self.note("as before")

    def _shape(self, found: os.stat_result) -> str:
        kind = stat.S_IFMT(found.st_mode)
        size = "-" if kind == stat.S_IFDIR else found.st_size
        device = found.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        owners = f"{found.st_uid}:{found.st_gid}"
        return f"{oct(found.st_mode)} nlink {found.st_nlink} {owners} size {size} rdev {device}"


def _both(found: os.stat_result) -> tuple[int, int]:
    return found.st_mtime_ns, found.st_ctime_ns


def _moved(before: int, after: int) -> str:
    return "kept" if before == after else "later" if after > before else "EARLIER"


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:60]}...{len(text)} characters...{text[-60:]}"
