"""link(2), unlink(2), symlink(2), readlink(2)."""

from __future__ import annotations

import os

from tests.conformance.calls import Calls, case, root_case


@case
def hard_links(c: Calls) -> None:
    c.create("f", b"shared")
    with c.watch("f", "."):
        c.link("f", "g")
    c.same("f", "g")
    c.stat("f")
    c.chmod("g", 0o600)
    c.stat("f")
    with open("g", "ab") as file:
        file.write(b" more")
    c.content("f")
    with c.watch("g", "."):
        c.unlink("f")
    c.stat("g")
    c.content("g")
    c.stat("f")


@case
def links_to_other_kinds(c: Calls) -> None:
    c.mkfifo("p")
    c.symlink("nowhere", "l")
    c.mkdir("d")
    c.link("p", "p2")
    c.lstat("p")
    c.linkat("l", "l2", 0)
    c.lstat("l2")
    c.same("l", "l2")
    c.linkat("l", "l3", 0x400)
    c.link("d", "d2")
    c.linkat("d/.", "d3", 0)
    c.listdir()


@case
def link_errors(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.symlink("nowhere", "dangling")
    for old, new in (
        ("absent", "g"), ("f", "f"), ("f", "d"), ("f", "dangling"), ("f", "absent/g"), ("f", "f/g"), ("f/", "g"),
        ("f", "g/"), ("", "g"), ("f", ""), ("f", "."), ("f", ".."), ("d", "e"), ("f/x", "g"), ("f", "d/"),
    ):  # fmt: skip
        c.linkat(old, new, 0)
    c.listdir()


@case
def unlink_errors(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.symlink("d", "link")
    for path in ("", "absent", "f/", "f/x", "d", "d/", "d/.", "d/..", ".", "link/", "absent/x"):
        c.unlink(path)
    c.unlink("link")
    c.listdir()


@case
def unlinks_every_kind(c: Calls) -> None:
    c.create("f")
    c.mkfifo("p")
    c.symlink("f", "l")
    for path in "plf":
        with c.watch("."):
            c.unlink(path)
        c.unlink(path)
    c.listdir()


@case
def many_links(c: Calls) -> None:
    c.create("f")
    for number in range(500):
        os.link("f", f"f{number}")
    c.stat("f")
    for number in range(0, 500, 2):
        os.unlink(f"f{number}")
    c.stat("f1")


@case
def symlinks(c: Calls) -> None:
    with c.watch("."):
        c.symlink("some/where", "l")
    c.lstat("l")
    c.readlink("l")
    c.readlink(b"l")
    for name, target in (("empty", ""), ("long", "x" * 4095), ("longer", "x" * 4096), ("odd", b"\xff\xfe/\n")):
        c.symlink(target, name)
        c.readlink(name)
        c.lstat(name)


@case
def symlink_errors(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.symlink("nowhere", "dangling")
    for path in ("f", "d", "dangling", "absent/l", "f/l", "l/", "", ".", "d/"):
        c.symlink("target", path)
    c.listdir()


@case
def readlink_errors(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.symlink("d", "l")
    for path in ("f", "d", "absent", "", "l/", "f/x", "l/."):
        c.readlink(path)


@case
def following(c: Calls) -> None:
    c.mkdir("d")
    c.create("d/f", b"found")
    c.symlink("d", "to_d")
    c.symlink("to_d/f", "to_f")
    c.symlink("../to_d/f", "d/back")
    c.content("to_f")
    c.content("d/back")
    c.content("to_d/back")
    c.stat("to_f")
    c.lstat("to_f")
    c.unlink("to_d/f")
    c.content("to_f")
    c.listdir("to_d")


@case
def a_link_with_another_target(c: Calls) -> None:
    c.symlink("one", "l")
    c.readlink("l")
    c.symlink("two", "m")
    c.rename("m", "l")
    c.readlink("l")
    c.unlink("l")
    c.symlink("three", "l")
    c.readlink("l")


@case
def loops(c: Calls) -> None:
    c.symlink("a", "b")
    c.symlink("b", "a")
    c.symlink("self", "self")
    for path in ("a", "self", "self/x"):
        c.stat(path)
        c.open(path)
        c.mkdir(path + "/d")
        c.chmod(path, 0o600)
        c.truncate(path, 0)
        c.lstat(path)


@case
def forty_links_are_enough(c: Calls) -> None:
    c.create("0", b"end")
    for number in range(1, 45):
        os.symlink(str(number - 1), str(number))
    for number in (1, 39, 40, 41, 44):
        c.content(str(number))


@root_case
def sticky_directories(c: Calls) -> None:
    for directory_owner in (0, 1000, 1001):
        for file_owner in (1000, 1001):
            directory = f"d{directory_owner}{file_owner}"
            c.mkdir(directory)
            c.chown(directory, directory_owner, 0)
            c.chmod(directory, 0o1777)
            c.create(f"{directory}/f")
            c.chown(f"{directory}/f", file_owner, 0)
            with c.user(1000):
                c.rename(f"{directory}/f", f"{directory}/g")
                c.unlink(f"{directory}/f")
                c.unlink(f"{directory}/g")
                c.create(f"{directory}/new")
                c.rename(f"{directory}/new", f"{directory}/f")
            c.listdir(directory)


@root_case
def permission_to_link(c: Calls) -> None:
    for mode in (0o777, 0o755, 0o555):
        c.mkdir(f"d{mode:o}")
        c.chmod(f"d{mode:o}", mode)
        c.create(f"d{mode:o}/f")
        c.chown(f"d{mode:o}/f", 1000, 1000)
        with c.user(1000):
            c.link(f"d{mode:o}/f", f"d{mode:o}/g")
            c.symlink("x", f"d{mode:o}/l")
            c.unlink(f"d{mode:o}/f")
        c.listdir(f"d{mode:o}")
