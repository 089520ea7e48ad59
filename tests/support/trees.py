"""Directory trees for imports and exports: one with everything in it, and a listing to compare by."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

Listing = dict[bytes, tuple[object, ...]]


def make_tree(root: Path) -> None:
    """A tree with every kind of file that this user can make."""
    noise = random.Random(1).randbytes(700_000)
    root.mkdir(parents=True)
    (root / "empty").touch()
    (root / "text").write_text("hello\n" * 1000)
    (root / "large").write_bytes(noise)
    (root / "dir" / "deep" / "er").mkdir(parents=True)
    (root / "dir" / "deep" / "er" / "file").write_bytes(b"deep")
    (root / "no entries").mkdir()
    os.mkdir(os.fsencode(root) + b"/\xff\xfe")
    with open(os.fsencode(root) + b"/\xff\xfe/new\nline", "wb") as file:
        file.write(b"not UTF-8")
    os.link(root / "text", root / "dir" / "hard link")
    os.link(root / "text", root / "a hard link")
    (root / "link").symlink_to("dir/deep")
    os.symlink(b"dangling \xff", os.fsencode(root) + b"/dangling")
    os.link(root / "link", root / "link again", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "socket", stat.S_IFSOCK | 0o755)
    with (root / "sparse").open("wb") as sparse:
        sparse.truncate(40 << 20)
        sparse.seek(8 << 20)
        sparse.write(noise[:100_000])
        sparse.seek(30 << 20)
        sparse.write(b"x")
    os.setxattr(root / "text", b"user.plain", b"value")
    os.setxattr(root / "text", "user.bin é=%".encode(), bytes(range(256)))
    os.setxattr(root / "dir", b"user.on a directory", b"")
    if os.geteuid() == 0:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chown(root / "large", 1234, 5678)
        os.chown(root / "link", 12, 34, follow_symlinks=False)
    (root / "large").chmod(0o6751)
    (root / "dir").chmod(0o3775)
    (root / "empty").chmod(0o400)
    for number, path in enumerate(sorted(walk(root), key=len, reverse=True)):
        time_ns = 1_500_000_000_123_456_789 + number * 1_000_000_007
        os.utime(path, ns=(time_ns, -987_654_321 if path.endswith(b"/empty") else time_ns), follow_symlinks=False)


def walk(root: Path) -> list[bytes]:
    """All paths, the root included."""
    found = [os.fsencode(root)]
    for directory, names, files in os.walk(os.fsencode(root)):
        found += [directory + b"/" + name for name in [*names, *files]]
    return found


def listing(root: Path, *, sockets: bool = True) -> Listing:
    """Everything there is to compare, by path below the root; hard links by the names that are one file."""
    found: Listing = {}
    base = os.fsencode(root)
    names: dict[int, list[bytes]] = {}
    paths = walk(root)
    for path in paths:
        names.setdefault(os.lstat(path).st_ino, []).append(path[len(base) :])
    for path in paths:
        status = os.lstat(path)
        if stat.S_ISSOCK(status.st_mode) and not sockets:
            continue
        xattrs = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        }
        content: object = None
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = hash(file.read())
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        found[path[len(base) :]] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            status.st_size if not stat.S_ISDIR(status.st_mode) else 0,
            status.st_mtime_ns,
            xattrs,
            content,
            sorted(names[status.st_ino]),
        )
    return found


def allocated(path: Path) -> int:
    """Bytes of a file that are not hole."""
    return os.stat(path).st_blocks * 512
