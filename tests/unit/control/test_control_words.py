"""Splitting a line into words, and options apart from arguments."""

from __future__ import annotations

import errno

import pytest

from heliosfs.control.words import as_bytes, one_line, options_apart, split
from heliosfs.core.errors import FsError


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"checkpoint v1", [b"checkpoint", b"v1"]),
        (b"  checkpoint\t v1  ", [b"checkpoint", b"v1"]),
        (b"checkpoint 'my name'", [b"checkpoint", b"my name"]),
        (b'restore v1 "a \\"b\\""', [b"restore", b"v1", b'a "b"']),
        (b"restore v1 a\\ b", [b"restore", b"v1", b"a b"]),
        (b"checkpoint ''", [b"checkpoint", b""]),
        (b"checkpoint #1", [b"checkpoint", b"#1"]),
        (b"restore v1 \xff\xe9", [b"restore", b"v1", b"\xff\xe9"]),
        ("checkpoint prüfung".encode(), [b"checkpoint", "prüfung".encode()]),
        (b"$HOME *", [b"$HOME", b"*"]),
        (b"", []),
    ],
)
def test_words_are_a_shells(line: bytes, words: list[bytes]) -> None:
    assert split(line) == words


@pytest.mark.parametrize("line", [b"checkpoint 'v1", b'checkpoint "v1', b"checkpoint v1\\", b"a\nb", b"'a\nb'"])
def test_what_cannot_be_split_is_invalid(line: bytes) -> None:
    with pytest.raises(FsError) as caught:
        split(line)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.reason


def test_only_the_newline_of_echo_is_stripped() -> None:
    assert one_line(b"v1\n") == b"v1"
    assert one_line(b"v1") == b"v1"
    assert one_line(b"v1\n\n") == b"v1\n"
    assert one_line(b"") == b""


def test_text_becomes_the_bytes_it_came_from() -> None:
    assert as_bytes(["restore", "\udcff"]) == [b"restore", b"\xff"]
    assert as_bytes([b"restore", b"\xff"]) == [b"restore", b"\xff"]


@pytest.mark.parametrize(
    ("words", "arguments", "options"),
    [
        ([b"a", b"--from", b"s"], [b"a"], {b"--from": b"s"}),
        ([b"--from", b"s", b"a"], [b"a"], {b"--from": b"s"}),
        ([b"--from=s", b"a"], [b"a"], {b"--from": b"s"}),
        ([b"--from=", b"a"], [b"a"], {b"--from": b""}),
        ([b"-n", b"5"], [], {b"-n": b"5"}),
        ([b"--", b"--from", b"-n"], [b"--from", b"-n"], {}),
        ([b"-"], [b"-"], {}),
    ],
)
def test_options_stand_anywhere(words: list[bytes], arguments: list[bytes], options: dict[bytes, bytes]) -> None:
    assert options_apart(words, (b"--from", b"-n"), "x") == (arguments, options)


@pytest.mark.parametrize("words", [[b"--to", b"s"], [b"--from"], [b"--from", b"a", b"--from", b"b"], [b"-x"]])
def test_a_wrong_option_is_invalid_and_tells_the_usage(words: list[bytes]) -> None:
    with pytest.raises(FsError) as caught:
        options_apart(words, (b"--from",), "branch NAME")
    assert caught.value.errno == errno.EINVAL
    assert "branch NAME" in caught.value.reason
