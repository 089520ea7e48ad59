"""The structures of the kernel's FUSE protocol, each once: operations, layouts, flags, notifications.

All integers are in the machine's own byte order (both sides are one machine), with the kernel's padding written
out. Source: linux/fuse.h, protocol 7.45. Must not know: what any operation does.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

MAJOR: Final = 7
MINOR: Final = 45
"""The newest that is spoken; the kernel's may be newer."""
OLDEST_MINOR: Final = 31
"""Linux 5.4. Older kernels send other layouts, and have none of what makes this transport worth having."""

IN_HEADER: Final = Struct("=IIQQIIIHH")
"""Length of the request, opcode, unique, node, uid, gid, pid, length of extensions (8 bytes each), padding."""
OUT_HEADER: Final = Struct("=IiQ")
"""Length of the reply, 0 or a negative errno, unique (0: a notification, whose code the errno is)."""
BODY: Final = IN_HEADER.size
RESENT: Final = 1 << 63
"""In `unique`: sent a second time, because of a RESEND notification."""
ONCE: Final = RESENT - 1
"""What of `unique` names a request, whether it comes for the first time or again."""

NAME: Final = Struct("")
"""No fixed part: the body is a name (or two), each ended by a NUL, or nothing."""


class Operation(NamedTuple):
    """One kind of request.

    Attributes:
        layout: The fixed part of its body; names and data come behind it.
        since: Minor version that has it first.
    """

    opcode: int
    name: str
    layout: Struct
    since: int = 0


class Layouts:
    """Fixed parts of request bodies."""

    FORGET: Final = Struct("=Q")
    FORGET_ONE: Final = Struct("=QQ")
    BATCH_FORGET: Final = Struct("=II")
    GETATTR: Final = Struct("=IIQ")
    SETATTR: Final = Struct("=IIQQQQQQIIIIIIII")
    MKNOD: Final = Struct("=IIII")
    MKDIR: Final = Struct("=II")
    RENAME: Final = Struct("=Q")
    RENAME2: Final = Struct("=QII")
    LINK: Final = Struct("=Q")
    OPEN: Final = Struct("=II")
    CREATE: Final = Struct("=IIII")
    RELEASE: Final = Struct("=QIIQ")
    FLUSH: Final = Struct("=QIIQ")
    READ: Final = Struct("=QQIIQII")
    WRITE: Final = Struct("=QQIIQII")
    FSYNC: Final = Struct("=QII")
    SETXATTR: Final = Struct("=II")
    SETXATTR_EXT: Final = Struct("=IIII")
    GETXATTR: Final = Struct("=II")
    LOCK: Final = Struct("=QQQQIIII")
    ACCESS: Final = Struct("=II")
    INIT: Final = Struct("=IIII")
    INIT_EXT: Final = Struct("=IIIII")
    INTERRUPT: Final = Struct("=Q")
    BMAP: Final = Struct("=QII")
    IOCTL: Final = Struct("=QIIQII")
    POLL: Final = Struct("=QQII")
    FALLOCATE: Final = Struct("=QQQII")
    LSEEK: Final = Struct("=QQII")
    COPY_FILE_RANGE: Final = Struct("=QQQQQQQ")
    SYNCFS: Final = Struct("=Q")
    STATX: Final = Struct("=IIQII")


