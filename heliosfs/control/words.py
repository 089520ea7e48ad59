"""A command line as words: splitting as a POSIX shell does, options apart from arguments.

Must not know: verbs.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Sequence
from typing import Final

from heliosfs.core.errors import FsError

LINE_MAX: Final = 8192
"""Bytes of the longest command line: a verb and a path of 4,095 bytes, whatever needs quotes. Splitting takes 1 us
a byte, and nothing else is served meanwhile."""
_UNITS: Final = b" KMGT"


def split(line: bytes) -> list[bytes]:
    """The words of one line: blanks, quotes and backslashes as in sh, nothing expanded.

    Raises:
        FsError: EINVAL: a quote that does not end, or more than one line; E2BIG: over LINE_MAX bytes.
    """
    if len(line) > LINE_MAX:
        raise FsError(errno.E2BIG, f"a command has at most {LINE_MAX} bytes, this one {len(line)}")
    if b"\n" in line:
        raise FsError(errno.EINVAL, "one line is one command")
    try:
        words = shlex.split(line.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise FsError(errno.EINVAL, f"cannot split into words: {error}".lower()) from None
    return [word.encode("utf-8", "surrogateescape") for word in words]


def as_bytes(words: Sequence[bytes] | Sequence[str]) -> list[bytes]:
    """Words as bytes; text is encoded as file names are (surrogateescape)."""
    return [os.fsencode(word) for word in words]


def one_line(data: bytes) -> bytes:
    """What a write said, without the one newline that echo adds."""
    return data[:-1] if data.endswith(b"\n") else data


def options_apart(
    words: Sequence[bytes], known: Sequence[bytes], usage: str, flags: Sequence[bytes] = ()
) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Arguments, and the values of options: `-x V`, `--long V`, `--long=V`. All after `--` is argument.

    Args:
        known: Options that are understood; each takes a value and may come once.
        flags: Options that take none; their value is b"".
        usage: For the reason in words.

    Raises:
        FsError: EINVAL: an unknown or repeated option, or one without its value.
    """
    arguments: list[bytes] = []
    options: dict[bytes, bytes] = {}
    rest = iter(words)
    for word in rest:
        if word == b"--":
            arguments.extend(rest)
        elif word.startswith(b"-") and word != b"-":
            name, equals, value = word.partition(b"=") if word.startswith(b"--") else (word, b"", b"")
            if name in flags and name not in options and not equals:
                options[name] = b""
                continue
            if name not in known or name in options:
                raise FsError(errno.EINVAL, f"usage: {usage}")
            if not equals:
                following = next(rest, None)
                if following is None:
                    raise FsError(errno.EINVAL, f"usage: {usage}")
                value = following
            options[name] = value
        else:
            arguments.append(word)
    return arguments, options


def size_of(text: bytes) -> int:
    """Bytes of "50M": a whole number and K, M, G, T (powers of 1024), or none. FsError EINVAL otherwise."""
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, b"")
    power = _UNITS.find(unit) if unit else 0
    if not number.isdigit() or len(number) > 15 or power < 0:
        raise FsError(errno.EINVAL, "a size is a number, with K, M, G or T behind it: 50M")
    return int(number) << 10 * power
