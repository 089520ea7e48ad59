"""lseek(2) with SEEK_DATA and SEEK_HOLE, which the kernel transport has and pyfuse3 has not."""

from __future__ import annotations

import os

from tests.conformance.calls import Calls, case

KEEP_SIZE, PUNCH_HOLE = 1, 2
BLOCK = 4096
DATA = bytes(range(256)) * 80


@case
def data_and_holes(c: Calls) -> None:
    f = c.open("f", os.O_CREAT | os.O_RDWR)
    c.pwrite(f, b"x" * BLOCK, 2 * BLOCK)
    c.pwrite(f, b"x", 5 * BLOCK + 7)
    c.ftruncate(f, 8 * BLOCK + 1)
    c.fsync(f)
    c.holes(
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
    c.seek(f, -1, os.SEEK_DATA)
    c.fallocate(f, PUNCH_HOLE | KEEP_SIZE, 2 * BLOCK, BLOCK)
    c.holes(f, 0, 2 * BLOCK)


@case
def a_file_without_holes(c: Calls) -> None:
    c.create("f", DATA)
    f = c.open("f")
    c.holes(f, 0, 100, len(DATA) - 1, len(DATA))
    c.create("empty")
    empty = c.open("empty")
    c.holes(empty, 0)


@case
def nothing_but_a_hole(c: Calls) -> None:
    f = c.open("f", os.O_CREAT | os.O_RDWR)
    for size in (1, BLOCK - 1, BLOCK, BLOCK + 1, 10 * BLOCK):
        c.ftruncate(f, size)
        c.holes(f, 0, 1, size - 1, size, size + 1)
    c.fallocate(f, 0, 0, 20 * BLOCK)
    c.holes(f, 0, 19 * BLOCK, 20 * BLOCK)


@case
def numbers_that_are_not_possible(c: Calls) -> None:
    c.create("f", DATA)
    f = c.open("f")
    c.lseek(f, 5, os.SEEK_SET)
    for offset in (-1, len(DATA), len(DATA) + 1, (1 << 63) - 1, -(1 << 63)):
        c.holes(f, offset)
        c.lseek(f, 0, os.SEEK_CUR)
    for whence in (5, 99, -1):
        c.seek(f, 0, whence)
    for flags in (os.O_WRONLY, os.O_PATH):
        c.holes(c.open("f", flags), 0)
    c.mkfifo("p")
    c.holes(c.open("p", os.O_RDWR), 0)


@case
def the_position_moves(c: Calls) -> None:
    f = c.open("f", os.O_CREAT | os.O_RDWR)
    c.ftruncate(f, 6 * BLOCK)
    c.pwrite(f, b"x" * BLOCK, 3 * BLOCK)
    c.fsync(f)
    c.seek(f, 10, os.SEEK_DATA)
    c.record("read", (), lambda: os.read(f, 3))
    c.seek(f, 3 * BLOCK + 5, os.SEEK_HOLE)
    c.record("read", (), lambda: os.read(f, 3))
    c.seek(f, 5 * BLOCK, os.SEEK_DATA)
    c.lseek(f, 0, os.SEEK_CUR)


@case
def holes_that_are_made(c: Calls) -> None:
    """(Not by ZERO_RANGE: on ext4 it depends on what is cached whether that is a hole.)

    By punching, by truncation down and up, by writing far behind the end; whole blocks and parts."""
    f = c.open("f", os.O_CREAT | os.O_RDWR)
    c.pwrite(f, b"x" * 16 * BLOCK, 0)
    c.fallocate(f, PUNCH_HOLE | KEEP_SIZE, 0, BLOCK)
    c.fallocate(f, PUNCH_HOLE | KEEP_SIZE, 2 * BLOCK + 1, BLOCK)
    c.fallocate(f, PUNCH_HOLE | KEEP_SIZE, 5 * BLOCK - 1, BLOCK + 2)
    c.fallocate(f, PUNCH_HOLE | KEEP_SIZE, 15 * BLOCK, 5 * BLOCK)
    c.fsync(f)
    c.holes(f, *(number * BLOCK + more for number in range(17) for more in (-1, 0, 1)))
    c.ftruncate(f, 12 * BLOCK + 100)
    c.ftruncate(f, 14 * BLOCK)
    c.pwrite(f, b"far", 20 * BLOCK + 5)
    c.fsync(f)
    c.holes(f, 11 * BLOCK, 12 * BLOCK, 12 * BLOCK + 200, 13 * BLOCK, 20 * BLOCK, 20 * BLOCK + 4, 20 * BLOCK + 7)
    c.ftruncate(f, 0)
    c.ftruncate(f, 2 * BLOCK)
    c.holes(f, 0)


@case
def holes_that_are_filled(c: Calls) -> None:
    f = c.open("f", os.O_CREAT | os.O_RDWR)
    c.ftruncate(f, 8 * BLOCK)
    for offset in (2 * BLOCK + 7, 4 * BLOCK - 1, 4 * BLOCK):
        c.pwrite(f, b"x", offset)
        c.fsync(f)
        c.holes(f, 0, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK, 5 * BLOCK)
    c.pwrite(f, bytes(BLOCK), 6 * BLOCK)
    c.fsync(f)
    c.holes(f, 5 * BLOCK)
