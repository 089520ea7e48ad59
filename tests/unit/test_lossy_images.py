"""What the filesystem that loses what was not synced keeps and loses: the power-loss tests rest on it."""

from __future__ import annotations

import itertools
import random
import stat

import pytest

from tests.support.lossy.faults import Rule
from tests.support.lossy.images import How, Image, Losses


def directory(number: int = 1) -> Image:
    return Image(number, stat.S_IFDIR | 0o755)


def file_in(parent: Image, name: bytes, number: int = 2) -> Image:
    made = Image(number, stat.S_IFREG | 0o644, links=0)
    parent.rename((name, made))
    return made


def cut(root: Image, how: How, seed: int = 1) -> tuple[Image, Losses]:
    losses = Losses()
    return root.after_cut(how, random.Random(seed), itertools.count(100), losses), losses


def test_nothing_unsynced_survives_the_worst_cut() -> None:
    root = directory()
    file = file_in(root, b"f")
    file.write(0, b"synced")
    file.sync()
    root.sync()
    file.write(2, b"XX")
    file.truncate(3)
    file_in(root, b"g", 3)
    root.rename((b"f", None), (b"h", file))
    found, losses = cut(root, "lost")
    assert {name: bytes(below.data) for name, below in found.names.items()} == {b"f": b"synced"}
    assert (losses.writes, losses.names) == (2, 2)
    assert found.names[b"f"].number >= 100


def test_syncing_a_new_file_does_not_sync_its_name() -> None:
    root = directory()
    file = file_in(root, b"f")
    file.write(0, b"data")
    file.sync()
    assert cut(root, "lost")[0].names == {}


def test_ordered_survivors_are_the_first_ones() -> None:
    seen = set()
    for seed in range(40):
        root = directory()
        file = file_in(root, b"f")
        root.sync()
        for at in range(4):
            file.write(at, b"%d" % at)
        seen.add(bytes(cut(root, "ordered", seed)[0].names[b"f"].data))
    assert seen == {b"", b"0", b"01", b"012", b"0123"}


def test_reordered_survivors_leave_zeros_between() -> None:
    seen = set()
    for seed in range(80):
        root = directory()
        file = file_in(root, b"f")
        root.sync()
        file.write(0, b"a")
        file.write(1, b"b")
        seen.add(bytes(cut(root, "reordered", seed)[0].names[b"f"].data))
    assert seen == {b"", b"a", b"\0b", b"ab"}


def test_torn_writes_break_at_sectors() -> None:
    for seed in range(60):
        root = directory()
        file = file_in(root, b"f")
        root.sync()
        file.write(100, b"\1" * 3000)
        data = bytes(cut(root, "torn", seed)[0].names[b"f"].data)
        edges = [at for at in range(1, len(data)) if data[at] != data[at - 1]]
        assert all(at % 512 == 0 or at in (100, 3100) for at in edges), edges


def test_names_survive_in_their_order_alone() -> None:
    for seed in range(40):
        root = directory()
        file_in(root, b"a", 2)
        file_in(root, b"b", 3)
        names = cut(root, "reordered", seed)[0].names
        assert b"a" in names or not names


def test_a_rename_survives_whole_or_not_at_all() -> None:
    for seed in range(40):
        root = directory()
        old = file_in(root, b"new", 2)
        root.sync()
        root.rename((b"new", None), (b"name", old))
        assert len(cut(root, "reordered", seed)[0].names) == 1


@pytest.mark.parametrize(
    ("times", "expected"), [(0, [False, False, True, True, True]), (2, [False, False, True, True, False])]
)
def test_rules_count(times: int, expected: list[bool]) -> None:
    rule = Rule("write", "log/*", skip=2, times=times, errno=5)
    assert not rule.meets("write", "db/1") and not rule.meets("fsync", "log/1")
    assert [rule.meets("write", "log/1") for _ in range(5)] == expected
    assert rule.hit == sum(expected)
