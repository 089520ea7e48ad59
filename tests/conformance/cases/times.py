"""utimensat(2), and which of mtime and ctime move when."""

from __future__ import annotations

import os

from tests.conformance.calls import AT_SYMLINK_NOFOLLOW, UTIME_NOW, UTIME_OMIT, Calls, case, root_case


@case
def nanoseconds(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.mkfifo("p")
    c.symlink("f", "l")
    for path in ("f", "d", "p"):
        pairs = ((1, 2), (10**18 + 123456789, 10**18 + 987654321), (0, 0), (2**31 * 10**9, 2**32 * 10**9))
        for atime, mtime in pairs:
            c.set_times(path, atime, mtime)
            c.show_times(path)
    c.set_times("l", 11, 22, follow=False)
    c.show_times("l", follow=False)
    c.set_times("l", 33, 44)
    c.show_mtime("l")
    c.show_times("f")


@case
def before_the_epoch(c: Calls) -> None:
    c.create("f")
    for moment in (-1, -(10**9), -(10**9) - 1, -(2**31) * 10**9, 2**31 * 10**9 + 5, 2**33 * 10**9 + 999_999_999):
        c.set_times("f", moment, moment)
        c.show_times("f")


@case
def now_and_omit(c: Calls) -> None:
    c.create("f")
    now, omit = (0, UTIME_NOW), (0, UTIME_OMIT)
    c.set_times("f", 10**18, 10**18)
    with c.watch("f", "."):
        c.utimensat("f", omit, omit)
    c.show_times("f")
    with c.watch("f"):
        c.utimensat("f", omit, (5, 6))
    c.show_times("f")
    with c.watch("f"):
        c.utimensat("f", (7, 8), omit)
    c.show_times("f")
    with c.watch("f"):
        c.utimensat("f", now, now)
    with c.watch("f"):
        c.utimensat("f", omit, now)
    with c.watch("f"):
        c.utimensat("f", now, omit)
    for wrong in ((0, 10**9), (0, -1)):
        c.utimensat("f", wrong, (0, 0))
    c.utimensat("absent", now, now)
    c.utimensat("f/", now, now)
    c.symlink("absent", "l")
    c.utimensat("l", now, now)
    c.utimensat("l", (1, 0), (2, 0), AT_SYMLINK_NOFOLLOW)
    c.show_times("l", follow=False)


@root_case
def who_may(c: Calls) -> None:
    now, omit = (0, UTIME_NOW), (0, UTIME_OMIT)
    for mode in (0o644, 0o666, 0o444):
        path = f"f{mode:o}"
        c.create(path)
        c.chown(path, 1000, 1000)
        c.chmod(path, mode)
        for uid in (1000, 1001):
            with c.user(uid):
                some, pairs = (1, 0), ((now, now), (omit, omit), (now, omit), (omit, now))
                for atime, mtime in (*pairs, (some, some), (some, omit)):
                    c.utimensat(path, atime, mtime)


@case
def what_moves_the_directory(c: Calls) -> None:
    c.mkdir("d")
    c.create("f")
    for action, args in (
        ("mkdir", ("d/a",)), ("mkfifo", ("d/p",)), ("symlink", ("x", "d/l")), ("link", ("f", "d/f")),
        ("chmod", ("d/a", 0o700)), ("unlink", ("d/f",)), ("rmdir", ("d/a",)), ("rename", ("d/l", "d/m")),
        ("rename", ("d/p", "p")), ("mkdir", ("d/m",)), ("unlink", ("d/absent",)), ("rmdir", ("d/m",)),
    ):  # fmt: skip
        with c.watch("d", "f", "."):
            getattr(c, action)(*args)


@case
def what_moves_the_file(c: Calls) -> None:
    c.create("f", b"content")
    descriptor = c.open("f", os.O_RDWR)
    for action, args in (
        ("chmod", ("f", 0o600)), ("link", ("f", "g")), ("unlink", ("g",)), ("rename", ("f", "h")),
        ("setxattr", ("h", b"user.a", b"b")), ("setxattr", ("h", b"user.a", b"c")), ("getxattr", ("h", b"user.a")),
        ("removexattr", ("h", b"user.a")), ("removexattr", ("h", b"user.a")), ("access", ("h", os.R_OK)),
        ("truncate", ("h", 3)), ("chown", ("h", os.geteuid(), os.getegid())), ("fsync", (descriptor,)),
        ("ftruncate", (descriptor, 3)), ("mkdir", ("h",)), ("readlink", ("h",)), ("listdir", (".",)),
    ):  # fmt: skip
        with c.watch("f" if os.path.lexists("f") else "h"):
            getattr(c, action)(*((a if a != descriptor else descriptor) for a in args))


@case
def failures_move_nothing(c: Calls) -> None:
    c.mkdir("d")
    c.mkdir("d/full")
    c.create("d/full/f")
    c.create("d/f")
    with c.watch("d", "d/f", "d/full"):
        c.rmdir("d/full")
        c.unlink("d/full")
        c.mkdir("d/f")
        c.rename("d/f", "d/full")
        c.link("d/f", "d/full")
        c.link("d/full", "d/x")
        c.open("d/f", os.O_CREAT | os.O_EXCL)
        c.truncate("d/f", -1)


@case
def a_rewritten_file_is_newer(c: Calls) -> None:
    c.create("f", b"1")
    c.set_times("f", 5, 5)
    with c.watch("f"), open("f", "wb") as file:
        file.write(b"1")
    c.set_times("f", 10**18, 4 * 10**18)
    c.show_mtime("f")
