"""A new file that is open for writing alone: what others see of it, by the page cache or past it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.otherprocess import OtherProcess

pytestmark = pytest.mark.mounted


@contextmanager
def writing(path: Path, more: int = 0) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | more, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_readers_and_mappings_see_each_write(branch: Path, other: Callable[..., OtherProcess]) -> None:
    reader = other()
    path = branch / "f"
    with writing(path) as file:
        os.write(file, b"a" * 10_000)
        mapped = reader.map(os.fspath(path), 10_000)
        opened = reader.open(os.fspath(path), os.O_RDONLY)
        assert reader.get(path) == b"a" * 10_000
        for number in range(20):
            letter = b"%c" % (98 + number)
            os.pwrite(file, letter * 5000, 2500)
            assert reader.mread(mapped, 2499, 3) == b"a" + letter * 2
            assert reader.mread(mapped, 7498, 3) == letter * 2 + b"a"
            assert reader.pread(opened, 10_000, 0) == b"a" * 2500 + letter * 5000 + b"a" * 2500
            os.pwrite(file, letter, 10_000 + number)
            assert reader.stat(path)["st_size"] == 10_001 + number
            assert reader.pread(opened, 99, 9_999 + number)[-1:] == letter


def test_two_writers(branch: Path, other: Callable[..., OtherProcess]) -> None:
    """The second one opens what is there, and so writes by the page cache."""
    second = other()
    path = branch / "f"
    with writing(path) as file:
        os.write(file, b"one" * 1000)
        there = second.open(os.fspath(path), os.O_RDWR)
        mapped = second.map(os.fspath(path), 3000, writable=True)
        assert second.pread(there, 3, 0) == b"one"
        second.pwrite(there, b"TWO", 3)
        second.mwrite(mapped, 9, b"MAP")
        os.pwrite(file, b"THR", 6)
        assert second.pread(there, 12, 0) == b"oneTWOTHRMAP"
        assert second.mread(mapped, 0, 12) == b"oneTWOTHRMAP"
        second.msync(mapped)
        os.pwrite(file, b"!", 0)
        assert path.read_bytes()[:12] == b"!neTWOTHRMAP"
        second.close_fd(there)


def test_appending(branch: Path, other: Callable[..., OtherProcess]) -> None:
    second = other()
    path = branch / "log"
    with writing(path, os.O_APPEND) as file:
        there = second.open(os.fspath(path), os.O_WRONLY | os.O_APPEND)
        for number in range(50):
            os.write(file, b"%02d," % number)
            second.write(there, b"%02d;" % number)
        os.truncate(path, 6)
        os.write(file, b"end")
        second.close_fd(there)
    assert path.read_bytes() == b"00,00;end"


def test_set_id_bits_and_capabilities_go(branch: Path) -> None:
    """Root keeps set-id bits; a capability nobody keeps."""
    path = branch / "f"
    with writing(path) as file:
        os.write(file, b"1")
        os.chmod(path, 0o6755)
        os.setxattr(path, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
        os.write(file, b"2")
        assert os.listxattr(path) == []
        assert os.stat(path).st_mode & 0o7777 == 0o6755


def test_set_id_bits_go_with_a_writer_who_is_nobody(branch: Path, other: Callable[..., OtherProcess]) -> None:
    (branch / "open").mkdir()
    (branch / "open").chmod(0o777)
    place = os.open(branch / "open", os.O_RDONLY)
    nobody = other(uid=65534, cwd=branch / "open")
    file = nobody.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    nobody.chmod("f", 0o4755)
    nobody.write(file, b"x")
    assert os.stat("f", dir_fd=place).st_mode & 0o7777 == 0o755
    nobody.close_fd(file)
    os.close(place)


def test_a_restore_under_an_open_file(branch: Path) -> None:
    path = branch / "f"
    with writing(path) as file:
        os.write(file, b"one")
        (branch / ".helios/checkpoint").write_bytes(b"v1")
        os.write(file, b", two")
        assert path.read_bytes() == b"one, two"
        (branch / ".helios/restore").write_bytes(b"v1")
        assert path.read_bytes() == b"one"
        os.write(file, b"!")
        assert path.read_bytes() == b"one\0\0\0\0\0!"
