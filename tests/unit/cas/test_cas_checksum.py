"""The checksum has zlib's values, whichever implementation computes it: they are on disks."""

from __future__ import annotations

import random
import zlib

import pytest

from cas.checksum import crc32


def test_the_known_value() -> None:
    assert crc32(b"123456789") == 0xCBF43926


@pytest.mark.parametrize("length", [0, 1, 7, 8, 15, 16, 56, 255, 4096, 16384, 16385, 1 << 20])
@pytest.mark.parametrize("seed", [0, 1, 0xFFFF_FFFF, 0x1234_5678])
def test_it_is_zlibs(length: int, seed: int) -> None:
    data = random.Random(length).randbytes(length)
    assert crc32(data, seed) == zlib.crc32(data, seed)


def test_it_takes_a_part_of_a_buffer() -> None:
    buffer = bytearray(b"..123456789..")
    assert crc32(memoryview(buffer)[2:-2]) == 0xCBF43926


def test_it_goes_on_where_it_stopped() -> None:
    assert crc32(b"6789", crc32(b"12345")) == 0xCBF43926
