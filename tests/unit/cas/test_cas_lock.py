"""The store's lock: exclusive, released by death, and telling who holds it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cas.errors import StoreLocked
from cas.lock import StoreLock, is_held, left_in_order


def test_a_second_one_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = StoreLock(path)
    with pytest.raises(StoreLocked) as caught:
        StoreLock(path)
    assert caught.value.path == path
    assert caught.value.pid == os.getpid()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lock.close()
    lock.close()
    StoreLock(path).close()


def test_what_the_last_holder_says_of_its_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = StoreLock(path)
    assert not left_in_order(path)
    lock.close(in_order=True)
    assert left_in_order(path)
    lock = StoreLock(path)
    assert not left_in_order(path)
    assert path.read_bytes() == b"%d\n" % os.getpid()
    lock.close()
    assert not left_in_order(path)


def test_a_holder_that_left_no_pid(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = StoreLock(path)
    path.write_bytes(b"")
    with pytest.raises(StoreLocked) as caught:
        StoreLock(path)
    assert caught.value.pid is None
    lock.close()


def test_what_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StoreLock(tmp_path / "absent" / "lock")


def test_no_space_for_the_pid_is_no_reason_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    StoreLock(tmp_path / "lock").close(in_order=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        lock = StoreLock(tmp_path / "lock")
    assert not left_in_order(tmp_path / "lock")
    with pytest.raises(StoreLocked) as caught:
        StoreLock(tmp_path / "lock")
    assert caught.value.pid is None
    lock.close()


def test_death_gives_it_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import sys; from pathlib import Path; from cas.lock import StoreLock;"
        "lock = StoreLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            with pytest.raises(StoreLocked) as caught:
                StoreLock(path)
            assert caught.value.pid == process.pid
        finally:
            process.kill()
            process.wait(10)
    StoreLock(path).close()


def test_who_asks_does_not_take_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    lock = StoreLock(path)
    assert is_held(path)
    lock.close()
    assert not is_held(path)
