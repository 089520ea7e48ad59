"""mmap(2)."""

from __future__ import annotations

import mmap
import os

from tests.conformance.calls import Calls, case


@case
def shared_reads_what_is_written(c: Calls) -> None:
    c.create("f", b"0" * 10_000)
    descriptor = c.open("f", os.O_RDWR)
    with mmap.mmap(descriptor, 10_000) as shared:
        os.pwrite(descriptor, b"written", 5_000)
        c.note(repr(shared[4_998:5_010]))
        shared[100:106] = b"stored"
        c.record("pread", (), lambda: os.pread(descriptor, 10, 98))
        shared.flush()
        c.record("pread", (), lambda: os.pread(descriptor, 10, 98))
    c.stat("f")
    with open("f", "rb") as file:
        c.note(repr(file.read()[95:110]))


@case
def private_keeps_to_itself(c: Calls) -> None:
    c.create("f", b"0" * 5_000)
    descriptor = c.open("f", os.O_RDONLY)
    with mmap.mmap(descriptor, 5_000, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as private:
        private[0:4] = b"mine"
        c.note(repr(private[0:6]))
    c.record("pread", (), lambda: os.pread(descriptor, 6, 0))


@case
def rights(c: Calls) -> None:
    c.create("f", b"0" * 5_000)
    reading = c.open("f", os.O_RDONLY)
    c.record("map", (), lambda: len(mmap.mmap(reading, 5_000, prot=mmap.PROT_READ)))
    c.record("map", (), lambda: len(mmap.mmap(reading, 5_000, prot=mmap.PROT_READ | mmap.PROT_WRITE)))
    writing = c.open("f", os.O_WRONLY)
    c.record("map", (), lambda: len(mmap.mmap(writing, 5_000, prot=mmap.PROT_READ)))


@case
def msync_moves_times(c: Calls) -> None:
    c.create("f", b"0" * 5_000)
    descriptor = c.open("f", os.O_RDWR)
    with mmap.mmap(descriptor, 5_000) as shared, c.watch("f"):
        shared[0:1] = b"x"
        shared.flush()


@case
def after_close_and_unlink(c: Calls) -> None:
    c.create("f", b"0" * 5_000)
    descriptor = c.open("f", os.O_RDWR)
    shared = mmap.mmap(descriptor, 5_000)
    os.close(descriptor)
    c.unlink("f")
    shared[0:4] = b"kept"
    shared.flush()
    c.note(repr(shared[0:6]))


@case
def a_hole_becomes_data(c: Calls) -> None:
    descriptor = c.open("f", os.O_CREAT | os.O_RDWR)
    os.ftruncate(descriptor, 1 << 20)
    with mmap.mmap(descriptor, 1 << 20) as shared:
        shared[500_000:500_004] = b"data"
        shared.flush()
    c.record("pread", (), lambda: os.pread(descriptor, 8, 499_998))
    c.stat("f")
