"""Directories that may or may not be mountpoints, and mounts in the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cas.lock import StoreLock
from heliosfs.daemon import mountpoint as mountpoints
from heliosfs.daemon.errors import FAILED, UNSTORED, DaemonError
from heliosfs.transport.mounts import FILESYSTEM_TYPE, Mount


def mount(fstype: bytes = FILESYSTEM_TYPE, source: bytes = b"/a%20store") -> Mount:
    return Mount(0, 53, b"/", b"/x", b"rw", fstype, source)


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    link = tmp_path / "link"
    (tmp_path / "dir").mkdir()
    link.symlink_to("dir")
    assert mountpoints.prepare(link) == (tmp_path / "dir").resolve()


def test_it_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="No such file") as caught:
        mountpoints.prepare(tmp_path / "absent")
    assert caught.value.exit_code == 1


def test_it_must_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DaemonError, match="not a directory"):
        mountpoints.prepare(tmp_path / "file")


def test_it_must_be_empty_or_be_meant(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(DaemonError, match="'something'"):
        mountpoints.prepare(tmp_path)
    assert mountpoints.prepare(tmp_path, nonempty=True) == tmp_path.resolve()


def test_a_live_mount_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpoints, "mount_at", lambda path, fstype=b"": mount())
    with pytest.raises(DaemonError, match="/a store is mounted there already"):
        mountpoints.prepare(tmp_path)


def test_a_mount_whose_daemon_has_given_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpoints, "mount_at", lambda path, fstype=b"": mount())
    monkeypatch.setattr(mountpoints, "_stat_errno", lambda path: errno.EIO)
    with pytest.raises(DaemonError, match="/a store is mounted there, and answers EIO; unmount it first"):
        mountpoints.prepare(tmp_path)


def test_a_mount_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpoints, "mount_at", lambda path, fstype=b"": mount(b"fuse.other"))
    monkeypatch.setattr(mountpoints, "_stat_errno", lambda path: None)
    with pytest.raises(DaemonError, match="does not answer"):
        mountpoints.prepare(tmp_path)


def test_dead_mounts_are_removed_one_above_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = [mount(), mount(b"fuse.other")]
    removed: list[bool] = []

    def unmount_once(path: Path, *, lazy: bool) -> None:
        removed.append(lazy)
        stack.pop()

    monkeypatch.setattr(mountpoints, "mount_at", lambda path, fstype=b"": stack[-1] if stack else None)
    monkeypatch.setattr(mountpoints, "_stat_errno", lambda path: errno.ENOTCONN)
    monkeypatch.setattr(mountpoints, "unmount_once", unmount_once)
    assert mountpoints.is_stale(tmp_path)
    assert mountpoints.prepare(tmp_path) == tmp_path.resolve()
    assert removed == [True, True]
    assert not mountpoints.is_stale(tmp_path)


def test_a_dead_mount_that_stays_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpoints, "mount_at", lambda path, fstype=b"": mount())
    monkeypatch.setattr(mountpoints, "_stat_errno", lambda path: errno.ENOTCONN)
    monkeypatch.setattr(mountpoints, "unmount_once", lambda path, *, lazy: "not yours")
    with pytest.raises(DaemonError, match="dead mount that can't be removed: not yours"):
        mountpoints.prepare(tmp_path)


def test_unmounting_what_is_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="nothing of heliosfs is mounted"):
        mountpoints.unmount(tmp_path)


def test_a_busy_mount_says_who_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpoints, "mount_at", lambda path, fstype=b"": mount(source=os.fsencode(tmp_path)))
    monkeypatch.setattr(mountpoints, "unmount_once", lambda path, *, lazy: "Device or resource busy")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(DaemonError, match=rf"in use by .*\({os.getpid()}\)"):
            mountpoints.unmount(tmp_path)
    finally:
        os.close(descriptor)


def test_a_mount_that_is_busy_for_a_moment_is_unmounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at all mounts, or at descriptors of all processes, holds each of them just then."""
    answers: list[str | None] = [os.strerror(errno.EBUSY), os.strerror(errno.EBUSY), None]
    monkeypatch.setattr(mountpoints, "mount_at", lambda path: mount())
    monkeypatch.setattr(mountpoints, "unmount_once", lambda path, lazy: answers.pop(0))
    mountpoints.unmount(tmp_path)
    assert answers == []


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StoreLock]:
    """A store's lock, with a mount of it whose unmounting works; `held` says who has the store at each look."""
    monkeypatch.setattr(mountpoints, "mount_at", lambda path: mount(source=os.fsencode(tmp_path)))
    monkeypatch.setattr(mountpoints, "unmount_once", lambda path, lazy: None)
    # It would be this process.
    monkeypatch.setattr(mountpoints, "_processes_of", lambda store: [])

    def make(held: Callable[[], bool] = lambda: False) -> StoreLock:
        monkeypatch.setattr(mountpoints, "is_held", lambda path: held())
        return StoreLock(tmp_path / "lock")

    return make


def test_an_end_in_good_order_is_believed(tmp_path: Path, ended: Callable[..., StoreLock]) -> None:
    ended().close(in_order=True)
    mountpoints.unmount(tmp_path)


def test_an_end_without_good_order_is_told(tmp_path: Path, ended: Callable[..., StoreLock]) -> None:
    """Its supervisor had given up, or the daemon died, or could not store: exit 15, though it is unmounted."""
    ended().close()
    with pytest.raises(
        DaemonError, match=r"is unmounted, but .* not stored yet: .*; nothing acknowledged is lost"
    ) as caught:
        mountpoints.unmount(tmp_path)
    assert caught.value.exit_code == UNSTORED and "\n" not in caught.value.message
    mountpoints.unmount(tmp_path, lazy=True)


def test_who_goes_on_with_the_store_is_waited_for(tmp_path: Path, ended: Callable[..., StoreLock]) -> None:
    """A worker has died in the middle of it, and the next one stores what there is."""

    def looks() -> Iterator[bool]:
        yield True
        lock.close(in_order=True)
        yield False

    held = looks()
    lock = ended(lambda: next(held))
    mountpoints.unmount(tmp_path)


def test_who_goes_on_for_too_long_is_told(tmp_path: Path, ended: Callable[..., StoreLock]) -> None:
    ended(lambda: True)
    with pytest.raises(DaemonError, match="still writes") as caught:
        mountpoints.unmount(tmp_path, timeout_s=0.05)
    assert caught.value.exit_code == FAILED


def test_who_has_mounted_it_anew_is_not_waited_for(
    tmp_path: Path, ended: Callable[..., StoreLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    table: list[Mount] = []

    def held() -> bool:
        table.append(mount(source=os.fsencode(tmp_path)))
        return True

    monkeypatch.setattr(mountpoints, "mounts", lambda: table)
    ended(held)
    mountpoints.unmount(tmp_path)


def test_holders_sees_this_process(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with open(tmp_path / "f"):
        assert any(f"({os.getpid()})" in holder for holder in mountpoints.holders(tmp_path, mount()))
    assert not any(f"({os.getpid()})" in holder for holder in mountpoints.holders(tmp_path, mount()))


def test_a_source_is_decoded() -> None:
    assert mountpoints.store_of(mount(source=b"/a b%2cc%25%ff")) == b"/a b,c%\xff"
