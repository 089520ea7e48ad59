"""name_to_handle_at(2) and open_by_handle_at(2), as a file server uses them: handles outlive caches and deaths."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore, Mounts
from tests.support.remount import forget_all
from tests.support.versions import child, restore, snapshot

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="open_by_handle_at takes CAP_DAC_READ_SEARCH"),
]

_libc = ctypes.CDLL(None, use_errno=True)


class Handle(ctypes.Structure):
    """struct file_handle."""

    _fields_ = (("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_ubyte * 128))


def handle_of(path: Path) -> Handle:
    handle, mount = Handle(bytes=128), ctypes.c_int()
    if _libc.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0) < 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return handle


def seen(point: Path, handle: Handle) -> object:
    """What a handle leads to: a file's content, a directory's names, or why it does not."""
    place = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        descriptor = _libc.open_by_handle_at(place, ctypes.byref(handle), os.O_RDONLY)
        if descriptor < 0:
            return errno.errorcode[ctypes.get_errno()]
    finally:
        os.close(place)
    try:
        if os.path.isdir(descriptor):
            return sorted(os.listdir(descriptor)), os.path.relpath(
                os.readlink(f"/proc/self/fd/{descriptor}"), point
            )
        return os.pread(descriptor, 100, 0)
    finally:
        os.close(descriptor)


def remount(mount: MountedStore) -> None:
    mount.unmount()
    mount.mount()


def take_over(mount: MountedStore) -> None:
    os.kill(mount.worker(), signal.SIGKILL)
    assert mount.status()["restarts"] >= 1


EVENTS: list[Callable[[MountedStore], None]] = [
    lambda mount: None,
    lambda mount: forget_all(mount.point),
    remount,
    take_over,
]


@pytest.fixture
def mount(mounts: Mounts) -> Iterator[MountedStore]:
    with mounts.mounted("kernel") as made:
        yield made


def test_they_stay_valid(mount: MountedStore) -> None:
    point = mount.point
    (point / "a/b").mkdir(parents=True)
    (point / "a/b/f").write_bytes(b"content")
    os.link(point / "a/b/f", point / "twin")
    child(point, "exp").mkdir()
    (child(point, "exp") / "f").write_bytes(b"of exp")
    snapshot(point, "v1").mkdir()
    handles = {
        "a": ((["b"], "a"), handle_of(point / "a")),
        "a/b": ((["f"], "a/b"), handle_of(point / "a/b")),
        "a/b/f": (b"content", handle_of(point / "a/b/f")),
        "the root": ((["a", "twin"], "."), handle_of(point)),
        "a branch's": (b"of exp", handle_of(child(point, "exp") / "f")),
        "a snapshot's": (b"content", handle_of(snapshot(point, "v1") / "a/b/f")),
    }
    for event in EVENTS:
        event(mount)
        for _ in range(2):
            assert {name: seen(point, handle) for name, (_, handle) in handles.items()} == {
                name: expected for name, (expected, _) in handles.items()
            }
            forget_all(point)
    (point / "a").rename(point / "moved")
    forget_all(point)
    assert seen(point, handles["a/b"][1]) == (["f"], "moved/b")


def test_what_was_removed_is_stale(mount: MountedStore) -> None:
    point = mount.point
    for event in EVENTS:
        (point / "d").mkdir()
        (point / "d/f").write_bytes(b"content")
        (point / "held").write_bytes(b"held")
        handles = [handle_of(point / name) for name in ("d", "d/f", "held")]
        with open(point / "held", "rb"):
            (point / "held").unlink()
        (point / "d/f").unlink()
        (point / "d").rmdir()
        for _ in range(2):
            event(mount)
            assert [seen(point, handle) for handle in handles] == ["ESTALE"] * 3
        # The same names lead to other files.
        (point / "held").write_bytes(b"another")
        assert seen(point, handles[2]) == "ESTALE"
        (point / "held").unlink()


def test_a_restore_takes_and_gives_back(mount: MountedStore) -> None:
    point = mount.point
    (point / "f").write_bytes(b"one")
    snapshot(point, "v1").mkdir()
    handle = handle_of(point / "f")
    (point / "f").unlink()
    (point / "g").write_bytes(b"of later")
    later = handle_of(point / "g")
    forget_all(point)
    assert seen(point, handle) == "ESTALE"
    restore(point, b"v1")
    assert seen(point, handle) == b"one"
    assert seen(point, later) == "ESTALE"


def test_through_pyfuse3_they_last_as_long_as_the_kernel_remembers(mounts: Mounts) -> None:
    with mounts.mounted("pyfuse3") as mount:
        (mount.point / "f").write_bytes(b"content")
        handle = handle_of(mount.point / "f")
        assert seen(mount.point, handle) == b"content"
        forget_all(mount.point)
        assert seen(mount.point, handle) == "ESTALE"


def test_control_files_are_not_found_again(mount: MountedStore) -> None:
    handle = handle_of(mount.point / ".helios/status")
    branches = handle_of(mount.point / ".helios/branches")
    forget_all(mount.point)
    assert [seen(mount.point, found) for found in (handle, branches)] == ["ESTALE", "ESTALE"]
