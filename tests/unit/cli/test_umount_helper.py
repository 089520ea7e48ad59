"""umount(8)'s calling convention."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliosfs.cli.helping import FAILED, USAGE
from heliosfs.cli.umount_helper import Request, main, read_words


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (["/m"], Request(b"/m", False, False, False)),
        (["/m", "-n", "-v", "-r", "-t", "fuse.heliosfs"], Request(b"/m", False, False, True)),
        (["-l", "/m", "-N", "/proc/7/ns/mnt"], Request(b"/m", True, False, False)),
        (["-nfl", "-tfuse.heliosfs", "/m"], Request(b"/m", True, True, False)),
    ],
)
def test_words_of_umount(words: list[str], request_: Request) -> None:
    assert read_words(words) == request_


@pytest.mark.parametrize("words", [[], ["/m", "/x"], ["/m", "-t"], ["/m", "-q"]])
def test_bad_words_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("umount.fuse.heliosfs: ")
    assert err.count("\n") == 1


def test_what_is_not_mounted_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == FAILED
    assert "nothing of heliosfs" in capsys.readouterr().err
