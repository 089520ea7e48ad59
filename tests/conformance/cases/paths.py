"""Path resolution: long names, long paths, slashes, what is no directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tests.conformance.calls import Calls, case, root_case

LONGEST = "n" * 255
TOO_LONG = "n" * 256


def everything(c: Calls, path: str) -> None:
    """Every call that takes a path."""
    c.stat(path)
    c.lstat(path)
    c.open(path)
    c.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    c.unlink(path)
    c.mkdir(path)
    c.rmdir(path)
    c.symlink("x", path)
    c.readlink(path)
    c.unlink(path)
    c.mkfifo(path)
    c.unlink(path)
    c.chmod(path, 0o700)
    c.chown(path, -1, -1)
    c.truncate(path, 0)
    c.utime(path)
    c.link(path, "other")
    c.link("file", path)
    c.unlink(path)
    c.rename(path, "other")
    c.rename("file", path)
    c.rename(path, "file")
    c.setxattr(path, b"user.a", b"x")
    c.getxattr(path, b"user.a")
    c.listdir(path)
    c.access(path, os.F_OK)


def on(path: str) -> Callable[[Calls], None]:
    """The body of a case: everything on one path."""

    def body(c: Calls) -> None:
        c.create("file", b"x")
        c.mkdir("directory")
        c.symlink("loop", "loop")
        c.symlink("nowhere", "dangling")
        c.symlink("directory", "link")
        everything(c, path)
        c.listdir()

    return body


def _register(name: str, path: str) -> None:
    body: Any = on(path)
    body.__name__ = name
    body.__module__ = __name__
    case(body)


for _name, _path in {
    "longest_name": LONGEST,
    "name_too_long": TOO_LONG,
    "name_too_long_below": "directory/" + TOO_LONG,
    "name_too_long_above": TOO_LONG + "/x",
    "path_too_long": "./" * 2048 + "x",
    "longest_path": "./" * 2046 + "xyz",
    "loop": "loop",
    "below_a_loop": "loop/x",
    "below_a_file": "file/x",
    "file_with_slash": "file/",
    "file_with_dot": "file/.",
    "file_with_dot_dot": "file/../new",
    "below_nothing": "absent/x",
    "dot_dot_of_nothing": "absent/../new",
    "empty": "",
    "dot": ".",
    "dot_slash": "./",
    "new_with_slash": "new/",
    "dangling": "dangling",
    "dangling_with_slash": "dangling/",
    "below_dangling": "dangling/x",
    "link_with_slash": "link/",
    "below_link": "link/new",
    "many_slashes": "directory////new",
    "directory_dot": "directory/.",
    "not_utf8": os.fsdecode(b"\xff\xfe"),
}.items():
    _register(_name, _path)


@case
def long_names_in_utf8(c: Calls) -> None:
    c.create("é" * 127)
    c.create("é" * 127 + "x")
    c.create("é" * 128)
    c.record("listdir", (), lambda: sorted(len(name) for name in os.listdir(b".")))


@case
def longest_paths(c: Calls) -> None:
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    c.create("f", b"deep")
    c.content("f")
    c.record("getcwd", (), lambda: len(os.getcwd()) > 0)
    c.record("up", (), lambda: os.stat("/".join([".."] * 20)).st_nlink)


@case
def longest_link_targets(c: Calls) -> None:
    c.create("f", b"x")
    c.symlink("./" * 2040 + "f", "long")
    c.content("long")
    c.record("readlink", (), lambda: len(os.readlink("long")))


@root_case
def search_is_needed_everywhere(c: Calls) -> None:
    c.makedirs("closed/directory")
    c.create("file", b"x")
    c.create("closed/f", b"x")
    c.chmod(".", 0o777)
    c.chmod("closed", 0o666)
    with c.user(1000):
        everything(c, "closed/f")
        everything(c, "closed/directory/new")
    c.chmod("closed", 0o755)
    with c.user(1000):
        everything(c, "closed/f")
        everything(c, "closed/new")
