"""POSIX access control lists: kept in step with the mode, enforced, inherited. Source: acl(5)."""

from __future__ import annotations

import os
import struct
from typing import Final

from tests.conformance.calls import Calls, case, root_case

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"
OWNER, USER, GROUP, GROUPS, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY_IN_PARTICULAR: Final = (1 << 32) - 1
WHO: Final = (
    (1000, 1000, ()),
    (1001, 1001, ()),
    (1002, 2000, ()),
    (1002, 1002, (2000,)),
    (1003, 3000, ()),
    (1003, 1003, (2000, 3000)),
    (1004, 1004, ()),
)
"""Owner, named user, the owning group by primary and by further group, named group, both, anybody."""


def acl(*entries: tuple[int, int] | tuple[int, int, int]) -> bytes:
    """A list as an attribute's value: entries are (tag, permissions) or (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", entry[0], entry[1], entry[2] if len(entry) > 2 else NOBODY_IN_PARTICULAR)
        for entry in entries
    )


BASE: Final = acl((OWNER, 6), (GROUP, 4), (OTHER, 0))
NAMED: Final = acl((OWNER, 7), (USER, 6, 1001), (GROUP, 5), (GROUPS, 2, 3000), (MASK, 6), (OTHER, 1))


def show(c: Calls, path: str) -> None:
    """Mode and both lists."""
    c.lstat(path)
    c.getxattr(path, ACCESS, follow_symlinks=False)
    c.getxattr(path, DEFAULT, follow_symlinks=False)
    c.listxattr(path, follow=False)


def both(c: Calls) -> tuple[str, str]:
    """A file and a directory."""
    c.create("f", b"content")
    c.mkdir("d")
    return "f", "d"


@case
def a_list_that_is_only_the_mode(c: Calls) -> None:
    for path in both(c):
        show(c, path)
        with c.watch(path, "."):
            c.setxattr(path, ACCESS, BASE)
        show(c, path)
        for name in (ACCESS, DEFAULT):
            with c.watch(path):
                c.removexattr(path, name)


@case
def mode_and_list_keep_in_step(c: Calls) -> None:
    for path in both(c):
        with c.watch(path):
            c.setxattr(path, ACCESS, NAMED)
        show(c, path)
        for mode in (0o750, 0o707, 0o000, 0o777, 0o1640):
            c.chmod(path, mode)
            show(c, path)
        c.setxattr(path, ACCESS, acl((OWNER, 7), (GROUP, 0), (MASK, 4), (OTHER, 0)))
        show(c, path)
        c.chmod(path, 0o666)
        show(c, path)
        with c.watch(path):
            c.removexattr(path, ACCESS)
        show(c, path)
        c.setxattr(path, ACCESS, NAMED)
        c.setxattr(path, ACCESS, BASE)
        show(c, path)


@case
def replaced_and_created(c: Calls) -> None:
    for path in both(c):
        c.setxattr(path, ACCESS, NAMED, os.XATTR_CREATE)
        c.setxattr(path, ACCESS, BASE, os.XATTR_REPLACE)
        show(c, path)


@case
def malformed(c: Calls) -> None:
    values = (
        b"",
        b"\2\0\0\0",
        b"\1\0\0\0" + NAMED[4:],
        NAMED[:-1],
        NAMED + b"\0" * 8,
        acl((OWNER, 7)),
        acl((OWNER, 7), (GROUP, 5)),
        acl((OWNER, 7), (USER, 7, 1001), (GROUP, 5), (OTHER, 0)),
        acl((GROUP, 7), (OWNER, 7), (OTHER, 7)),
        acl((OWNER, 8), (GROUP, 5), (OTHER, 0)),
        acl((OWNER, 7), (OWNER, 7), (GROUP, 5), (OTHER, 0)),
    )
    for path in both(c):
        for name in (ACCESS, DEFAULT):
            for value in values:
                c.setxattr(path, name, value)
            show(c, path)


@case
def defaults_are_directories(c: Calls) -> None:
    c.create("f")
    c.mkfifo("p")
    c.symlink("f", "l")
    for path in ("f", "p"):
        c.setxattr(path, DEFAULT, NAMED)
        c.removexattr(path, DEFAULT)
        show(c, path)
    c.setxattr("p", ACCESS, NAMED)
    show(c, "p")
    c.setxattr("l", ACCESS, NAMED, follow_symlinks=False)
    c.setxattr("l", DEFAULT, NAMED, follow_symlinks=False)
    c.getxattr("l", ACCESS, follow_symlinks=False)


@case
def inherited(c: Calls) -> None:
    # The umask is nought, or it would show: see docs/posix.md.
    c.umask(0)
    defaults = (
        acl((OWNER, 7), (GROUP, 5), (OTHER, 0)),
        NAMED,
        acl((OWNER, 5), (GROUP, 7), (MASK, 2), (OTHER, 7)),
        acl((OWNER, 0), (USER, 7, 1001), (GROUP, 0), (MASK, 7), (OTHER, 0)),
    )
    for number, default in enumerate(defaults):
        top = f"top{number}"
        c.mkdir(top, 0o755)
        with c.watch(top):
            c.setxattr(top, DEFAULT, default)
        show(c, top)
        for mode in (0o777, 0o666, 0o640, 0o000, 0o2755):
            c.create(f"{top}/f{mode:o}", b"", mode)
            c.mkdir(f"{top}/d{mode:o}", mode)
            c.mkfifo(f"{top}/p{mode:o}", mode)
            for kind in "fdp":
                show(c, f"{top}/{kind}{mode:o}")
        c.symlink("x", f"{top}/l")
        c.lstat(f"{top}/l")
        c.mkdir(f"{top}/d777/deeper")
        show(c, f"{top}/d777/deeper")
        c.chmod(top, 0o700)
        show(c, top)
        c.removexattr(top, DEFAULT)
        c.mkdir(f"{top}/without")
        show(c, f"{top}/without")


@case
def stay_with_the_inode(c: Calls) -> None:
    for path in both(c):
        c.setxattr(path, ACCESS, NAMED)
    c.setxattr("d", DEFAULT, NAMED)
    c.link("f", "g")
    c.rename("f", "h")
    c.rename("d", "e")
    c.chmod("g", 0o604)
    for path in ("g", "h", "e"):
        show(c, path)
    c.create("n")
    c.rename("n", "h")
    show(c, "h")


@root_case
def enforced(c: Calls) -> None:
    lists = (
        NAMED,
        acl((OWNER, 0), (USER, 7, 1001), (GROUP, 0), (GROUPS, 7, 3000), (MASK, 7), (OTHER, 0)),
        acl((OWNER, 7), (USER, 0, 1001), (GROUP, 7), (GROUPS, 0, 3000), (MASK, 7), (OTHER, 7)),
        acl((OWNER, 7), (USER, 7, 1001), (GROUP, 7), (GROUPS, 7, 3000), (MASK, 0), (OTHER, 5)),
        acl((OWNER, 6), (USER, 5, 1001), (GROUP, 2), (GROUPS, 4, 3000), (MASK, 5), (OTHER, 0)),
    )
    for number, wanted in enumerate(lists):
        file, directory = f"f{number}", f"d{number}"
        c.create(file, b"content")
        c.mkdir(directory)
        c.create(f"{directory}/inside")
        for path in (file, directory):
            c.chown(path, 1000, 2000)
            c.setxattr(path, ACCESS, wanted)
        for uid, gid, groups in WHO:
            with c.user(uid, gid, groups):
                for access in (os.R_OK, os.W_OK, os.X_OK):
                    c.access(file, access)
                    c.access(directory, access)
                for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                    c.open(file, flags)
                c.listdir(directory)
                c.open(f"{directory}/inside")
                c.open(f"{directory}/made{uid}{gid}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


@root_case
def at_once(c: Calls) -> None:
    c.create("f", b"content")
    c.chmod("f", 0o600)
    private = acl((OWNER, 6), (GROUP, 0), (OTHER, 0))
    shared = acl((OWNER, 6), (USER, 4, 1001), (GROUP, 0), (MASK, 4), (OTHER, 0))
    for _ in range(3):
        for wanted in (private, shared):
            c.setxattr("f", ACCESS, wanted)
            with c.user(1001):
                c.content("f")
    c.chmod("f", 0o600)
    with c.user(1001):
        c.content("f")
    c.chmod("f", 0o640)
    with c.user(1001):
        c.content("f")
    c.removexattr("f", ACCESS)
    with c.user(1001):
        c.content("f")


@root_case
def who_may_set_them(c: Calls) -> None:
    for path in both(c):
        c.chown(path, 1000, 2000)
        for uid, gid, groups in ((1000, 1000, ()), (1001, 2000, ()), (1001, 1001, (2000,))):
            with c.user(uid, gid, groups):
                c.setxattr(path, ACCESS, NAMED)
                c.getxattr(path, ACCESS)
                c.setxattr(path, DEFAULT, NAMED)
                c.removexattr(path, ACCESS)
                c.removexattr(path, DEFAULT)
        show(c, path)


@root_case
def set_group_id_is_the_groups(c: Calls) -> None:
    for path in both(c):
        for gid, groups in ((1000, ()), (2000, ()), (1000, (2000,))):
            for wanted in (NAMED, acl((OWNER, 7), (GROUP, 7), (OTHER, 5))):
                c.chown(path, 1000, 2000)
                c.chmod(path, 0o2775)
                with c.user(1000, gid, groups):
                    c.setxattr(path, ACCESS, wanted)
                show(c, path)
        c.chmod(path, 0o2775)
        c.setxattr(path, ACCESS, NAMED)
        show(c, path)


@root_case
def owners_change(c: Calls) -> None:
    for path in both(c):
        c.setxattr(path, ACCESS, NAMED)
        c.chown(path, 1001, 3000)
        show(c, path)
        for uid, gid, groups in WHO:
            with c.user(uid, gid, groups):
                for access in (os.R_OK, os.W_OK, os.X_OK):
                    c.access(path, access)
