"""read(2), write(2), truncate(2), lseek(2), holes, appending."""

from __future__ import annotations

import os

from tests.conformance.calls import Calls, case, root_case


@case
def truncate(c: Calls) -> None:
    c.create("f", b"0123456789")
    for length in (10, 4, 0, 7, 5000, 4096, 4095, 1):
        c.truncate("f", length)
        c.stat("f")
        c.content("f")
    c.truncate("f", -1)
    c.stat("f")


@case
def truncate_errors(c: Calls) -> None:
    c.mkdir("d")
    c.mkfifo("p")
    c.symlink("absent", "l")
    c.create("f")
    for path in ("d", "absent", "l", "", "f/", "f/x", "d/x"):
        c.truncate(path, 0)
    c.truncate("p", 0)


@case
def truncate_moves_times(c: Calls) -> None:
    c.create("f", b"0123456789")
    for length in (5, 5, 20, 0, 0):
        with c.watch("f", "."):
            c.truncate("f", length)
    descriptor = c.open("f", os.O_WRONLY)
    for length in (5, 5):
        with c.watch("f"):
            c.record("ftruncate", (length,), lambda length=length: os.ftruncate(descriptor, length))


@case
def zeros_between(c: Calls) -> None:
    c.create("f", b"x" * 10_000)
    c.truncate("f", 100)
    c.truncate("f", 9_000)

    def zeros() -> tuple[int, int]:
        with open("f", "rb") as file:
            data = file.read()
        return data.count(b"x"), data.count(b"\0")

    c.record("zeros", (), zeros)
    descriptor = c.open("f", os.O_RDWR)
    os.pwrite(descriptor, b"y", 20_000)
    c.record("pread", (), lambda: os.pread(descriptor, 3, 19_999))
    c.record("zeros", (), zeros)
    c.stat("f")


@case
def beyond_the_end(c: Calls) -> None:
    descriptor = c.open("f", os.O_CREAT | os.O_RDWR)
    c.record("pread", (), lambda: os.pread(descriptor, 10, 0))
    c.record("pread", (), lambda: os.pread(descriptor, 10, 1 << 40))
    os.write(descriptor, b"abc")
    c.record("pread", (), lambda: os.pread(descriptor, 10, 2))
    c.record("pread", (), lambda: os.pread(descriptor, 10, 3))
    c.record("pread", (), lambda: os.pread(descriptor, 10, -1))
    c.record("pwrite", (), lambda: os.pwrite(descriptor, b"x", -1))
    c.record("pread", (), lambda: os.pread(descriptor, 0, 0))
    c.record("pwrite", (), lambda: os.pwrite(descriptor, b"", 100))
    c.stat("f")


@case
def writes_move_times(c: Calls) -> None:
    descriptor = c.open("f", os.O_CREAT | os.O_RDWR)
    with c.watch("f", "."):
        c.record("write", (), lambda: os.write(descriptor, b"x"))
    with c.watch("f"):
        c.record("write", (), lambda: os.pwrite(descriptor, b"x", 0))
    with c.watch("f"):
        c.record("write", (), lambda: os.write(descriptor, b""))
    with c.watch("f"):
        c.record("read", (), lambda: os.pread(descriptor, 1, 0))


@case
def sparse(c: Calls) -> None:
    descriptor = c.open("f", os.O_CREAT | os.O_RDWR)
    os.ftruncate(descriptor, 1 << 40)
    c.stat("f")
    os.pwrite(descriptor, b"middle", 1 << 39)
    os.pwrite(descriptor, b"end", (1 << 40) - 3)
    for offset in (0, (1 << 39) - 2, 1 << 39, (1 << 40) - 4):
        c.record("pread", (offset,), lambda offset=offset: os.pread(descriptor, 16, offset))
    c.record("few blocks", (), lambda: os.stat("f").st_blocks < 1000)
    os.ftruncate(descriptor, 1)
    c.record("few blocks", (), lambda: os.stat("f").st_blocks <= 8)
    c.content("f")


@case
def blocks_follow_content(c: Calls) -> None:
    c.create("f", b"x" * 100_000)
    c.record("blocks", (), lambda: 190 < os.stat("f").st_blocks < 300)
    c.truncate("f", 0)
    c.record("blocks", (), lambda: os.stat("f").st_blocks)
    c.create("empty")
    c.record("blocks", (), lambda: os.stat("empty").st_blocks)


