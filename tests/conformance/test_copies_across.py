"""Copies between branches, within one mount and between two, compared step by step with a local filesystem."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import Mounts, heliosfs, run, wait_until

pytestmark = pytest.mark.mounted

LONGEST = 300_000
STEPS = 80


@contextmanager
def opened(*paths: Path) -> Iterator[list[int]]:
    """All of them, for reading and writing."""
    with ExitStack() as stack:
        descriptors = []
        for path in paths:
            descriptors.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))
            stack.callback(os.close, descriptors[-1])
        yield descriptors


def outcome(source: int, at: int, target: int, to: int, length: int) -> int:
    """What copy_file_range(2) copies in all, a part at a time; or minus its errno."""
    copied = 0
    while copied < length:
        try:
            part = os.copy_file_range(source, target, length - copied, at + copied, to + copied)
        except OSError as error:
            return -(error.errno or 0)
        if not part:
            break
        copied += part
    return copied


def holes(descriptor: int) -> list[int]:
    """Where data and holes begin, alternately; blocks that are all zeros may be either."""
    found, at, size = [], 0, os.fstat(descriptor).st_size
    while at < size:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            break
        at = os.lseek(descriptor, data, os.SEEK_HOLE)
        assert at > data
        found += [data, at]
    return found


def whole(descriptor: int) -> bytes:
    return os.pread(descriptor, 4 * LONGEST, 0)


def compare(dice: random.Random, ours: tuple[Path, ...], theirs: tuple[Path, ...], *, holes_too: bool) -> None:
    """The same writes, truncations, holes and copies on both sides; equal after each."""
    with opened(*ours) as here, opened(*theirs) as there:
        for _ in range(STEPS):
            source, target = dice.randrange(len(here)), dice.randrange(len(here))
            at, to, length = (dice.randrange(LONGEST) for _ in range(3))
            if dice.random() < 0.5:
                at, to, length = (number // 4096 * 4096 for number in (at, to, length))
            action = dice.choice(("copy", "copy", "copy", "write", "truncate"))
            if action == "copy":
                got = [outcome(side[source], at, side[target], to, length) for side in (here, there)]
                assert got[0] == got[1], (source, at, target, to, length)
            elif action == "write":
                data = dice.randbytes(length // 8)
                assert [os.pwrite(side[target], data, to) for side in (here, there)] == [len(data)] * 2
            else:
                for side in (here, there):
                    os.ftruncate(side[target], to)
            assert os.fstat(here[target]).st_size == os.fstat(there[target]).st_size
            assert whole(here[target]) == whole(there[target]), (action, at, to, length)
            if holes_too:
                # What our holes promise is true: nothing but zeros lies outside of what is called data.
                content, at_ = whole(here[target]), 0
                for begin, end in zip(*[iter(holes(here[target]))] * 2, strict=True):
                    assert not any(content[at_:begin])
                    at_ = end
                assert not any(content[at_:])


def test_between_branches_of_one_mount(mounts: Mounts, scratch: Path, dice: random.Random) -> None:
    with mounts.mounted("kernel") as mount:
        for name in ("a", "b"):
            (mount.point / ".helios/branches" / name).mkdir()
            (scratch / name).mkdir()
        places = [mount.point, *(mount.point / ".helios/branches" / name for name in ("a", "b"))]
        ours = tuple(place / "f" for place in places)
        theirs = tuple(place / "f" for place in (scratch, scratch / "a", scratch / "b"))
        compare(dice, ours, theirs, holes_too=True)
        (mount.point / ".helios/checkpoint").write_bytes(b"v1")
        before = [path.read_bytes() for path in ours]
    assert before == [path.read_bytes() for path in theirs]


def test_between_two_mountpoints(mounts: Mounts, scratch: Path, dice: random.Random) -> None:
    """Two superblocks: the kernel moves the data itself."""
    with mounts.mounted("kernel") as mount:
        (mount.point / ".helios/branches/exp").mkdir()
        other = mount.base / "other"
        other.mkdir()
        heliosfs("mount", mount.store, other, "-o", "branch=main/exp,transport=kernel")
        try:
            compare(dice, (mount.point / "f", other / "g"), (scratch / "f", scratch / "g"), holes_too=False)
        finally:
            heliosfs("umount", other)


def test_cp_moves_no_data(mounts: Mounts) -> None:
    """cp(1), of a file of 32 MiB, within a branch and to another: references alone."""
    with mounts.mounted("kernel", "debug=requests") as mount:
        data = os.urandom(1 << 20) * 32
        (mount.point / "f").write_bytes(data)
        (mount.point / ".helios/branches/b").mkdir()
        assert not (mount.point / ".begin").exists()
        for target in ("g", ".helios/branches/b/g"):
            run("cp", "--reflink=auto", mount.point / "f", mount.point / target)
        assert not (mount.point / ".end").exists()
        wait_until(lambda: 'LOOKUP 1 ".end" =' in mount.said(), "the last request in the log")
        said = mount.said().partition('LOOKUP 1 ".begin" =')[2].partition('LOOKUP 1 ".end" =')[0]
        assert said.count("COPY_FILE_RANGE_64") == 2
        assert " READ " not in said and " WRITE " not in said
        for target in ("g", ".helios/branches/b/g"):
            assert (mount.point / target).read_bytes() == data
