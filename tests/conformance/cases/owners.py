"""chmod(2), chown(2), set-id bits, access(2)."""

from __future__ import annotations

import os

from tests.conformance.calls import AT_SYMLINK_NOFOLLOW, Calls, case, root_case


@case
def chmod(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.mkfifo("p")
    for path in ("f", "d", "p"):
        for mode in (0o000, 0o644, 0o755, 0o1777, 0o4755, 0o2755, 0o7777, 0o600):
            c.chmod(path, mode)
            c.stat(path)
        with c.watch(path, "."):
            c.chmod(path, 0o640)
        with c.watch(path):
            c.chmod(path, 0o640)


@case
def chmod_through_links(c: Calls) -> None:
    c.create("f")
    c.symlink("f", "l")
    c.chmod("l", 0o600)
    c.stat("f")
    c.lstat("l")
    for path in ("absent", "", "f/x", "f/", "l/"):
        c.chmod(path, 0o600)


@case
def chown_to_oneself(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.symlink("f", "l")
    for path in ("f", "d"):
        with c.watch(path):
            c.chown(path, -1, -1)
        with c.watch(path):
            c.chown(path, os.geteuid(), os.getegid())
        c.stat(path)
    c.lchown("l", os.geteuid(), -1)
    for path in ("absent", "", "f/x", "f/"):
        c.chown(path, -1, -1)


@root_case
def chown(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.mkfifo("p")
    c.symlink("f", "l")
    for path in ("f", "d", "p"):
        with c.watch(path, "."):
            c.chown(path, 1000, 2000)
        c.stat(path)
        c.chown(path, -1, 3000)
        c.chown(path, 4000, -1)
        c.stat(path)
    c.lchown("l", 5000, 5001)
    c.lstat("l")
    c.stat("f")
    c.chown("l", 6000, 6001)
    c.lstat("l")
    c.stat("f")
    c.chown("f", (1 << 32) - 2, (1 << 32) - 2)
    c.stat("f")


@root_case
def chown_clears_set_ids(c: Calls) -> None:
    for kind in ("f", "d", "p"):
        for mode in (0o6755, 0o6711, 0o2745, 0o2644, 0o4644, 0o6777, 0o2755, 0o6666):
            for who in (0, 1000):
                path = f"{kind}{mode:o}{who}"
                c.create(path) if kind == "f" else c.mkdir(path) if kind == "d" else c.mkfifo(path)
                c.chown(path, 1000, 1000)
                c.chmod(path, mode)
                if who:
                    with c.user(1000, 1000, (2000,)):
                        c.chown(path, -1, 2000)
                        c.stat(path)
                        c.chmod(path, mode)
                        c.chown(path, -1, -1)
                else:
                    c.chown(path, 3000, 3000)
                    c.stat(path)
                    c.chmod(path, mode)
                    c.chown(path, -1, -1)
                c.stat(path)


@root_case
def who_may_chown(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    for path in ("f", "d"):
        c.chown(path, 1000, 1000)
        with c.user(1000, 1000, (2000,)):
            pairs = ((1000, -1), (-1, 1000), (-1, 2000), (-1, 3000), (1001, -1), (0, 0), (1000, 2000), (-1, -1))
            for uid, gid in pairs:
                c.chown(path, uid, gid)
                c.stat(path)
        with c.user(1001, 1000):
            for uid, gid in ((1001, -1), (-1, 1000), (-1, -1), (1000, 1000)):
                c.chown(path, uid, gid)


@root_case
def who_may_chmod(c: Calls) -> None:
    for path in ("f", "d"):
        c.create(path) if path == "f" else c.mkdir(path)
        c.chown(path, 1000, 2000)
        with c.user(1000, 1000):
            for mode in (0o600, 0o2755, 0o1755, 0o6755):
                c.chmod(path, mode)
                c.stat(path)
        with c.user(1000, 1000, (2000,)):
            c.chmod(path, 0o2755)
            c.stat(path)
        with c.user(1001, 2000):
            c.chmod(path, 0o777)
        c.stat(path)


@root_case
def writing_clears_set_ids(c: Calls) -> None:
    for mode in (0o6755, 0o6777, 0o4666, 0o2676, 0o2777, 0o2644, 0o2666):
        path = f"f{mode:o}"
        c.create(path, b"content")
        c.chown(path, 1000, 1000)
        c.chmod(path, mode)
        descriptor = c.open(path, os.O_WRONLY)
        for uid, gid in ((1001, 1001), (1001, 1000), (1000, 1000), (0, 0)):
            with c.user(uid, gid):
                with c.watch(path):
                    c.write(descriptor, b"x")
                c.stat(path)
            c.stat(path)
            c.chmod(path, mode)
        os.close(descriptor)


@root_case
def truncating_clears_set_ids(c: Calls) -> None:
    for mode in (0o6755, 0o6777, 0o4666, 0o2777, 0o2666):
        path = f"f{mode:o}"
        c.create(path, b"content")
        c.chown(path, 1000, 1000)
        for uid, gid, groups in (
            (1001, 1001, ()),
            (1001, 1000, ()),
            (1001, 1001, (1000,)),
            (1000, 1000, ()),
            (0, 0, ()),
        ):
            for size in (3, 3, 5):
                c.chmod(path, mode)
                with c.user(uid, gid, groups):
                    c.truncate(path, size)
                c.stat(path)
            c.chmod(path, mode)
            with c.user(uid, gid, groups):
                c.open(path, os.O_WRONLY | os.O_TRUNC)
            c.stat(path)


@root_case
def capabilities_go_with_content_and_owner(c: Calls) -> None:
    capability = bytes.fromhex("010000020004000000000000000000000000000000000000"[:40])
    acts = (
        lambda: c.truncate("f", 2),
        lambda: c.open("f", os.O_WRONLY | os.O_TRUNC),
        lambda: c.write(c.open("f", os.O_WRONLY), b"x"),
        lambda: c.chown("f", -1, 1000),
        lambda: c.chmod("f", 0o4755),
        lambda: c.setxattr("f", b"user.a", b"1"),
        lambda: c.rename("f", "g"),
    )
    for uid in (0, 1000):
        for act in acts:
            c.create("f", b"content")
            c.chown("f", 1000, 1000)
            c.chmod("f", 0o755)
            c.setxattr("f", b"security.capability", capability)
            c.getxattr("f", b"security.capability")
            with c.user(uid):
                act()
            name = "g" if os.path.exists("g") else "f"
            c.getxattr(name, b"security.capability")
            c.stat(name)
            c.unlink(name)


@root_case
def access_by_class(c: Calls) -> None:
    for kind in ("f", "d"):
        for mode in (0o700, 0o070, 0o007, 0o421, 0o124, 0o000, 0o755):
            path = f"{kind}{mode:o}"
            c.create(path) if kind == "f" else c.mkdir(path)
            c.chown(path, 1000, 2000)
            c.chmod(path, mode)
            for uid, gid, groups in ((1000, 1000, ()), (1001, 2000, ()), (1001, 1001, (2000,)), (1002, 1002, ())):
                with c.user(uid, gid, groups):
                    for wanted in (os.R_OK, os.W_OK, os.X_OK):
                        c.access(path, wanted)
    for mode in (0o000, 0o600, 0o100):
        c.create(f"r{mode:o}")
        c.chmod(f"r{mode:o}", mode)
        for wanted in (os.R_OK, os.W_OK, os.X_OK, os.F_OK):
            c.access(f"r{mode:o}", wanted)


@root_case
def exec_needs_an_x(c: Calls) -> None:
    c.create("f", b"#!/bin/sh\nexit 7\n")
    for mode in (0o755, 0o644, 0o711, 0o100, 0o000, 0o001):
        c.chmod("f", mode)
        for uid in (0, 1000):
            if uid:
                with c.user(uid):
                    c.access("f", os.X_OK)
            else:
                c.access("f", os.X_OK)
                c.record("spawn", (oct(mode),), lambda: os.waitpid(os.posix_spawn("./f", ["f"], {}), 0)[1])


@case
def times_of_a_link_itself(c: Calls) -> None:
    c.symlink("x", "l")
    c.utimensat("l", (1, 2), (3, 4), AT_SYMLINK_NOFOLLOW)
    c.show_times("l", follow=False)
    c.stat("l")
