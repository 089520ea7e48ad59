"""mkdir(2), rmdir(2), readdir(3)."""

from __future__ import annotations

import os

from tests.conformance.calls import Calls, case, root_case


@case
def makes_and_removes(c: Calls) -> None:
    with c.watch("."):
        c.mkdir("d", 0o750)
    c.stat("d")
    c.stat(".")
    c.listdir("d")
    with c.watch("."):
        c.rmdir("d")
    c.stat("d")
    c.stat(".")


@case
def link_counts(c: Calls) -> None:
    c.mkdir("d")
    for number in range(3):
        c.mkdir(f"d/{number}")
        c.create(f"d/f{number}")
        c.stat("d")
    c.rmdir("d/1")
    c.stat("d")
    c.rename("d/0", "0")
    c.stat("d")
    c.stat(".")
    c.rename("0", "d/0")
    c.stat("d")
    c.stat(".")
    c.rename("d/0", "d/00")
    c.stat("d")
    c.rename("d/00", "d/2")
    c.stat("d")


@case
def exists(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.symlink("nowhere", "dangling")
    c.symlink("d", "link")
    c.mkfifo("p")
    for path in ("f", "d", "dangling", "link", "p", ".", "..", "d/.", "d/..", "f/", "d/", "dangling/", "link/"):
        c.mkdir(path)


@case
def mkdir_errors(c: Calls) -> None:
    c.create("f")
    for path in ("", "absent/d", "f/d", "d/", "e//", "./g"):
        c.mkdir(path)
    c.listdir()


@case
def modes(c: Calls) -> None:
    os.umask(0)
    for mode in (0o777, 0o000, 0o1777, 0o2755, 0o4755, 0o7777):
        c.mkdir(f"d{mode:o}", mode)
        c.stat(f"d{mode:o}")


@case
def rmdir_errors(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.mkdir("d/e")
    c.symlink("d", "link")
    c.mkfifo("p")
    for path in ("", "absent", "f", "f/", "p", "link", "link/", "d", "d/", "d/.", "d/..", ".", "..", "absent/x"):
        c.rmdir(path)
    c.rmdir("d/e/")
    c.rmdir("d//")
    c.listdir()


@case
def not_empty_by_any_name(c: Calls) -> None:
    makers = (lambda p: c.create(p), lambda p: c.symlink("x", p), lambda p: c.mkfifo(p), lambda p: c.mkdir(p))
    for number, make in enumerate(makers):
        c.mkdir(f"d{number}")
        make(f"d{number}/inside")
        c.rmdir(f"d{number}")


@case
def dot_and_dot_dot(c: Calls) -> None:
    c.mkdir("d")
    c.mkdir("d/e")
    c.same("d/e/..", "d")
    c.same("d/.", "d")
    c.same("d/e/../..", ".")

    def raw() -> list[str]:
        return sorted(entry.name for entry in os.scandir("d"))

    c.record("scandir", (), raw)
    c.rename("d/e", "e")
    c.same("e/..", ".")


@case
def a_listing_is_seekable(c: Calls) -> None:
    for number in range(300):
        os.close(os.open(f"name{number:03}", os.O_CREAT | os.O_WRONLY))
    c.listdir()
    descriptor = c.open(".")
    c.record("listdir", (), lambda: len(os.listdir(descriptor)))
    c.record("listdir", (), lambda: len(os.listdir(descriptor)))


@case
def kinds_in_a_listing(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.symlink("f", "l")
    c.mkfifo("p")

    def kinds() -> list[tuple[str, bool, bool, bool]]:
        found = sorted(os.scandir("."), key=lambda entry: entry.name)
        return [(e.name, e.is_file(follow_symlinks=False), e.is_dir(), e.is_symlink()) for e in found]

    c.record("kinds", (), kinds)


@case
def numbers_in_a_listing_are_stats(c: Calls) -> None:
    for number in range(20):
        c.create(f"f{number}")
    c.mkdir("d")

    def numbers() -> tuple[int, bool]:
        same = [entry.inode() == os.lstat(entry.name).st_ino for entry in os.scandir(".")]
        return len(same), all(same)

    c.record("numbers", (), numbers)


@case
def deep(c: Calls) -> None:
    for _ in range(200):
        os.mkdir("d" * 20)
        os.chdir("d" * 20)
    c.create("bottom", b"deep")
    c.content("bottom")
    c.record("up", (), lambda: os.stat("../" * 199 + "..").st_nlink)


@root_case
def permission_to_remove(c: Calls) -> None:
    c.mkdir("d")
    for uid in (1000, 1001):
        c.mkdir(f"d/{uid}")
        c.chown(f"d/{uid}", uid, uid)
    c.chown("d", 1000, 1000)
    with c.user(1001):
        c.rmdir("d/1001")
        c.rmdir("d/1000")
        c.rmdir("d/absent")
    c.chmod("d", 0o777)
    with c.user(1001):
        c.rmdir("d/1000")
    c.chmod("d", 0o1777)
    c.mkdir("d/1000")
    c.chown("d/1000", 1000, 1000)
    with c.user(1002):
        c.rmdir("d/1000")
        c.rmdir("d/1001")
    with c.user(1000):
        c.rmdir("d/1001")
        c.rmdir("d/1000")


@root_case
def setgid_is_inherited(c: Calls) -> None:
    c.mkdir("d")
    c.chown("d", 0, 1234)
    c.chmod("d", 0o2777)
    with c.user(1000):
        c.mkdir("d/e", 0o755)
        c.create("d/f")
        c.symlink("x", "d/l")
        c.mkfifo("d/p")
        c.mkdir("d/e/g")
    for path in ("d/e", "d/f", "d/l", "d/p", "d/e/g"):
        c.lstat(path)


@root_case
def search_permission(c: Calls) -> None:
    c.makedirs("a/b")
    c.create("a/b/f", b"x")
    for mode in (0o755, 0o744, 0o711, 0o700):
        c.chmod("a", mode)
        with c.user(1000):
            c.stat("a")
            c.stat("a/b")
            c.stat("a/absent")
            c.listdir("a")
            c.content("a/b/f")
            c.chdir("a")
            os.chdir("..") if os.getcwd().endswith("/a") else None
