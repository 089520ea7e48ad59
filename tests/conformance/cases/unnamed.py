"""open(2) with O_TMPFILE, which the kernel transport has and pyfuse3 has not."""

from __future__ import annotations

import os
import stat

from tests.conformance.calls import Calls, case, root_case

FOLLOW = 0x400
UNNAMED = os.O_TMPFILE | os.O_RDWR


@case
def without_a_name(c: Calls) -> None:
    c.mkdir("d")
    f = c.open("d", os.O_TMPFILE | os.O_RDWR, 0o640)
    c.stat(f)
    c.listdir("d")
    c.pwrite(f, b"content", 0)
    c.linkat(f"/proc/self/fd/{f}", "named", FOLLOW)
    c.stat("named")
    c.content("named")
    c.linkat(f"/proc/self/fd/{f}", "named", FOLLOW)
    c.unlink("named")
    c.linkat(f"/proc/self/fd/{f}", "again", FOLLOW)
    c.pread(f, 99, 0)


@case
def without_a_name_for_ever(c: Calls) -> None:
    f = c.open(".", os.O_TMPFILE | os.O_EXCL | os.O_RDWR)
    c.pwrite(f, b"content", 0)
    c.linkat(f"/proc/self/fd/{f}", "named", FOLLOW)
    c.open(".", os.O_TMPFILE | os.O_RDONLY)
    c.open("absent", os.O_TMPFILE | os.O_RDWR)
    c.create("f")
    c.open("f", os.O_TMPFILE | os.O_RDWR)
    c.mkdir("closed", stat.S_IRUSR | stat.S_IXUSR)
    if os.geteuid():
        c.open("closed", os.O_TMPFILE | os.O_RDWR)


@case
def it_has_no_links_until_it_is_linked(c: Calls) -> None:
    c.mkdir("d")
    f = c.open("d", UNNAMED, 0o600)
    c.stat(f)
    c.link_descriptor(f, "d/one")
    c.stat(f)
    c.linkat(f"/proc/self/fd/{f}", "two", FOLLOW)
    c.stat(f)
    c.link_descriptor(f, "two")
    c.link_descriptor(f, "absent/two")
    c.listdir("d")
    c.listdir()
    g = c.open("d", UNNAMED | os.O_EXCL, 0o600)
    c.link_descriptor(g, "never")
    c.stat(g)


@case
def what_can_be_done_with_it(c: Calls) -> None:
    c.create("source", b"content" * 1000)
    source, f = c.open("source"), c.open(".", UNNAMED, 0o640)
    c.copy_range(source, 0, f, 100, 5000)
    c.fallocate(f, 0, 0, 10_000)
    c.fallocate(f, 3, 4096, 100)
    c.ftruncate(f, 9_000)
    c.fchmod(f, 0o4751)
    c.setxattr(f, b"user.a", b"b")
    c.getxattr(f, b"user.a")
    c.fsync(f)
    c.seek(f, 0, os.SEEK_DATA)
    c.stat(f)
    c.linkat(f"/proc/self/fd/{f}", "f", FOLLOW)
    c.stat("f")
    c.content("f")
    c.getxattr("f", b"user.a")
    c.rename("f", "g")
    c.unlink("g")
    c.stat(f)
    c.link_descriptor(f, "again")


@case
def names_and_flags_that_are_refused(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.symlink("d", "to_d")
    c.symlink("nowhere", "dangling")
    for path in ("d", "to_d", "f", "dangling", "absent", "absent/d", "d/.", ""):
        c.stat(c.open(path, UNNAMED))
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT, os.O_RDWR | os.O_TRUNC):
        c.stat(c.open("d", os.O_TMPFILE | flags))
    c.open("d", (os.O_TMPFILE & ~os.O_DIRECTORY) | os.O_RDWR)
    c.stat(c.open("to_d", UNNAMED | os.O_NOFOLLOW))
    c.listdir("d")


@case
def its_mode(c: Calls) -> None:
    for mask in (0, 0o022, 0o077):
        os.umask(mask)
        for mode in (0, 0o644, 0o7777):
            c.stat(c.open(".", UNNAMED, mode))
    c.mkdir("d")
    c.chmod("d", 0o2775)
    c.stat(c.open("d", UNNAMED, 0o2775))
    c.record("directory", (), lambda: stat.S_IMODE(os.stat("d").st_mode))


@case
def a_directory_does_not_change(c: Calls) -> None:
    c.mkdir("d")
    with c.watch("d"):
        f = c.open("d", UNNAMED)
    with c.watch("d"):
        c.linkat(f"/proc/self/fd/{f}", "d/f", FOLLOW)


@root_case
def who_may(c: Calls) -> None:
    c.mkdir("d")
    c.chown("d", 1000, 2000)
    for mode in (0o2755, 0o1777, 0o555, 0o333):
        c.chmod("d", mode)
        for uid in (1000, 1001):
            with c.user(uid):
                f = c.open("d", UNNAMED, 0o666)
                c.stat(f)
                c.linkat(f"/proc/self/fd/{f}", f"d/f{uid}", FOLLOW)
                c.link_descriptor(f, f"d/g{uid}")
    c.listdir("d")
    c.rmdir("d")
