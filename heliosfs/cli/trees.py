"""Reads a directory tree with plain system calls and says in what two trees differ, byte for byte.

Invariants: follows no symbolic link; reads every byte of every regular file; knows nothing of HeliosFS, so
that it can bear witness. Must not know: where a tree lies.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

_CHUNK = 1 << 20


@dataclass(slots=True, frozen=True)
class Fact:
    """What is compared of one file: all that a user can see of it but its number and its ctime.

    Attributes:
        kind: S_IFMT bits of the mode.
        mode: Permission bits.
        owner: (uid, gid).
        mtime_ns: Of the file.
        size_bytes: Of a regular file; 0 of all else.
        content: BLAKE3 of a regular file's bytes, a link's target, (major, minor) of a device as text.
        xattrs: Names and values, sorted.
        first: Path of the first hard link to the same file, as the walk meets it.
    """

    kind: int
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size_bytes: int
    content: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    first: bytes


@dataclass(slots=True)
class Listing:
    """A whole tree.

    Attributes:
        facts: By path below the root; b"." is the root itself.
        files: Regular files.
        read_bytes: Bytes read of them.
    """

    facts: dict[bytes, Fact] = field(default_factory=dict)
    files: int = 0
    read_bytes: int = 0


def _digest(path: bytes) -> tuple[bytes, int]:
    from blake3 import blake3

    hasher = blake3()
    total = 0
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while part := os.read(descriptor, _CHUNK):
            hasher.update(part)
            total += len(part)
    finally:
        os.close(descriptor)
    return hasher.digest(), total


def _xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return ()
    return tuple(sorted((os.fsencode(n), os.getxattr(path, n, follow_symlinks=False)) for n in names))


def read_tree(root: bytes) -> Listing:
    """Read all of a tree.

    Raises:
        OSError: Something in it can't be read.

    Cost: every byte of it is read and hashed.
    """
    listing = Listing()
    seen: dict[tuple[int, int], bytes] = {}
    pending = [b"."]
    while pending:
        inside = pending.pop()
        path = os.path.join(root, inside)
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        content, size = b"", 0
        first = inside
        if kind == stat.S_IFDIR:
            names = sorted(os.listdir(path), reverse=True)
            pending += [name if inside == b"." else os.path.join(inside, name) for name in names]
        else:
            first = seen.setdefault((status.st_dev, status.st_ino), inside)
            if kind == stat.S_IFREG:
                content, size = _digest(path)
                listing.files += 1
                listing.read_bytes += size
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            elif kind in (stat.S_IFBLK, stat.S_IFCHR):
                content = b"%d" % status.st_rdev
        listing.facts[inside] = Fact(
            kind,
            stat.S_IMODE(status.st_mode),
            (status.st_uid, status.st_gid),
            status.st_mtime_ns,
            size,
            content,
            _xattrs(path),
            first,
        )
    return listing


def differences(one: Listing, other: Listing) -> list[bytes]:
    """Paths at which two trees differ, sorted; [] if they are equal."""
    paths = one.facts.keys() | other.facts.keys()
    return sorted(path for path in paths if one.facts.get(path) != other.facts.get(path))
