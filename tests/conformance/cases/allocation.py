"""fallocate(2), which the kernel transport has and pyfuse3 has not."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import subprocess

from tests.conformance.calls import Calls, case, root_case

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
BLOCK = 4096
DATA = bytes(range(256)) * 80


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
    for mode in (0, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE):
        for bits in (0o6777, 0o6666, 0o2767):
            c.chmod("f", bits)
            with c.user(1000):
                f = c.open("f", os.O_RDWR)
            with c.user(1000):
                c.fallocate(f, mode, 0, 100)
            # Asks for the mode alone, which the kernel may have kept; stat(2) asks for what FALLOCATE changes, too.
            c.record("stat -c %a", (bits,), lambda: subprocess.check_output(["stat", "-c", "%a", "f"]))
            c.stat("f")


@case
def allocation_at_and_behind_the_end(c: Calls) -> None:
    """Size and content after each, and what comes to light where the file is made longer."""
    f = c.open("f", os.O_CREAT | os.O_RDWR)
    for mode in (0, KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE):
        for offset, length in ((len(DATA), 1), (len(DATA) - 1, 1), (len(DATA) - 1, 2), (30_000, 1)):
            c.ftruncate(f, 0)
            c.pwrite(f, DATA, 0)
            c.fallocate(f, mode, offset, length)
            c.stat("f")
            c.pread(f, 100, len(DATA) - 3)
            c.ftruncate(f, 30_010)
            c.pread(f, 100, len(DATA) - 3)
            c.pread(f, 100, 29_990)


@case
def zeros_across_pages_and_chunks(c: Calls) -> None:
    for name, mode in (
        ("punched", PUNCH_HOLE | KEEP_SIZE),
        ("zeroed", ZERO_RANGE),
        ("kept", ZERO_RANGE | KEEP_SIZE),
    ):
        f = c.open(name, os.O_CREAT | os.O_RDWR)
        c.pwrite(f, b"d" * 200_000, 0)
        c.fsync(f)
        for offset, length in (
            (0, 1),
            (BLOCK - 1, 2),
            (2 * BLOCK, 1),
            (3 * BLOCK - 1, 1),
            (4 * BLOCK + 1, 2 * BLOCK),
            (65_536 - 7, 14),
            (131_072 - 10_000, 20_000),
            (199_999, 1),
        ):
            c.fallocate(f, mode, offset, length)
            c.record("content", (name,), lambda f=f: hash_of(os.pread(f, 1 << 20, 0)))
        c.stat(name)


def hash_of(content: bytes) -> str:
    """What tells contents apart in a short line: where the runs of bytes begin."""
    edges = [at for at in range(1, len(content)) if content[at] != content[at - 1]]
    return f"{len(content)} {content[:1]!r} {edges}"


@case
def allocation_by_descriptors_of_all_kinds(c: Calls) -> None:
    c.create("f", DATA)
    c.mkfifo("p")
    c.mkdir("d")
    c.symlink("f", "l")
    ours, theirs = os.pipe()
    descriptors = [
        *(c.open("f", flags) for flags in (os.O_WRONLY, os.O_WRONLY | os.O_APPEND, os.O_RDONLY, os.O_PATH)),
        c.open("p", os.O_RDWR),
        c.open("d"),
        c.open("l", os.O_PATH | os.O_NOFOLLOW),
        c.open("/dev/null", os.O_RDWR),
        ours,
        theirs,
    ]
    for mode in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, PUNCH_HOLE, PUNCH_HOLE | ZERO_RANGE):
        for descriptor in descriptors:
            c.fallocate(descriptor, mode, 10, 30_000)
        c.stat("f")
    c.content("f")


@case
def allocation_with_numbers_that_are_not_possible(c: Calls) -> None:
    c.create("f", DATA)
    f = c.open("f", os.O_RDWR)
    for mode in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE):
        for offset, length in (
            (0, 0),
            (-1, 1),
            (1, -1),
            (1 << 62, 1 << 62),
            ((1 << 63) - 1, 1),
            (1, (1 << 63) - 1),
        ):
            c.fallocate(f, mode, offset, length)
    c.stat("f")


@case
def allocation_ends_at_the_limit_of_a_process(c: Calls) -> None:
    c.create("f", b"x" * 100)
    f = c.open("f", os.O_RDWR)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    c.fallocate(f, 0, 0, 10_000)
    c.fallocate(f, 0, 0, 10_001)
    c.fallocate(f, ZERO_RANGE, 9_999, 2)
    c.fallocate(f, KEEP_SIZE, 9_000, 2_000)
    c.stat("f")


@case
def zeros_are_seen_through_mappings(c: Calls) -> None:
    """Whole pages and parts of them, cached and dirty."""
    c.create("f", b"d" * 8 * BLOCK)
    f = c.open("f", os.O_RDWR)
    with mmap.mmap(f, 8 * BLOCK) as shared:
        shared[BLOCK + 10 : BLOCK + 14] = b"MMMM"
        shared[5 * BLOCK : 5 * BLOCK + 4] = b"MMMM"
        c.fallocate(f, PUNCH_HOLE | KEEP_SIZE, BLOCK + 12, 2 * BLOCK)
        c.note(hash_of(shared[:]))
        c.fallocate(f, ZERO_RANGE, 5 * BLOCK + 2, BLOCK)
        c.note(hash_of(shared[:]))
        shared[3 * BLOCK : 3 * BLOCK + 1] = b"N"
        c.note(hash_of(shared[:]))
    c.record("content", ("f",), lambda: hash_of(os.pread(f, 1 << 20, 0)))


@case
def allocation_of_what_has_no_name(c: Calls) -> None:
    c.create("f", DATA)
    f = c.open("f", os.O_RDWR)
    c.unlink("f")
    c.fallocate(f, 0, 0, 30_000)
    c.fallocate(f, PUNCH_HOLE | KEEP_SIZE, 0, BLOCK)
    c.stat(f)
    c.pread(f, 10, BLOCK - 5)