@case
def lseek(c: Calls) -> None:
    descriptor = c.open("f", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"0123456789")
    for offset, whence in ((0, 0), (5, 0), (-2, 1), (-3, 2), (10, 2), (-1, 0), (-100, 1), (0, 99), (1 << 40, 0)):
        c.record("lseek", (offset, whence), lambda o=offset, w=whence: os.lseek(descriptor, o, w))
    os.lseek(descriptor, 3, 0)
    c.record("read", (), lambda: os.read(descriptor, 4))
    c.record("read", (), lambda: os.read(descriptor, 40))
    c.record("read", (), lambda: os.read(descriptor, 40))


@case
def appending(c: Calls) -> None:
    one = c.open("f", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    two = c.open("f", os.O_WRONLY | os.O_APPEND)
    for number in range(10):
        os.write(one if number % 2 else two, b"%d" % number)
    c.content("f")
    os.truncate("f", 3)
    os.write(one, b"!")
    c.content("f")


@case
def overwriting(c: Calls) -> None:
    descriptor = c.open("f", os.O_CREAT | os.O_RDWR)
    expected = bytearray()
    for step in range(400):
        offset, length = step * 7919 % 30_000, step * 104729 % 5_000
        data = bytes([step % 251]) * length
        os.pwrite(descriptor, data, offset)
        if len(expected) < offset:
            expected += bytes(offset - len(expected))
        expected[offset : offset + length] = data
    c.record("content", (), lambda: os.pread(descriptor, 100_000, 0) == bytes(expected))
    c.stat("f")


@case
def vectors(c: Calls) -> None:
    descriptor = c.open("f", os.O_CREAT | os.O_RDWR)
    c.record("writev", (), lambda: os.writev(descriptor, [b"one", b"", b"two" * 3000]))
    c.record("pwritev", (), lambda: os.pwritev(descriptor, [b"A", b"B"], 5000))
    first, second = bytearray(4), bytearray(5)
    c.record("preadv", (), lambda: os.preadv(descriptor, [first, second], 4998))
    c.note(repr((bytes(first), bytes(second))))


@case
def large_requests(c: Calls) -> None:
    descriptor = c.open("f", os.O_CREAT | os.O_RDWR)
    data = bytes(range(256)) * 16384
    c.record("write", (), lambda: os.pwrite(descriptor, data, 1), show=True)
    c.record("read", (), lambda: os.pread(descriptor, len(data) + 10, 0) == b"\0" + data)
    c.record("sendfile", (), lambda: _copied(descriptor))


def _copied(descriptor: int) -> bool:
    target = os.open("g", os.O_CREAT | os.O_RDWR)
    size = os.fstat(descriptor).st_size
    done = 0
    while done < size:
        done += os.sendfile(target, descriptor, done, size - done)
    return os.pread(target, size, 0) == os.pread(descriptor, size, 0)


@case
def file_size_limit(c: Calls) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    descriptor = c.open("f", os.O_CREAT | os.O_WRONLY)
    c.record("write", (), lambda: os.write(descriptor, b"x" * 2000))
    c.record("write", (), lambda: os.write(descriptor, b"x"))
    c.record("ftruncate", (), lambda: os.ftruncate(descriptor, 2000))
    c.truncate("f", 1001)
    c.stat("f")


@case
def posix_fallocate(c: Calls) -> None:
    descriptor = c.open("f", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"abc")
    c.record("posix_fallocate", (), lambda: os.posix_fallocate(descriptor, 0, 10_000))
    c.stat("f")
    c.record("pread", (), lambda: os.pread(descriptor, 5, 0))
    c.record("posix_fallocate", (), lambda: os.posix_fallocate(descriptor, 0, 10))
    c.stat("f")
    c.record("posix_fallocate", (), lambda: os.posix_fallocate(descriptor, -1, 10))


@case
def syncing(c: Calls) -> None:
    descriptor = c.open("f", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"abc")
    c.record("fsync", (), lambda: os.fsync(descriptor))
    c.record("fdatasync", (), lambda: os.fdatasync(descriptor))
    directory = c.open(".")
    c.record("fsync", (".",), lambda: os.fsync(directory))
    c.record("fdatasync", (".",), lambda: os.fdatasync(directory))


@root_case
def who_may_truncate(c: Calls) -> None:
    c.create("f", b"content")
    c.chown("f", 1000, 1000)
    for mode in (0o644, 0o444, 0o666, 0o000):
        c.chmod("f", mode)
        for uid in (1000, 1001):
            with c.user(uid):
                c.truncate("f", 5)
    descriptor = c.open("f", os.O_WRONLY)
    c.chmod("f", 0)
    with c.user(1001):
        c.record("ftruncate", (), lambda: os.ftruncate(descriptor, 1))
    c.stat("f")
