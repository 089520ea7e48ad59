"""`-o cache=shared`: one page cache for equal content, and what a file's opens mean for each other."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore, Mounts, run

pytestmark = pytest.mark.mounted
_BYTES = 256 << 10


@pytest.fixture(scope="module")
def shared(mounts: Mounts) -> Iterator[MountedStore]:
    with mounts.mounted("kernel", "cache=shared") as mounted:
        yield mounted


def stored(branch: Path, name: str, content: bytes) -> Path:
    """A file whose content is in chunks."""
    path = branch / name
    path.write_bytes(content)
    assert os.getxattr(branch, "user.helios.root")
    return path


def backing(mounted: MountedStore) -> list[str]:
    directory = mounted.store / "backing"
    return os.listdir(directory) if directory.is_dir() else []


def test_forks_read_one_file(shared: MountedStore, branch: Path) -> None:
    content = os.urandom(_BYTES)
    stored(branch, "f", content)
    before = len(backing(shared))
    for number in range(4):
        fork = branch / f".helios/branches/fork-{number}"
        fork.mkdir()
        assert (fork / "f").read_bytes() == content
    assert len(backing(shared)) == before + 1


def test_a_mapping_and_a_program_are_read_through(branch: Path) -> None:
    content = os.urandom(_BYTES)
    path = stored(branch, "f", content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert hashlib.sha256(view).digest() == hashlib.sha256(content).digest()
    program = stored(branch, "sh", Path("/bin/sh").read_bytes())
    program.chmod(0o755)
    assert os.getxattr(branch, "user.helios.root")
    assert (
        subprocess.run([program, "-c", "echo ran"], capture_output=True, timeout=30, check=True).stdout == b"ran\n"
    )


def test_a_writer_beside_a_reader_writes_and_reads_what_it_wrote(branch: Path) -> None:
    path = stored(branch, "f", b"a" * _BYTES)
    reader = os.open(path, os.O_RDONLY)
    assert os.pread(reader, 4, 0) == b"aaaa"
    writer = os.open(path, os.O_RDWR)
    assert os.pwrite(writer, b"bbbb", 0) == 4
    assert os.pread(writer, 6, 0) == b"bbbbaa"
    # Who opens it now sees the present content; the old handle keeps what it was opened on.
    with path.open("rb") as again:
        assert again.read(6) == b"bbbbaa"
    assert os.pread(reader, 4, 0) == b"aaaa"
    os.close(writer)
    os.close(reader)
    assert path.read_bytes() == b"bbbb" + b"a" * (_BYTES - 4)


def test_append_truncate_and_rewrite(branch: Path) -> None:
    path = stored(branch, "f", b"a" * _BYTES)
    with path.open("rb") as held:
        assert held.read(1) == b"a"
        with path.open("ab") as file:
            file.write(b"tail")
        assert path.stat().st_size == _BYTES + 4
        os.truncate(path, _BYTES // 2)
        assert path.read_bytes() == b"a" * (_BYTES // 2)
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_a_file_that_is_open_for_writing_is_read_through_the_filesystem(shared: MountedStore, branch: Path) -> None:
    path = stored(branch, "f", b"a" * _BYTES)
    writer = os.open(path, os.O_RDWR)
    reader = os.open(path, os.O_RDONLY)
    os.pwrite(writer, b"b", 0)
    assert os.pread(reader, 2, 0) == b"ba"
    with mmap.mmap(writer, _BYTES) as view:
        view[1:2] = b"c"
        assert os.pread(reader, 3, 0) == b"bca"
    os.close(reader)
    os.close(writer)


def test_after_a_restore_the_file_is_the_restored_one(branch: Path) -> None:
    path = stored(branch, "f", b"a" * _BYTES)
    (branch / ".helios/checkpoint").write_text("before\n")
    path.write_bytes(b"b" * _BYTES)
    assert os.getxattr(branch, "user.helios.root")
    held = os.open(path, os.O_RDONLY)
    assert os.pread(held, 1, 0) == b"b"
    (branch / ".helios/restore").write_text("before\n")
    assert path.read_bytes() == b"a" * _BYTES
    os.close(held)
    assert path.read_bytes() == b"a" * _BYTES


def test_snapshots_are_read_through_and_refuse_writers_at_open(branch: Path) -> None:
    stored(branch, "f", b"a" * _BYTES)
    (branch / ".helios/checkpoint").write_text("s\n")
    path = branch / ".helios/snapshots/s/f"
    assert path.read_bytes() == b"a" * _BYTES
    with pytest.raises(OSError) as raised:
        os.open(path, os.O_RDWR)
    assert raised.value.errno == errno.EROFS


def test_control_files_answer_as_ever(branch: Path) -> None:
    (branch / ".helios/checkpoint").touch()
    assert b'"ok":true' in (branch / ".helios/checkpoint").read_bytes().replace(b" ", b"")
    descriptor = os.open(branch / ".helios/ctl", os.O_RDWR)
    os.write(descriptor, b"status\n")
    assert b"status" in os.pread(descriptor, 65536, 0)
    os.close(descriptor)


def test_git_and_sqlite_work(branch: Path) -> None:
    script = """
    git init -q . && git config user.email a@b && git config user.name a
    for i in $(seq 60); do head -c 100000 /dev/urandom > f$i; done
    git add -A && git commit -qm all && git gc -q && git fsck --strict 2>&1
    for i in $(seq 60); do head -c 100000 /dev/urandom > f$i; done
    git checkout -q -- . && git status --porcelain
    sqlite3 db 'create table t (a); insert into t select randomblob(1000) from generate_series(1, 500);'
    sqlite3 db 'pragma integrity_check; select count(*) from t;'
    """
    assert run("sh", "-ec", script, cwd=branch).stdout.split() == ["ok", "500"]


def test_an_unlinked_file_is_read_to_its_end(branch: Path) -> None:
    content = os.urandom(_BYTES)
    path = stored(branch, "f", content)
    with path.open("rb") as file:
        path.unlink()
        assert file.read() == content
