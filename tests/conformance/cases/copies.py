"""copy_file_range(2), which the kernel transport has and pyfuse3 has not."""

from __future__ import annotations

import mmap
import os
import resource
import signal

from tests.conformance.calls import Calls, case, root_case

BLOCK = 4096
DATA = bytes(range(256)) * 80


@case
def copies(c: Calls) -> None:
    c.create("a", DATA)
    a, b = c.open("a"), c.open("b", os.O_CREAT | os.O_RDWR)
    c.copy_range(a, 0, b, 0, len(DATA))
    c.content("b")
    c.copy_range(a, 100, b, 7, 5000)
    c.copy_range(a, 20000, b, 0, 9999)
    c.copy_range(a, len(DATA), b, 0, 10)
    c.copy_range(a, len(DATA) + 5, b, 0, 10)
    c.copy_range(a, 0, b, 50_000, 100)
    c.stat("b")
    c.content("b")
    c.copy_range(a, 0, b, 0, 0)
    c.copy_range(a, None, b, None, 3000)
    c.copy_range(a, None, b, None, 3000)
    c.content("b")
    c.content("a")


@case
def copies_within_a_file(c: Calls) -> None:
    c.create("a", DATA)
    a = c.open("a", os.O_RDWR)
    c.copy_range(a, 0, a, 10_000, 5000)
    c.copy_range(a, 0, a, 4999, 5000)
    c.copy_range(a, 5000, a, 1, 5000)
    c.copy_range(a, 0, a, 0, 1)
    c.copy_range(a, 0, a, len(DATA), 100_000)
    c.content("a")


@case
def copies_refused(c: Calls) -> None:
    c.create("a", DATA)
    c.mkdir("d")
    c.mkfifo("p")
    a, b = c.open("a"), c.open("b", os.O_CREAT | os.O_WRONLY)
    appending, directory = c.open("a", os.O_WRONLY | os.O_APPEND), c.open("d")
    c.copy_range(a, 0, a, 0, 10)
    c.copy_range(b, 0, b, 100, 10)
    c.copy_range(a, 0, appending, 0, 10)
    c.copy_range(directory, 0, b, 0, 10)
    c.copy_range(a, 0, directory, 0, 10)
    pipe = c.open("p", os.O_RDWR)
    c.copy_range(pipe, None, b, 0, 10)
    c.copy_range(a, 0, b, (1 << 63) - 1, 10)
    c.content("b")


@case
def copies_of_what_is_sparse(c: Calls) -> None:
    a, b = c.open("a", os.O_CREAT | os.O_RDWR), c.open("b", os.O_CREAT | os.O_RDWR)
    c.pwrite(a, b"x" * BLOCK, 4 * BLOCK)
    c.ftruncate(a, 9 * BLOCK)
    c.pwrite(b, b"y" * 12 * BLOCK, 0)
    c.copy_range(a, 0, b, BLOCK, 9 * BLOCK)
    c.content("b")
    c.stat("b")


@case
def copies_are_changes(c: Calls) -> None:
    c.create("a", DATA)
    c.create("b", b"old")
    a, b = c.open("a"), c.open("b", os.O_RDWR)
    with c.watch("a", "b"):
        c.copy_range(a, 0, b, 0, 10)
    with c.watch("b"):
        c.copy_range(a, len(DATA), b, 0, 10)


@case
def copies_at_the_edges(c: Calls) -> None:
    """One byte on either side of a page, of a chunk's usual end, and of the end of the file."""
    c.create("a", DATA)
    a, b = c.open("a"), c.open("b", os.O_CREAT | os.O_RDWR)
    for at, to, length in (
        (BLOCK - 1, 0, 1),
        (BLOCK - 1, BLOCK - 1, 2),
        (BLOCK, 2 * BLOCK + 1, BLOCK - 1),
        (len(DATA) - 1, 3 * BLOCK - 1, 1),
        (len(DATA) - 1, 4 * BLOCK, 1 << 20),
        (0, 5 * BLOCK, (1 << 63) - 1 - 5 * BLOCK),
        (1 << 40, 0, 1),
        ((1 << 62), 0, 1 << 62),
    ):
        c.copy_range(a, at, b, to, length)
        c.stat("b")
    c.content("b")


@case
def copies_that_overlap(c: Calls) -> None:
    """Within one file, by one descriptor or two, by one name or two."""
    c.create("a", DATA)
    c.link("a", "twin")
    one, two = c.open("a", os.O_RDWR), c.open("twin", os.O_RDWR)
    for source in (one, two):
        c.copy_range(source, 0, one, 0, len(DATA))
        c.copy_range(source, 0, one, len(DATA) - 1, len(DATA))
        c.copy_range(source, 10, one, 9, 2)
        c.copy_range(source, 9, one, 10, 2)
        c.copy_range(source, 0, one, len(DATA), len(DATA))
        c.copy_range(source, 0, one, 10, 10)
        c.copy_range(source, 10, one, 0, 10)
        # What is asked for overlaps, what there is does not.
        size = os.fstat(one).st_size
        c.copy_range(source, size - 5, one, size, 100)
        c.stat("a")
    c.content("a")


