"""INIT: what this kernel and we agree on, as a value that outlives the process which agreed.

A session is made from a descriptor and this value alone; another process that gets both goes on where this one
ended (DESIGN section 6). Invariant: nothing is asked for that the kernel did not offer. Must not know: handlers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from heliosfs.transport.kernel.wire import (
    INIT_OUT,
    MAJOR,
    MAX_WRITE,
    MINOR,
    OLDEST_MINOR,
    PAGE_BYTES,
    Flag,
    Layouts,
)

_BACKGROUND: Final = 64
"""Requests that nobody waits for (read-ahead, write-back) in flight; 12 by default."""
_READ_AHEAD: Final = 1 << 20
_LOW: Final = (1 << 32) - 1

WANTED: Final = (
    Flag.ASYNC_READ
    | Flag.EXPORT_SUPPORT
    | Flag.BIG_WRITES
    | Flag.HAS_IOCTL_DIR
    | Flag.DO_READDIRPLUS
    | Flag.PARALLEL_DIROPS
    | Flag.ABORT_ERROR
    | Flag.MAX_PAGES
    | Flag.CACHE_SYMLINKS
    | Flag.EXPLICIT_INVAL_DATA
    | Flag.HANDLE_KILLPRIV_V2
    | Flag.SETXATTR_EXT
    | Flag.INIT_EXT
    | Flag.HAS_EXPIRE_ONLY
    | Flag.HAS_RESEND
    | Flag.DONT_MASK
    | Flag.POSIX_ACL
)
"""Asked for in every mode. ATOMIC_O_TRUNC is not: without an OPEN a truncation would be lost. ASYNC_DIO is not:
after a write with O_DIRECT by AIO the kernel does not throw out what others have read of its range meanwhile."""
_WITHOUT_OPEN: Final = Flag.NO_OPEN_SUPPORT | Flag.NO_OPENDIR_SUPPORT
_ALWAYS_OFFERED: Final = Flag.ASYNC_READ | Flag.BIG_WRITES


class TooOld(Exception):
    """The kernel's protocol is older than 7.31."""


@dataclass(slots=True, frozen=True)
class Connection:
    """What was agreed.

    Attributes:
        minor: Of the protocol, the lower one of both sides.
        flags: All 64 bits of what both sides do.
        no_open: OPEN is answered with ENOSYS once, and never comes again; OPENDIR likewise.
        max_write: Bytes of data in one request.
        trusted: The kernel checks no permissions; access(2) asks us.
    """

    minor: int
    flags: int
    no_open: bool
    max_write: int = MAX_WRITE
    trusted: bool = False

    def has(self, flag: int) -> bool:
        """Whether a flag was agreed on."""
        return bool(self.flags & flag)

    def to_json(self) -> str:
        """As one word, for the process that takes over."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Connection:
        """The inverse. Raises ValueError, TypeError for anything else."""
        return cls(**json.loads(text))


def negotiate(
    body: memoryview, *, passthrough: bool = False, trusted: bool = False
) -> tuple[Connection | None, bytes]:
    """Answer an INIT.

    Args:
        body: Of the request, its header taken off.
        passthrough: Ask for FUSE_PASSTHROUGH, which is granted in replies to OPEN and so excludes `no_open`.
        trusted: The kernel is to check no permissions, access lists included.

    Returns:
        What is agreed on, and the body of the reply. None: the kernel speaks a later major version, and asks
        again with ours after this reply.

    Raises:
        TooOld: It speaks an older one than we do.
        struct.error: The request is malformed.
    """
    major, minor, read_ahead, low = Layouts.INIT.unpack_from(body)
    if major > MAJOR:
        return None, INIT_OUT.pack(MAJOR, MINOR, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    if major < MAJOR or minor < OLDEST_MINOR:
        raise TooOld(f"the kernel speaks FUSE {major}.{minor}; {MAJOR}.{OLDEST_MINOR} is needed (Linux 5.4)")
    offered = low
    if low & Flag.INIT_EXT and len(body) >= Layouts.INIT_EXT.size:
        offered |= Layouts.INIT_EXT.unpack_from(body)[4] << 32
    wanted = WANTED | (Flag.PASSTHROUGH if passthrough else _WITHOUT_OPEN)
    if trusted:
        wanted &= ~Flag.POSIX_ACL  # With it the kernel would check after all.
    elif not offered & Flag.POSIX_ACL:
        wanted &= ~Flag.DONT_MASK
    flags = wanted & offered
    no_open = flags & _WITHOUT_OPEN == _WITHOUT_OPEN
    pages = MAX_WRITE // PAGE_BYTES if flags & Flag.MAX_PAGES else 0
    max_write = MAX_WRITE if pages else 32 * PAGE_BYTES
    agreed = min(minor, MINOR)
    reply = INIT_OUT.pack(
        MAJOR,
        agreed,
        min(read_ahead, _READ_AHEAD),
        flags & _LOW,
        _BACKGROUND,
        _BACKGROUND * 3 // 4,
        max_write,
        1,
        pages,
        0,
        flags >> 32,
        1 if flags & Flag.PASSTHROUGH else 0,
        0,
    )
    return Connection(agreed, flags, no_open, max_write, trusted), reply