OPERATIONS: Final = (
    LOOKUP := Operation(1, "LOOKUP", NAME),
    FORGET := Operation(2, "FORGET", Layouts.FORGET),
    GETATTR := Operation(3, "GETATTR", Layouts.GETATTR),
    SETATTR := Operation(4, "SETATTR", Layouts.SETATTR),
    READLINK := Operation(5, "READLINK", NAME),
    SYMLINK := Operation(6, "SYMLINK", NAME),
    MKNOD := Operation(8, "MKNOD", Layouts.MKNOD),
    MKDIR := Operation(9, "MKDIR", Layouts.MKDIR),
    UNLINK := Operation(10, "UNLINK", NAME),
    RMDIR := Operation(11, "RMDIR", NAME),
    RENAME := Operation(12, "RENAME", Layouts.RENAME),
    LINK := Operation(13, "LINK", Layouts.LINK),
    OPEN := Operation(14, "OPEN", Layouts.OPEN),
    READ := Operation(15, "READ", Layouts.READ),
    WRITE := Operation(16, "WRITE", Layouts.WRITE),
    STATFS := Operation(17, "STATFS", NAME),
    RELEASE := Operation(18, "RELEASE", Layouts.RELEASE),
    FSYNC := Operation(20, "FSYNC", Layouts.FSYNC),
    SETXATTR := Operation(21, "SETXATTR", Layouts.SETXATTR),
    GETXATTR := Operation(22, "GETXATTR", Layouts.GETXATTR),
    LISTXATTR := Operation(23, "LISTXATTR", Layouts.GETXATTR),
    REMOVEXATTR := Operation(24, "REMOVEXATTR", NAME),
    FLUSH := Operation(25, "FLUSH", Layouts.FLUSH),
    INIT := Operation(26, "INIT", Layouts.INIT),
    OPENDIR := Operation(27, "OPENDIR", Layouts.OPEN),
    READDIR := Operation(28, "READDIR", Layouts.READ),
    RELEASEDIR := Operation(29, "RELEASEDIR", Layouts.RELEASE),
    FSYNCDIR := Operation(30, "FSYNCDIR", Layouts.FSYNC),
    GETLK := Operation(31, "GETLK", Layouts.LOCK),
    SETLK := Operation(32, "SETLK", Layouts.LOCK),
    SETLKW := Operation(33, "SETLKW", Layouts.LOCK),
    ACCESS := Operation(34, "ACCESS", Layouts.ACCESS),
    CREATE := Operation(35, "CREATE", Layouts.CREATE),
    INTERRUPT := Operation(36, "INTERRUPT", Layouts.INTERRUPT),
    BMAP := Operation(37, "BMAP", Layouts.BMAP),
    DESTROY := Operation(38, "DESTROY", NAME),
    IOCTL := Operation(39, "IOCTL", Layouts.IOCTL, 11),
    POLL := Operation(40, "POLL", Layouts.POLL, 11),
    NOTIFY_REPLY := Operation(41, "NOTIFY_REPLY", Layouts.WRITE, 15),
    BATCH_FORGET := Operation(42, "BATCH_FORGET", Layouts.BATCH_FORGET, 16),
    FALLOCATE := Operation(43, "FALLOCATE", Layouts.FALLOCATE, 19),
    READDIRPLUS := Operation(44, "READDIRPLUS", Layouts.READ, 21),
    RENAME2 := Operation(45, "RENAME2", Layouts.RENAME2, 23),
    LSEEK := Operation(46, "LSEEK", Layouts.LSEEK, 24),
    COPY_FILE_RANGE := Operation(47, "COPY_FILE_RANGE", Layouts.COPY_FILE_RANGE, 28),
    SYNCFS := Operation(50, "SYNCFS", Layouts.SYNCFS, 34),
    TMPFILE := Operation(51, "TMPFILE", Layouts.CREATE, 37),
    STATX := Operation(52, "STATX", Layouts.STATX, 39),
    COPY_FILE_RANGE_64 := Operation(53, "COPY_FILE_RANGE_64", Layouts.COPY_FILE_RANGE, 45),
)
BY_OPCODE: Final = {operation.opcode: operation for operation in OPERATIONS}
OPCODES: Final = 64
"""Every opcode that is known is below."""
LEAST: Final = [BODY + (BY_OPCODE[opcode].layout.size if opcode in BY_OPCODE else 0) for opcode in range(OPCODES)]
"""By opcode: bytes that the shortest request of its kind has."""

ATTR: Final = Struct("=QQQqqqIIIIIIIIII")
"""fuse_attr: ino, size, blocks, atime, mtime, ctime, nanoseconds, mode, nlink, uid, gid, rdev, block size, 0."""
ATTR_OUT: Final = Struct("=QII" + "QQQqqqIIIIIIIIII")
"""Validity (s, ns), padding, fuse_attr."""
ENTRY_OUT: Final = Struct("=QQQQII" + "QQQqqqIIIIIIIIII")
"""Node (0: no such name), generation, validity of the name (s), of the attributes (s), both (ns), fuse_attr."""
OPEN_OUT: Final = Struct("=QIi")
"""Handle, FOPEN_ flags, backing id."""
WRITE_OUT: Final = Struct("=II")
STATFS_OUT: Final = Struct("=QQQQQIIII24x")
XATTR_SIZE_OUT: Final = Struct("=II")
LSEEK_OUT: Final = Struct("=Q")
COPY_OUT: Final = Struct("=Q")
IOCTL_OUT: Final = Struct("=iIII")
INIT_OUT: Final = Struct("=IIIIHHIIHHIIH22x")
"""Major, minor, readahead, flags, background, congestion, max_write, time_gran, max_pages, alignment, flags2,
stack depth, request timeout."""
DIRENT: Final = Struct("=QQII")
"""ino, cookie behind it, length of the name, type; then the name, filled up to 8 bytes."""
STATX_OUT: Final = Struct("=QII16x" + "IIQIIIH2xQQQQ" + "qIi" * 4 + "IIII112x")
"""Validity, flags; mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes mask,
atime, btime, ctime, mtime (s, ns, 0), device numbers."""

