"""The witness of the demonstration: it must see every kind of difference."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from heliosfs.cli.demo import _edit
from heliosfs.cli.trees import differences, read_tree


def build(root: Path) -> None:
    (root / "d" / "e").mkdir(parents=True)
    (root / "f").write_bytes(b"content" * 1000)
    (root / "g").write_bytes(b"")
    (root / "d" / "h").write_bytes(b"other")
    os.link(root / "d" / "h", root / "d" / "i")
    os.symlink("f", root / "l")
    os.mkfifo(root / "p")
    for path in (root / "f", root / "g", root / "d" / "h", root / "p", root / "d" / "e", root / "d", root):
        os.utime(path, ns=(1, 1_600_000_000_000_000_001))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[bytes, Path]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        build(tmp_path / name)
        os.utime(tmp_path / name / "l", ns=(1, 1), follow_symlinks=False)
    return os.fsencode(tmp_path / "one"), tmp_path / "two"


def test_equal_trees_are_equal(pair: tuple[bytes, Path]) -> None:
    one, two = read_tree(pair[0]), read_tree(os.fsencode(pair[1]))
    assert differences(one, two) == []
    assert (one.files, one.read_bytes) == (4, 7010)
    assert set(one.facts) == {b".", b"d", b"d/e", b"d/h", b"d/i", b"f", b"g", b"l", b"p"}


def keep_times(path: Path, act: Callable[[], object]) -> None:
    """Act, and put the times back, so that only what the act changed differs."""
    before = path.lstat().st_mtime_ns
    act()
    os.utime(path, ns=(1, before), follow_symlinks=False)


def unlink_and_copy(root: Path) -> None:
    (root / "d" / "i").unlink()
    shutil.copy2(root / "d" / "h", root / "d" / "i")
    os.utime(root / "d", ns=(1, 1_600_000_000_000_000_001))


@pytest.mark.parametrize(
    ("act", "path"),
    [
        (lambda root: keep_times(root / "f", lambda: (root / "f").write_bytes(b"Content" * 1000)), b"f"),
        (lambda root: keep_times(root / "g", lambda: (root / "g").write_bytes(b"x")), b"g"),
        (lambda root: (root / "f").chmod(0o600), b"f"),
        (lambda root: os.utime(root / "f", ns=(1, 2)), b"f"),
        (lambda root: os.utime(root / "d" / "e", ns=(1, 2)), b"d/e"),
        (lambda root: keep_times(root, (root / "p").unlink), b"p"),
        (lambda root: keep_times(root, (root / "new").touch), b"new"),
        (unlink_and_copy, b"d/i"),
    ],
)
def test_each_difference_is_seen(pair: tuple[bytes, Path], act: Callable[[Path], object], path: bytes) -> None:
    act(pair[1])
    assert path in differences(read_tree(pair[0]), read_tree(os.fsencode(pair[1])))


def test_the_same_edits_make_equal_trees(pair: tuple[bytes, Path]) -> None:
    assert _edit(pair[0]) == _edit(os.fsencode(pair[1]))
    assert differences(read_tree(pair[0]), read_tree(os.fsencode(pair[1]))) == []
    assert (pair[1] / "f").read_bytes().endswith(b"# appended\n")
    assert not (pair[1] / "g").exists()
    assert (pair[1] / "edited.txt").exists()
