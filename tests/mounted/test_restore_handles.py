"""What a restore does to open files, mappings and current directories of other processes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.otherprocess import OtherProcess
from tests.support.versions import checkpoint, restore

pytestmark = pytest.mark.mounted
Starter = Callable[..., OtherProcess]


def test_a_mapped_file_that_grows_back(branch: Path, other: Starter) -> None:
    """A mapping of a file that had been cut short."""
    (branch / "f").write_bytes(b"abc" * 10000)
    checkpoint(branch, b"v1")
    reader = other()
    mapped = reader.map(branch / "f", 30000, writable=True)
    assert reader.mread(mapped, 29997, 3) == b"abc"
    os.truncate(branch / "f", 0)
    restore(branch, b"v1")
    assert reader.mread(mapped, 29997, 3) == b"abc"


@pytest.mark.parametrize("grows", [True, False])
def test_appending_goes_on_at_the_restored_end(branch: Path, other: Starter, grows: bool) -> None:
    """A process that has a log open for appending and never asks for its size."""
    (branch / "log").write_bytes(b"first\n")
    logger = other()
    descriptor = logger.open(branch / "log", os.O_WRONLY | os.O_APPEND)
    if grows:
        logger.write(descriptor, b"second\n")
        checkpoint(branch, b"v1")
        os.truncate(branch / "log", 1)
    else:
        checkpoint(branch, b"v1")
        logger.write(descriptor, b"second\n")
    restore(branch, b"v1")
    logger.write(descriptor, b"third\n")
    expected = b"first\nsecond\nthird\n" if grows else b"first\nthird\n"
    assert (branch / "log").read_bytes() == expected


def test_stores_through_a_mapping_before_the_restore_are_undone(branch: Path, other: Starter) -> None:
    """Dirty pages are neither lost before the safety snapshot's msync nor do they come back after it."""
    (branch / "f").write_bytes(b"o" * 8192)
    checkpoint(branch, b"v1")
    writer = other()
    mapped = writer.map(branch / "f", 8192, writable=True)
    writer.mwrite(mapped, 5000, b"dirty")
    writer.msync(mapped)
    writer.mwrite(mapped, 0, b"unsynced")
    restore(branch, b"v1")
    assert (branch / "f").read_bytes() in (b"o" * 8192, b"unsynced" + b"o" * 8184)
    restore(branch, b"v1")
    assert (branch / "f").read_bytes() == b"o" * 8192
    assert writer.mread(mapped, 0, 8) == b"oooooooo" and writer.mread(mapped, 5000, 5) == b"ooooo"
    writer.mwrite(mapped, 100, b"after")
    writer.msync(mapped)
    assert (branch / "f").read_bytes()[100:105] == b"after"


def test_unsynced_stores_do_not_come_back_over_the_restored_content(branch: Path, other: Starter) -> None:
    """One byte stored and not synced before a restore must not bring a page of what was before it."""
    (branch / "f").write_bytes(b"a" * 4096)
    checkpoint(branch, b"v1")
    (branch / "f").write_bytes(b"b" * 4096)
    writer = other()
    mapped = writer.map(branch / "f", 4096, writable=True)
    writer.mwrite(mapped, 100, b"unsynced")
    restore(branch, b"v1")
    assert b"b" not in (branch / "f").read_bytes()
    assert (branch / "f").read_bytes() == b"a" * 4096


def test_what_vanishes_is_stale_for_its_holders(branch: Path, other: Starter) -> None:
    """An open file whose inode was linked and is not in the restored tree."""
    checkpoint(branch, b"v1")
    (branch / "new").write_bytes(b"new")
    (branch / "d").mkdir()
    (branch / "d/f").write_bytes(b"f")
    reader = other()
    descriptor = reader.open(branch / "new", os.O_RDWR)
    assert reader.pread(descriptor, 3, 0) == b"new"
    directory = reader.open(branch / "d", os.O_RDONLY)
    restore(branch, b"v1")
    for attempt in (
        lambda: reader.pread(descriptor, 3, 0),
        lambda: reader.pwrite(descriptor, b"x", 0),
        lambda: reader.stat(descriptor),
        lambda: reader.ftruncate(descriptor, 0),
        lambda: reader.listdir(directory),
    ):
        with pytest.raises(OSError) as raised:
            attempt()
        assert raised.value.errno == errno.ESTALE
    assert os.listdir(branch) == []


def test_unlinked_but_open_stays_with_its_process(branch: Path, other: Starter) -> None:
    """A file that the restored tree does not have, unlinked before: its process goes on with it."""
    checkpoint(branch, b"v1")
    (branch / "temporary").write_bytes(b"scratch")
    holder = other()
    descriptor = holder.open(branch / "temporary", os.O_RDWR)
    os.unlink(branch / "temporary")
    restore(branch, b"v1")
    assert holder.pread(descriptor, 7, 0) == b"scratch"
    assert holder.pwrite(descriptor, b"SCR", 0) == 3
    assert holder.pread(descriptor, 7, 0) == b"SCRatch"
    holder.ftruncate(descriptor, 2)
    assert holder.stat(descriptor)["st_size"] == 2 and holder.stat(descriptor)["st_nlink"] == 0
    assert os.listdir(branch) == []


def test_unlinked_but_in_the_restored_tree(branch: Path, other: Starter) -> None:
    """Handles and mappings see the restored content; what was written after the unlink is dropped."""
    (branch / "f").write_bytes(b"kept" * 2000)
    checkpoint(branch, b"v1")
    holder = other()
    descriptor = holder.open(branch / "f", os.O_RDWR)
    mapped = holder.map(branch / "f", 8000, writable=True)
    os.unlink(branch / "f")
    holder.pwrite(descriptor, b"LOST", 0)
    assert holder.stat(descriptor)["st_nlink"] == 0
    restore(branch, b"v1")
    assert (branch / "f").read_bytes() == b"kept" * 2000
    assert holder.pread(descriptor, 8, 0) == b"keptkept" and holder.mread(mapped, 0, 4) == b"kept"
    assert holder.stat(descriptor)["st_nlink"] == 1
    holder.pwrite(descriptor, b"BACK", 4)
    assert (branch / "f").read_bytes()[:12] == b"keptBACKkept"


def test_the_current_directory_of_a_process(branch: Path, other: Starter) -> None:
    """One that was never removed goes on; one that was has to be entered again."""
    (branch / "d").mkdir()
    (branch / "d/f").write_bytes(b"one")
    (branch / "gone").mkdir()
    checkpoint(branch, b"v1")
    stays, left = other(cwd=branch / "d"), other(cwd=branch / "gone")
    (branch / "d/f").write_bytes(b"two")
    os.rmdir(branch / "gone")
    restore(branch, b"v1")
    assert stays.get("f") == b"one"
    left.chdir(branch / "gone")
    left.put("f", b"x")
    assert (branch / "gone/f").read_bytes() == b"x"
