"""Copies of ranges, allocation, holes, files without a name: what the kernel transport has and pyfuse3 has not."""

from __future__ import annotations

import os
import stat

from tests.conformance.calls import Calls, case, root_case

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
BLOCK = 4096
FOLLOW = 0x400
DATA = bytes(range(256)) * 80


def copy(c: Calls, source: int, at: int | None, target: int, to: int | None, length: int) -> None:
    """copy_file_range(2)."""
    args = ("source", at, "target", to, length)
    c.record("copy_file_range", args, lambda: os.copy_file_range(source, target, length, at, to))


def seek(c: Calls, descriptor: int, offset: int, whence: int) -> None:
    """lseek(2)."""
    c.record("lseek", (offset, whence), lambda: os.lseek(descriptor, offset, whence))


def holes(c: Calls, descriptor: int, *offsets: int) -> None:
    """Where data and holes are, from each of these."""
    for offset in offsets:
        seek(c, descriptor, offset, os.SEEK_DATA)
        seek(c, descriptor, offset, os.SEEK_HOLE)


@case
def copies(c: Calls) -> None:
    c.create("a", DATA)
    a, b = c.open("a"), c.open("b", os.O_CREAT | os.O_RDWR)
    copy(c, a, 0, b, 0, len(DATA))
    c.content("b")
    copy(c, a, 100, b, 7, 5000)
    copy(c, a, 20000, b, 0, 9999)
    copy(c, a, len(DATA), b, 0, 10)
    copy(c, a, len(DATA) + 5, b, 0, 10)
    copy(c, a, 0, b, 50_000, 100)
    c.stat("b")
    c.content("b")
    copy(c, a, 0, b, 0, 0)
    copy(c, a, None, b, None, 3000)
    copy(c, a, None, b, None, 3000)
    c.content("b")
    c.content("a")


@case
def copies_within_a_file(c: Calls) -> None:
    c.create("a", DATA)
    a = c.open("a", os.O_RDWR)
    copy(c, a, 0, a, 10_000, 5000)
    copy(c, a, 0, a, 4999, 5000)
    copy(c, a, 5000, a, 1, 5000)
    copy(c, a, 0, a, 0, 1)
    copy(c, a, 0, a, len(DATA), 100_000)
    c.content("a")


@case
def copies_refused(c: Calls) -> None:
    c.create("a", DATA)
    c.mkdir("d")
    c.mkfifo("p")
    a, b = c.open("a"), c.open("b", os.O_CREAT | os.O_WRONLY)
    appending, directory = c.open("a", os.O_WRONLY | os.O_APPEND), c.open("d")
    copy(c, a, 0, a, 0, 10)
    copy(c, b, 0, b, 100, 10)
    copy(c, a, 0, appending, 0, 10)
    copy(c, directory, 0, b, 0, 10)
    copy(c, a, 0, directory, 0, 10)
    pipe = c.open("p", os.O_RDWR)
    copy(c, pipe, None, b, 0, 10)
    copy(c, a, 0, b, (1 << 63) - 1, 10)
    c.content("b")


@case
def copies_of_what_is_sparse(c: Calls) -> None:
    a, b = c.open("a", os.O_CREAT | os.O_RDWR), c.open("b", os.O_CREAT | os.O_RDWR)
    c.pwrite(a, b"x" * BLOCK, 4 * BLOCK)
    c.ftruncate(a, 9 * BLOCK)
    c.pwrite(b, b"y" * 12 * BLOCK, 0)
    copy(c, a, 0, b, BLOCK, 9 * BLOCK)
    c.content("b")
    c.stat("b")


@case
def copies_are_changes(c: Calls) -> None:
    c.create("a", DATA)
    c.create("b", b"old")
    a, b = c.open("a"), c.open("b", os.O_RDWR)
    with c.watch("a", "b"):
        copy(c, a, 0, b, 0, 10)
    with c.watch("b"):
        copy(c, a, len(DATA), b, 0, 10)


