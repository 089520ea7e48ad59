"""rename(2) and renameat2(2)."""

from __future__ import annotations

import os
from itertools import product

from tests.conformance.calls import EXCHANGE, NOREPLACE, WHITEOUT, Calls, case, root_case


def make(c: Calls, kind: str, path: str) -> None:
    """Something of a kind."""
    if kind == "file":
        c.create(path, path.encode())
    elif kind == "directory":
        c.mkdir(path)
    elif kind == "full":
        c.mkdir(path)
        c.create(path + "/inside")
    elif kind == "link":
        c.symlink("target-of-" + path, path)
    elif kind == "fifo":
        c.mkfifo(path)


KINDS = ("file", "directory", "full", "link", "fifo", "absent")


@case
def every_kind_over_every_kind(c: Calls) -> None:
    for number, (old, new) in enumerate(product(KINDS, KINDS)):
        c.mkdir(f"{number}")
        make(c, old, f"{number}/old")
        make(c, new, f"{number}/new")
        c.rename(f"{number}/old", f"{number}/new")
        c.listdir(f"{number}")
        c.lstat(f"{number}/new")
        c.stat(f"{number}")


@case
def every_kind_with_flags(c: Calls) -> None:
    flags = (NOREPLACE, EXCHANGE)
    for number, (old, new, flag) in enumerate(product(KINDS, KINDS, flags)):
        c.mkdir(f"{number}")
        make(c, old, f"{number}/old")
        make(c, new, f"{number}/new")
        c.renameat2(f"{number}/old", f"{number}/new", flag)
        c.listdir(f"{number}")
        c.lstat(f"{number}/old")
        c.lstat(f"{number}/new")


@case
def wrong_flags(c: Calls) -> None:
    c.create("f")
    c.create("g")
    for flags in (NOREPLACE | EXCHANGE, EXCHANGE | WHITEOUT, 8, 1 << 30):
        c.renameat2("f", "g", flags)


@case
def exchange_across_directories(c: Calls) -> None:
    c.makedirs("a/x")
    c.makedirs("b")
    c.create("b/f", b"f")
    c.renameat2("a/x", "b/f", EXCHANGE)
    c.stat("a")
    c.stat("b")
    c.content("a/x")
    c.same("b/f/..", "b")
    c.renameat2("a", "a/x", EXCHANGE)
    c.renameat2("b/f", "b", EXCHANGE)
    c.mkdir("b/f/deep")
    c.renameat2("b", "b/f/deep", EXCHANGE)
    c.renameat2("b/f/deep", "b", EXCHANGE)


@case
def times(c: Calls) -> None:
    c.makedirs("a")
    c.makedirs("b")
    c.create("a/f")
    c.mkdir("a/d")
    with c.watch("a", "b", "a/f"):
        c.rename("a/f", "b/f")
    with c.watch("a", "b", "a/d"):
        c.rename("a/d", "b/d")
    c.create("b/g")
    with c.watch("b", "b/f", "b/g"):
        c.rename("b/f", "b/g")
    with c.watch("b", "b/g", "b/d"):
        c.renameat2("b/g", "b/d", EXCHANGE)


@case
def times_of_what_is_replaced(c: Calls) -> None:
    c.create("f")
    c.create("g")
    c.link("g", "g2")
    with c.watch("g2"):
        c.rename("f", "g")
    c.stat("g2")


@case
def same_file(c: Calls) -> None:
    c.create("f", b"x")
    c.link("f", "g")
    with c.watch("f", "."):
        c.rename("f", "f")
    c.rename("f", "g")
    c.listdir()
    c.stat("g")
    c.mkdir("d")
    c.rename("d", "d")
    c.renameat2("f", "g", NOREPLACE)
    c.renameat2("f", "g", EXCHANGE)
    c.renameat2("f", "f", NOREPLACE)


@case
def into_itself(c: Calls) -> None:
    c.makedirs("a/b/c")
    c.rename("a", "a/b")
    c.rename("a", "a/x")
    c.rename("a", "a/b/c/x")
    c.rename("a/b/c", "a")
    c.rename("a/b", "a")
    c.rename("a/b/c", "a/b")
    c.rename("a", "ab")
    c.listdir()


