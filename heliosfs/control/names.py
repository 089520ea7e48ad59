"""Which names branches and snapshots may have.

Invariant: a name that passes `check_new` is one file name, valid UTF-8, and means nothing else anywhere in
the surface. Must not know: what exists.
"""

from __future__ import annotations

import errno
from typing import Final

from heliosfs.core.errors import FsError

NAME_MAX: Final = 255
"""Bytes of the longest name."""

LATEST: Final = b"latest"
"""Stands for the newest snapshot that somebody asked for, where an existing snapshot is named."""

RESERVED: Final = frozenset((b".", b".helios", LATEST, b"now", b"parent", b"base"))
"""Names that cannot be given. (`..` occurs in no name at all.)"""

_FORBIDDEN: Final = ((b"/", "a slash"), (b"\n", "a newline"), (b"\0", "a NUL byte"), (b"..", "'..'"))


def check_new(name: bytes) -> bytes:
    """A name to be given to a branch or snapshot.

    Raises:
        FsError: EINVAL malformed or reserved; ENAMETOOLONG over 255 bytes.
    """
    if name in RESERVED:
        raise FsError(errno.EINVAL, f"the name {name.decode()} is reserved")
    return check_form(name)


def check_form(name: bytes) -> bytes:
    """A name of something that may exist, `latest` included: well formed, or no such thing can be.

    Raises:
        FsError: EINVAL malformed; ENAMETOOLONG over 255 bytes.
    """
    if len(name) > NAME_MAX:
        raise FsError(errno.ENAMETOOLONG, f"a name has at most {NAME_MAX} bytes, this one {len(name)}")
    if not name:
        raise FsError(errno.EINVAL, "the name is empty")
    for part, what in _FORBIDDEN:
        if part in name:
            raise FsError(errno.EINVAL, f"a name cannot hold {what}")
    try:
        name.decode()
    except UnicodeDecodeError:
        raise FsError(errno.EINVAL, "a name has to be UTF-8") from None
    return name


def check_itself(name: bytes) -> bytes:
    """A snapshot called by its own name: `latest` moves, so nothing is removed or renamed through it.

    Raises:
        FsError: As `check_form`; EINVAL for `latest`.
    """
    if name == LATEST:
        raise FsError(errno.EINVAL, "latest stands for another snapshot: name that one")
    return check_form(name)
