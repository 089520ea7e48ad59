"""The store's directory: made whole or not at all, opened by one, never mistaken for another."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heliosfs.storage.errors import (
    StoreAbsent,
    StoreDamaged,
    StoreExists,
    StoreLocked,
    StoreNewer,
    StoreOccupied,
)
from heliosfs.storage.layout import StoreLayout

DEADLINE_S = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    StoreLayout.create(path).close()
    return path


def test_made_private_and_opened_again_with_the_same_id(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "store"
    made = StoreLayout.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    made.close()
    opened = StoreLayout.open(path)
    assert len(bytes.fromhex(opened.store_id)) == 16
    assert opened.store_id == made.store_id
    opened.close()


def test_format_file_is_as_documented(store: Path) -> None:
    opened = StoreLayout.open(store)
    assert (store / "format").read_text() == f"heliosfs store\nversion 0\nid {opened.store_id}\n"
    opened.close()


def test_empty_directory_becomes_a_store_and_loses_its_wide_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    StoreLayout.create(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_store_is_not_made_twice(store: Path) -> None:
    before = (store / "format").read_bytes()
    with pytest.raises(StoreExists):
        StoreLayout.create(store)
    assert (store / "format").read_bytes() == before


@pytest.mark.parametrize("name", ["README", "log/mine", "packs/mine", "db/mine"])
def test_directory_with_other_things_in_it_is_left_alone(tmp_path: Path, name: str) -> None:
    entry = tmp_path / name
    entry.parent.mkdir(exist_ok=True)
    entry.write_text("mine")
    tmp_path.chmod(0o755)
    with pytest.raises(StoreOccupied) as caught:
        StoreLayout.create(tmp_path)
    assert caught.value.entry in name
    assert not StoreLayout.is_store(tmp_path)
    assert entry.read_text() == "mine"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_creation_that_was_killed_can_be_repeated(tmp_path: Path) -> None:
    for name in ("log", "packs", "db"):
        (tmp_path / name).mkdir()
    (tmp_path / "lock").touch()
    (tmp_path / "format.new").write_text("helios")
    StoreLayout.create(tmp_path).close()
    StoreLayout.open(tmp_path).close()


def test_absent(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(StoreAbsent):
            StoreLayout.open(path)
        assert not (path / "lock").exists()


def test_second_opener_is_told_who_has_it(store: Path) -> None:
    opened = StoreLayout.open(store)
    with pytest.raises(StoreLocked) as caught:
        StoreLayout.open(store)
    assert caught.value.pid == os.getpid()
    opened.close()
    opened.close()
    StoreLayout.open(store).close()


def test_lock_dies_with_its_process(store: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from heliosfs.storage.layout import StoreLayout\n"
        "held = StoreLayout.open(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, os.fspath(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreLocked) as caught:
            StoreLayout.open(store)
        assert caught.value.pid == holder.pid
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=DEADLINE_S)
    StoreLayout.open(store).close()


def test_who_goes_on_waits_for_a_program_that_the_dead_was_about_to_start(store: Path) -> None:
    opened = StoreLayout.open(store)
    child = os.fork()
    if not child:
        # Between fork and exec it has all descriptors; on a busy machine for some time.
        time.sleep(0.3)
        os._exit(0)
    opened.close()
    try:
        with pytest.raises(StoreLocked):
            StoreLayout.open(store)
        StoreLayout.open(store, again=True).close()
    finally:
        os.waitpid(child, 0)


def test_newer_version(store: Path) -> None:
    text = (store / "format").read_text().replace("version 0", "version 7")
    (store / "format").write_text(text)
    with pytest.raises(StoreNewer) as caught:
        StoreLayout.open(store)
    assert (caught.value.version, caught.value.path) == (7, store)
    assert (store / "format").read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"heliosfs store\n",
        b"heliosfs store\nversion x\nid 00\n",
        b"something\nversion 0\nid 00\n",
        b"heliosfs store\nversion 0\n",
        b"heliosfs store\nversion 0\nid 12\n",
        b"heliosfs store\nversion -1\nid " + b"0" * 32 + b"\n",
        b"\xff\xfe",
    ],
)
def test_damaged_format_file(store: Path, text: bytes) -> None:
    (store / "format").write_bytes(text)
    with pytest.raises(StoreDamaged):
        StoreLayout.open(store)


@pytest.mark.parametrize("name", ["log", "packs", "db"])
def test_missing_directory_is_damage_and_gives_the_lock_back(store: Path, name: str) -> None:
    (store / name).rmdir()
    for _ in range(2):
        with pytest.raises(StoreDamaged, match=name):
            StoreLayout.open(store)


def test_database_keeps_what_was_put(store: Path) -> None:
    opened = StoreLayout.open(store)
    opened.open_db()[b"r/x"] = b"value"
    assert opened.open_db() is opened.open_db()
    opened.close()
    opened = StoreLayout.open(store)
    assert opened.open_db()[b"r/x"] == b"value"
    opened.close()


def test_database_that_is_gone_is_damage_not_an_empty_store(store: Path) -> None:
    opened = StoreLayout.open(store)
    opened.open_db()
    opened.close()
    (store / "log" / "seg-0001").touch()
    shutil.rmtree(store / "db")
    (store / "db").mkdir()
    opened = StoreLayout.open(store)
    with pytest.raises(StoreDamaged, match="database"):
        opened.open_db()
    assert os.listdir(store / "db") == []
    opened.close()


def test_database_that_rocksdb_refuses_is_damage(store: Path) -> None:
    opened = StoreLayout.open(store)
    opened.open_db()
    opened.close()
    (store / "db" / "CURRENT").write_bytes(b"nonsense\n")
    opened = StoreLayout.open(store)
    with pytest.raises(StoreDamaged, match="database"):
        opened.open_db()
    opened.close()


def test_a_store_that_others_could_enter_is_made_private(tmp_path: Path) -> None:
    StoreLayout.create(tmp_path / "store").close()
    (tmp_path / "store").chmod(0o755)
    StoreLayout.open(tmp_path / "store").close()
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
