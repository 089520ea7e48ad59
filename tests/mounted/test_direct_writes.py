"""O_DIRECT writes by the kernel's AIO, while others read the same file through the page cache."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import Mounts

pytestmark = pytest.mark.mounted
_libc = ctypes.CDLL(None, use_errno=True)
_SETUP, _DESTROY, _SUBMIT, _EVENTS = (206, 207, 209, 208) if platform.machine() == "x86_64" else (0, 1, 2, 4)
"""The C library has no names for them."""
_PWRITE = 1
SIZE = 4 << 20
ROUNDS = 60
LOG = "log=16M"
"""So little that writes wait for the log to be emptied, and reads that came later overtake them."""


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def write_by_aio(context: ctypes.c_ulong, descriptor: int, content: mmap.mmap) -> None:
    """One IOCB_CMD_PWRITE of all of it at offset 0, waited for. Source: io_submit(2)."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(content))
    request = struct.pack("=QLLHhLQQqQLL", 0, 0, 0, _PWRITE, 0, descriptor, address, len(content), 0, 0, 0, 0)
    block = ctypes.create_string_buffer(request)
    events = (ctypes.c_uint64 * 4)()
    _call(_SUBMIT, context, ctypes.c_long(1), (ctypes.c_void_p * 1)(ctypes.addressof(block)))
    _call(_EVENTS, context, ctypes.c_long(1), ctypes.c_long(1), events, None)
    assert events[2] == len(content)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Four who read all of the file through the page cache, again and again."""
    ended = threading.Event()

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            while not ended.is_set():
                os.pread(file.fileno(), SIZE, 0)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        ended.set()
        for reader in readers:
            reader.join()


def test_a_direct_write_by_aio_leaves_nothing_stale_in_the_page_cache(mounts: Mounts, transport: str) -> None:
    """A page that was read while the write was on its way must not outlive it."""
    with mounts.mounted(transport, LOG) as mounted:
        write_beside_readers(mounted.point / "f")


def write_beside_readers(path: Path) -> None:
    """Each write is to be what the page cache shows after it."""
    contents = [mmap.mmap(-1, SIZE) for _ in range(2)]
    for letter, content in zip(b"ab", contents, strict=True):
        content.write(bytes([letter]) * SIZE)
    context = ctypes.c_ulong(0)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    _call(_SETUP, 8, ctypes.byref(context))
    try:
        os.pwritev(descriptor, contents[:1], 0)
        with reading(path), path.open("rb", buffering=0) as file:
            for number in range(ROUNDS):
                content = contents[number % 2]
                write_by_aio(context, descriptor, content)
                assert os.pread(file.fileno(), SIZE, 0) == content[:], number
    finally:
        _call(_DESTROY, context)
        os.close(descriptor)


def test_dd_writes_the_short_end_of_a_file_through_the_page_cache(branch: Path, scratch: Path) -> None:
    """It takes O_DIRECT back for that: the same handle, but a page is locked until the reply."""
    source = scratch / "source"
    source.write_bytes(os.urandom(3 * SIZE // 2 + 1234))
    for number in range(3):
        target = branch / f"copy{number}"
        words = ["dd", f"if={source}", f"of={target}", "bs=1M", "oflag=direct", "status=none"]
        subprocess.run(words, check=True, timeout=20)
        assert target.read_bytes() == source.read_bytes()


def test_a_mapping_of_a_file_opened_for_direct_writes_is_written_back(branch: Path) -> None:
    """What is written back keeps its page until the reply; a direct write has what was mapped written back."""
    page = mmap.PAGESIZE
    content = mmap.mmap(-1, page)
    descriptor = os.open(branch / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        os.ftruncate(descriptor, 8 * page)
        with mmap.mmap(descriptor, 8 * page) as mapped:
            for letter in b"abc":
                mapped[: 2 * page] = bytes([letter]) * (2 * page)
                mapped.flush()
                mapped[4 * page : 5 * page] = bytes([letter]) * page
                content[:] = b"direct".ljust(page, bytes([letter]))
                os.pwritev(descriptor, [content], 4 * page)
                assert mapped[4 * page : 5 * page] == content[:]
                assert (branch / "f").read_bytes()[: 2 * page] == bytes([letter]) * (2 * page)
    finally:
        os.close(descriptor)