@case
def copies_of_nothing(c: Calls) -> None:
    c.create("empty")
    c.create("b", DATA)
    empty, b = c.open("empty", os.O_RDWR), c.open("b", os.O_RDWR)
    c.copy_range(empty, 0, b, 0, 100)
    c.copy_range(empty, None, b, None, 100)
    c.copy_range(b, 0, empty, 0, 0)
    c.copy_range(b, 100, empty, 1 << 20, 0)
    c.stat("empty")
    c.stat("b")
    c.lseek(b, 0, os.SEEK_CUR)


@case
def copies_move_positions(c: Calls) -> None:
    c.create("a", DATA)
    a, b = c.open("a"), c.open("b", os.O_CREAT | os.O_RDWR)
    c.lseek(a, len(DATA) - 1000, os.SEEK_SET)
    c.lseek(b, 50, os.SEEK_SET)
    for length in (300, 300, 3000, 1):
        c.copy_range(a, None, b, None, length)
        c.lseek(a, 0, os.SEEK_CUR)
        c.lseek(b, 0, os.SEEK_CUR)
    c.copy_range(a, 0, b, None, 5)
    c.lseek(b, 0, os.SEEK_CUR)
    c.content("b")


@case
def copies_that_are_refused_whatever_the_file(c: Calls) -> None:
    c.create("a", DATA)
    c.create("b", DATA)
    a, b = c.open("a"), c.open("b", os.O_RDWR)
    c.copy_range(a, 0, b, 0, 10, flags=1)
    c.copy_range(a, -1, b, 0, 10)
    c.copy_range(a, 0, b, -1, 10)
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_APPEND, os.O_PATH):
        c.copy_range(a, 0, c.open("b", flags), 0, 10)
    for flags in (os.O_WRONLY, os.O_PATH):
        c.copy_range(c.open("a", flags), 0, b, 0, 10)
    zero, null = c.open("/dev/zero"), c.open("/dev/null", os.O_RDWR)
    c.copy_range(zero, None, b, 0, 10)
    c.copy_range(a, 0, null, None, 10)
    ours, theirs = os.pipe()
    c.copy_range(a, 0, theirs, None, 10)
    c.copy_range(ours, None, b, 0, 10)
    c.stat("b")
    c.content("b")


@case
def copies_of_holes_are_zeros(c: Calls) -> None:
    """At both ends of the source, behind its end by truncation, and over data."""
    a, b = c.open("a", os.O_CREAT | os.O_RDWR), c.open("b", os.O_CREAT | os.O_RDWR)
    c.ftruncate(a, 5 * BLOCK)
    c.pwrite(a, b"x" * 100, 2 * BLOCK + 50)
    c.pwrite(b, b"y" * 6 * BLOCK, 0)
    for at, to, length in ((0, 1, BLOCK), (2 * BLOCK, BLOCK + 7, BLOCK), (4 * BLOCK, 5 * BLOCK + 9, 2 * BLOCK)):
        c.copy_range(a, at, b, to, length)
        c.stat("b")
    c.content("b")
    hollow = c.open("hollow", os.O_CREAT | os.O_RDWR)
    c.ftruncate(hollow, 3 * BLOCK + 1)
    target = c.open("target", os.O_CREAT | os.O_RDWR)
    c.copy_range(hollow, 0, target, 100, 1 << 20)
    c.stat("target")
    c.content("target")


@case
def copies_of_what_is_mapped(c: Calls) -> None:
    """What was stored through a mapping is copied, and what was cached of the target is not shown again."""
    c.create("a", DATA)
    c.create("b", b"b" * len(DATA))
    a, b = c.open("a", os.O_RDWR), c.open("b", os.O_RDWR)
    with mmap.mmap(a, len(DATA)) as source, mmap.mmap(b, len(DATA)) as target:
        c.note(repr(target[BLOCK - 5 : BLOCK + 5]))
        source[BLOCK - 2 : BLOCK + 2] = b"MMMM"
        target[0:4] = b"TTTT"
        target[3 * BLOCK : 3 * BLOCK + 4] = b"TTTT"
        c.copy_range(a, BLOCK - 10, b, BLOCK - 10, 20)
        c.copy_range(a, 0, b, 3 * BLOCK + 2, 10)
        c.note(repr(target[BLOCK - 15 : BLOCK + 15]))
        c.note(repr(target[3 * BLOCK - 2 : 3 * BLOCK + 15]))
        c.note(repr(target[0:6]))
    c.content("b")


@case
def copies_end_at_the_limit_of_a_process(c: Calls) -> None:
    c.create("a", DATA)
    a, b = c.open("a"), c.open("b", os.O_CREAT | os.O_RDWR)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    c.copy_range(a, 0, b, 9_000, 5_000)
    c.copy_range(a, 0, b, 10_000, 5_000)
    c.stat("b")


@root_case
def copies_take_set_id_bits_from_strangers(c: Calls) -> None:
    c.create("a", DATA)
    for mode in (0o6777, 0o2767, 0o6666):
        c.create("b")
        c.chmod("b", mode)
        with c.user(1000):
            c.copy_range(c.open("a"), 0, c.open("b", os.O_RDWR), 0, 100)
        c.stat("b")
        c.chmod("b", mode)
        c.copy_range(c.open("a"), 0, c.open("b", os.O_RDWR), 0, 100)
        c.stat("b")
        c.unlink("b")
