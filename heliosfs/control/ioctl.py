"""A command and its reply in one system call: the structure that an ioctl carries (docs/control.md).

    struct heliosfs_command {
        __u32 length;        /* in: bytes of the command; out: bytes of text */
        __u32 whole;         /* in: 0; out: bytes of the whole reply; more than length where it is cut */
        char  text[16368];   /* in: a line, as `ctl` takes it; out: one JSON line */
    };
    #define HELIOSFS_COMMAND _IOWR('H', 1, struct heliosfs_command)

The kernel moves at most 16,383 bytes for an ioctl whose number says how many. Must not know: descriptors, commands.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final

from heliosfs.core.errors import FsError

_HEAD: Final = Struct("=II")
TEXT_MAX: Final = 16368
"""Bytes of a command, or of a reply."""
SIZE: Final = _HEAD.size + TEXT_MAX
NUMBER: Final = 3 << 30 | SIZE << 16 | ord("H") << 8 | 1
"""_IOWR('H', 1, struct heliosfs_command)."""


def request(line: bytes) -> bytearray:
    """The structure that gives a command; ioctl(2) puts the reply into it. ValueError: over TEXT_MAX bytes."""
    if len(line) > TEXT_MAX:
        raise ValueError(f"{len(line)} bytes are more than a command has")
    return bytearray(_HEAD.pack(len(line), 0) + line.ljust(TEXT_MAX, b"\0"))


def command_in(data: bytes) -> bytes:
    """The command that a structure gives. Raises FsError EINVAL: malformed."""
    if len(data) < _HEAD.size:
        raise FsError(errno.EINVAL, "the structure of the call is too short")
    length, whole = _HEAD.unpack_from(data)
    if whole or length > len(data) - _HEAD.size:
        raise FsError(errno.EINVAL, "a command is `length` bytes of text, and `whole` is 0")
    return data[_HEAD.size : _HEAD.size + length]


def answer(line: bytes, whole: int) -> bytes:
    """What the kernel copies over the caller's structure: a line of at most TEXT_MAX bytes, in place of `whole`."""
    return _HEAD.pack(len(line), whole) + line


def reply_in(answered: bytes | bytearray) -> tuple[bytes, int]:
    """The JSON line in an answered structure, and the length of the whole reply."""
    length, whole = _HEAD.unpack_from(answered)
    return bytes(answered[_HEAD.size : _HEAD.size + length]), whole