NOTIFY_INVAL_INODE: Final = 2
NOTIFY_INVAL_ENTRY: Final = 3
NOTIFY_STORE: Final = 4
NOTIFY_DELETE: Final = 6
NOTIFY_RESEND: Final = 7
INVAL_INODE_OUT: Final = Struct("=Qqq")
INVAL_ENTRY_OUT: Final = Struct("=QII")
STORE_OUT: Final = Struct("=QQII")


class Flag:
    """What INIT negotiates; bits 32 to 63 travel as `flags2`."""

    ASYNC_READ: Final = 1 << 0
    ATOMIC_O_TRUNC: Final = 1 << 3
    EXPORT_SUPPORT: Final = 1 << 4
    BIG_WRITES: Final = 1 << 5
    DONT_MASK: Final = 1 << 6
    HAS_IOCTL_DIR: Final = 1 << 11
    DO_READDIRPLUS: Final = 1 << 13
    ASYNC_DIO: Final = 1 << 15
    NO_OPEN_SUPPORT: Final = 1 << 17
    PARALLEL_DIROPS: Final = 1 << 18
    POSIX_ACL: Final = 1 << 20
    ABORT_ERROR: Final = 1 << 21
    MAX_PAGES: Final = 1 << 22
    CACHE_SYMLINKS: Final = 1 << 23
    NO_OPENDIR_SUPPORT: Final = 1 << 24
    EXPLICIT_INVAL_DATA: Final = 1 << 25
    HANDLE_KILLPRIV_V2: Final = 1 << 28
    SETXATTR_EXT: Final = 1 << 29
    INIT_EXT: Final = 1 << 30
    HAS_EXPIRE_ONLY: Final = 1 << 35
    PASSTHROUGH: Final = 1 << 37
    HAS_RESEND: Final = 1 << 39


class SetAttrBit:
    """`valid` of SETATTR."""

    MODE: Final = 1 << 0
    UID: Final = 1 << 1
    GID: Final = 1 << 2
    SIZE: Final = 1 << 3
    ATIME: Final = 1 << 4
    MTIME: Final = 1 << 5
    ATIME_NOW: Final = 1 << 7
    MTIME_NOW: Final = 1 << 8
    KILL_SUIDGID: Final = 1 << 11


WRITE_CACHE: Final = 1 << 0
"""write_flags: write-back of a mapping."""
WRITE_KILL_SUIDGID: Final = 1 << 2
SETXATTR_ACL_KILL_SGID: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PASSTHROUGH: Final = 1 << 7
IOCTL_DIR: Final = 1 << 4

DIRECT_HANDLE: Final = 1
"""The handle of a file that CREATE has opened for writing past the page cache; 0: any other."""

MAX_WRITE: Final = 1 << 20
"""Bytes of data in one WRITE or READ."""
PAGE_BYTES: Final = 4096
REQUEST_MAX: Final = MAX_WRITE + PAGE_BYTES
"""The buffer that read(2) of /dev/fuse wants: a WRITE's data, its headers, and to spare."""


class Malformed(Exception):
    """A request is not what its opcode says. Its caller gets EINVAL."""


def name_at(view: memoryview, at: int, end: int) -> bytes:
    """The name that begins at `at` and is ended by a NUL before `end`. Raises Malformed: it is not ended."""
    name, ended, _ = view[at:end].tobytes().partition(b"\0")
    if not ended:
        raise Malformed("a name without an end")
    return name


def names_at(view: memoryview, at: int, end: int) -> tuple[bytes, bytes]:
    """Two names in a row. Raises Malformed: they are not there."""
    parts = view[at:end].tobytes().split(b"\0", 2)
    if len(parts) < 3:
        raise Malformed("two names are wanted")
    return parts[0], parts[1]
