"""Names: each bad one with its errno."""

from __future__ import annotations

import errno

import pytest

from heliosfs.control.names import check_form, check_itself, check_new
from heliosfs.core.errors import FsError

MALFORMED = [
    (b"", errno.EINVAL),
    (b".", errno.EINVAL),
    (b"..", errno.EINVAL),
    (b"a..b", errno.EINVAL),
    (b"..a", errno.EINVAL),
    (b"a/b", errno.EINVAL),
    (b"/", errno.EINVAL),
    (b"a\nb", errno.EINVAL),
    (b"a\n", errno.EINVAL),
    (b"a\0b", errno.EINVAL),
    (b"\xff", errno.EINVAL),
    (b"caf\xe9", errno.EINVAL),
    (b"\xed\xb2\x80", errno.EINVAL),
    (b"n" * 256, errno.ENAMETOOLONG),
    ("é" * 128).encode().ljust(256, b"x"),
]
MALFORMED = [item if isinstance(item, tuple) else (item, errno.ENAMETOOLONG) for item in MALFORMED]
RESERVED = [b".", b".helios", b"latest", b"now", b"parent", b"base"]
GOOD = [
    b"a",
    b"n" * 255,
    "é".encode() * 127,
    b".hidden",
    b"-n",
    b"with blank",
    b"a.b",
    b'"quoted"',
    b"rm",
    b"\x01",
]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_passes_everywhere(name: bytes) -> None:
    assert check_new(name) == check_form(name) == check_itself(name) == name


@pytest.mark.parametrize(("name", "code"), MALFORMED)
def test_a_malformed_name_cannot_be_given(name: bytes, code: int) -> None:
    with pytest.raises(FsError) as caught:
        check_new(name)
    assert caught.value.errno == code
    assert caught.value.reason


@pytest.mark.parametrize("name", RESERVED)
def test_a_reserved_name_cannot_be_given(name: bytes) -> None:
    with pytest.raises(FsError) as caught:
        check_new(name)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("name", [b"latest", b"base"])
def test_what_exists_may_have_a_reserved_name(name: bytes) -> None:
    assert check_form(name) == name


def test_latest_is_nothing_to_remove_or_rename() -> None:
    assert check_itself(b"base") == b"base"
    with pytest.raises(FsError) as caught:
        check_itself(b"latest")
    assert caught.value.errno == errno.EINVAL