@case
def allocation(c: Calls) -> None:
    f = c.open("f", os.O_CREAT | os.O_RDWR)
    c.fallocate(f, 0, 0, 10_000)
    c.stat("f")
    c.content("f")
    c.pwrite(f, b"data", 5000)
    c.fallocate(f, 0, 4000, 4000)
    c.fallocate(f, KEEP_SIZE, 20_000, 4000)
    c.stat("f")
    c.fallocate(f, 0, 20_000, 4000)
    c.stat("f")
    c.content("f")


@case
def zeroing_and_punching(c: Calls) -> None:
    c.create("f", DATA)
    f = c.open("f", os.O_RDWR)
    c.fallocate(f, PUNCH_HOLE | KEEP_SIZE, 100, 200)
    c.fallocate(f, PUNCH_HOLE | KEEP_SIZE, BLOCK, BLOCK)
    c.fallocate(f, PUNCH_HOLE | KEEP_SIZE, 18_000, 100_000)
    c.fallocate(f, ZERO_RANGE, 9000, 1000)
    c.stat("f")
    c.content("f")
    c.fallocate(f, ZERO_RANGE | KEEP_SIZE, 20_000, 10_000)
    c.stat("f")
    c.fallocate(f, ZERO_RANGE, 20_000, 10_000)
    c.stat("f")
    c.content("f")


@case
def allocation_refused(c: Calls) -> None:
    c.create("f", DATA)
    c.mkdir("d")
    f, reading, directory = c.open("f", os.O_RDWR), c.open("f"), c.open("d")
    for mode, offset, length in (
        (0, 0, 0),
        (0, -1, 10),
        (0, 0, -1),
        (PUNCH_HOLE, 0, 10),
        (PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, 0, 10),
        (0x100, 0, 10),
        (0, (1 << 63) - 2, 10),
    ):
        c.fallocate(f, mode, offset, length)
    c.fallocate(reading, 0, 0, 10)
    c.fallocate(directory, 0, 0, 10)
    c.stat("f")


@case
def allocation_is_a_change(c: Calls) -> None:
    c.create("f", DATA)
    f = c.open("f", os.O_RDWR)
    for mode in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE):
        with c.watch("f"):
            c.fallocate(f, mode, 0, 2 * BLOCK)


@root_case
def allocation_takes_set_id_bits_from_strangers(c: Calls) -> None:
    c.create("f", DATA)
    for mode in (0, PUNCH_HOLE | KEEP_SIZE):
        c.chmod("f", 0o6777)
        with c.user(1000):
            f = c.open("f", os.O_RDWR)
        with c.user(1000):
            c.fallocate(f, mode, 0, 100)
        c.stat("f")


@case
def data_and_holes(c: Calls) -> None:
    f = c.open("f", os.O_CREAT | os.O_RDWR)
    c.pwrite(f, b"x" * BLOCK, 2 * BLOCK)
    c.pwrite(f, b"x", 5 * BLOCK + 7)
    c.ftruncate(f, 8 * BLOCK + 1)
    c.fsync(f)
    holes(
        c,
        f,
        0,
        1,
        BLOCK,
        2 * BLOCK,
        2 * BLOCK + 9,
        3 * BLOCK,
        5 * BLOCK,
        6 * BLOCK,
        8 * BLOCK,
        8 * BLOCK + 1,
        1 << 40,
    )
    seek(c, f, -1, os.SEEK_DATA)
    c.fallocate(f, PUNCH_HOLE | KEEP_SIZE, 2 * BLOCK, BLOCK)
    holes(c, f, 0, 2 * BLOCK)


@case
def a_file_without_holes(c: Calls) -> None:
    c.create("f", DATA)
    f = c.open("f")
    holes(c, f, 0, 100, len(DATA) - 1, len(DATA))
    c.create("empty")
    empty = c.open("empty")
    holes(c, empty, 0)


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