@case
def dots(c: Calls) -> None:
    c.makedirs("a/b")
    for old, new in ((".", "x"), ("..", "x"), ("a/.", "x"), ("a/..", "x"), ("a", "."), ("a", ".."), ("a", "a/b/.")):
        c.rename(old, new)
    for old, new in (("a", "a/b/.."), ("a/b/..", "x")):
        c.rename(old, new)
    c.listdir()


@case
def missing_parts(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    for old, new in (
        ("absent", "x"), ("absent", "f"), ("absent", "d"), ("f", "absent/x"), ("absent/x", "y"), ("f/x", "y"),
        ("f", "f/x"), ("d", "f/x"), ("", "x"), ("f", ""),
    ):  # fmt: skip
        c.rename(old, new)


@case
def slashes(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.symlink("d", "l")
    for old, new in (("f/", "x"), ("f", "x/"), ("l/", "x"), ("d/", "e"), ("e", "g/"), ("g/", "h/"), ("h//", "i//")):
        c.rename(old, new)
        c.listdir()


@case
def parent_of_a_moved_directory(c: Calls) -> None:
    c.makedirs("a/b/c")
    c.mkdir("z")
    c.rename("a/b", "z/b")
    c.same("z/b/..", "z")
    c.same("z/b/c/../..", "z")
    c.stat("a")
    c.stat("z")
    c.listdir("z/b")


@case
def open_directory_follows(c: Calls) -> None:
    c.makedirs("a/b")
    descriptor = c.open("a/b")
    c.rename("a/b", "c")
    c.record("create", (), lambda: os.close(os.open("f", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=descriptor)))
    c.listdir("c")


@case
def back_and_forth(c: Calls) -> None:
    c.create("a", b"a")
    for _ in range(100):
        os.rename("a", "b")
        os.rename("b", "a")
    c.content("a")
    c.stat("b")
    c.create("b", b"b")
    for _ in range(51):
        c.renameat2("a", "b", EXCHANGE)
    c.content("a")
    c.content("b")


@root_case
def whiteouts(c: Calls) -> None:
    c.create("f", b"f")
    c.create("g", b"g")
    c.renameat2("f", "h", WHITEOUT)
    c.lstat("f")
    c.content("h")
    c.renameat2("h", "g", WHITEOUT)
    c.lstat("h")
    c.content("g")
    c.renameat2("g", "h", WHITEOUT | NOREPLACE)
    c.mkdir("d")
    c.renameat2("d", "e", WHITEOUT)
    c.lstat("d")
    c.stat(".")
    c.listdir()


@root_case
def permissions(c: Calls) -> None:
    for source, target in product((0o777, 0o555, 0o1777, 0o711), (0o777, 0o555, 0o1777)):
        top = f"{source:o}-{target:o}"
        c.makedirs(f"{top}/s")
        c.makedirs(f"{top}/t")
        for owner in (1000, 1001):
            c.create(f"{top}/s/f{owner}")
            c.create(f"{top}/t/g{owner}")
            c.mkdir(f"{top}/s/d{owner}")
            for path in (f"{top}/s/f{owner}", f"{top}/t/g{owner}", f"{top}/s/d{owner}"):
                c.chown(path, owner, owner)
        c.chmod(f"{top}/s", source)
        c.chmod(f"{top}/t", target)
        with c.user(1000):
            c.rename(f"{top}/s/f1000", f"{top}/t/new")
            c.rename(f"{top}/s/f1001", f"{top}/t/g1000")
            c.rename(f"{top}/t/g1000", f"{top}/t/g1001")
            c.rename(f"{top}/s/d1000", f"{top}/t/d1000")
            c.rename(f"{top}/s/d1001", f"{top}/t/d1001")
            c.renameat2(f"{top}/t/g1000", f"{top}/t/g1001", EXCHANGE)
        c.listdir(f"{top}/s")
        c.listdir(f"{top}/t")


@root_case
def another_owners_directory_may_not_change_its_parent(c: Calls) -> None:
    c.mkdir("a")
    c.mkdir("b")
    c.chmod("a", 0o777)
    c.chmod("b", 0o777)
    c.mkdir("a/d")
    c.chmod("a/d", 0o755)
    with c.user(1000):
        c.rename("a/d", "b/d")
        c.rename("a/d", "a/e")
