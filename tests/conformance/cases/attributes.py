"""Extended attributes."""

from __future__ import annotations

import ctypes
import os

from tests.conformance.calls import Calls, case, root_case


@case
def set_get_list_remove(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    for path in ("f", "d"):
        c.getxattr(path, b"user.a")
        c.setxattr(path, b"user.a", b"value")
        c.setxattr(path, b"user.empty", b"")
        c.setxattr(path, b"user.binary", bytes(range(256)))
        c.getxattr(path, b"user.a")
        c.getxattr(path, b"user.empty")
        c.getxattr(path, b"user.binary")
        c.listxattr(path)
        c.setxattr(path, b"user.a", b"other")
        c.getxattr(path, b"user.a")
        c.removexattr(path, b"user.a")
        c.removexattr(path, b"user.a")
        c.getxattr(path, b"user.a")
        c.listxattr(path)


@case
def create_and_replace(c: Calls) -> None:
    c.create("f")
    c.setxattr("f", b"user.a", b"1", os.XATTR_REPLACE)
    c.setxattr("f", b"user.a", b"2", os.XATTR_CREATE)
    c.setxattr("f", b"user.a", b"3", os.XATTR_CREATE)
    c.setxattr("f", b"user.a", b"4", os.XATTR_REPLACE)
    c.getxattr("f", b"user.a")
    c.setxattr("f", b"user.a", b"5", 4)


@case
def sizes(c: Calls) -> None:
    c.create("f")
    for size in (0, 1, 255, 1000, 2000):
        c.setxattr("f", b"user.size", b"x" * size)
        c.record("getxattr", (size,), lambda: len(os.getxattr("f", b"user.size")))
    c.setxattr("f", b"user.size", b"x" * 65537)
    c.setxattr("f", b"user." + b"n" * 250, b"v")
    c.setxattr("f", b"user." + b"n" * 251, b"v")
    c.record("list", (), lambda: [len(name) for name in sorted(os.listxattr("f"))])


@case
def name_spaces(c: Calls) -> None:
    c.create("f")
    for name in (b"", b"plain", b"user.", b"user", b"nosuch.a", b"system.nosuch"):
        c.setxattr("f", name, b"x")
        c.getxattr("f", name)
        c.removexattr("f", name)
    if os.geteuid():
        c.setxattr("f", b"trusted.a", b"x")
        c.getxattr("f", b"trusted.a")


@case
def only_files_and_directories_have_user_attributes(c: Calls) -> None:
    c.symlink("x", "l")
    c.mkfifo("p")
    c.setxattr("l", b"user.a", b"x", follow_symlinks=False)
    c.getxattr("l", b"user.a", follow_symlinks=False)
    c.listxattr("l", follow=False)
    c.setxattr("p", b"user.a", b"x")
    c.getxattr("p", b"user.a")
    c.setxattr("absent", b"user.a", b"x")
    c.getxattr("absent", b"user.a")
    c.listxattr("absent")


@case
def stay_with_the_inode(c: Calls) -> None:
    c.create("f")
    c.setxattr("f", b"user.a", b"1")
    c.link("f", "g")
    c.getxattr("g", b"user.a")
    c.rename("f", "h")
    c.getxattr("h", b"user.a")
    c.create("n")
    c.rename("n", "h")
    c.getxattr("h", b"user.a")
    c.getxattr("g", b"user.a")


@root_case
def trusted(c: Calls) -> None:
    c.create("f")
    c.symlink("f", "l")
    c.mkfifo("p")
    for path in ("f", "l", "p"):
        c.setxattr(path, b"trusted.a", b"deep", follow_symlinks=False)
        c.getxattr(path, b"trusted.a", follow_symlinks=False)
        c.listxattr(path, follow=False)
    with c.user(1000):
        c.getxattr("f", b"trusted.a")
        c.setxattr("f", b"trusted.a", b"x")


@root_case
def who_may(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    for path in ("f", "d"):
        c.chown(path, 1000, 1000)
        c.setxattr(path, b"user.a", b"1")
        for mode in (0o644, 0o600, 0o666, 0o000, 0o1777):
            c.chmod(path, mode)
            for uid in (1000, 1001):
                with c.user(uid):
                    c.getxattr(path, b"user.a")
                    c.setxattr(path, b"user.b", b"2")
                    c.removexattr(path, b"user.b")
                    c.listxattr(path)


@case
def room_for_values_and_lists(c: Calls) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    c.create("f")
    c.setxattr("f", b"user.a", b"0123456789")
    for size in (0, 1, 9, 10, 11, 65536, 65537):
        room = ctypes.create_string_buffer(70_000)

        def get(size: int = size, room: ctypes.Array[ctypes.c_char] = room) -> int:
            return checked(libc.getxattr(b"f", b"user.a", room, size))

        def listing(size: int = size, room: ctypes.Array[ctypes.c_char] = room) -> int:
            return checked(libc.listxattr(b"f", room, size))

        c.record("getxattr", (size,), get)
        c.record("listxattr", (size,), listing)


@root_case
def security_and_trusted_are_roots(c: Calls) -> None:
    c.create("f")
    c.chown("f", 1000, 1000)
    for name in (b"security.a", b"trusted.a", b"security.capability", b"trusted.overlay.opaque"):
        value = bytes.fromhex("0000000200040000000000000000000000000000") if name.endswith(b"capability") else b"y"
        c.setxattr("f", name, value)
        with c.user(1000):
            c.getxattr("f", name)
            c.setxattr("f", name, value)
            c.removexattr("f", name)
            c.listxattr("f")
        c.listxattr("f")
        c.removexattr("f", name)
        with c.user(1000):
            c.setxattr("f", name, value)
            c.removexattr("f", name)


def checked(result: int) -> int:
    """The result of a call of the C library, or its error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


@root_case
def sticky_directories(c: Calls) -> None:
    c.mkdir("d")
    c.chown("d", 1000, 1000)
    for mode in (0o1777, 0o777):
        c.chmod("d", mode)
        for uid in (1000, 1001):
            with c.user(uid):
                c.setxattr("d", b"user.a", b"1")
                c.getxattr("d", b"user.a")
