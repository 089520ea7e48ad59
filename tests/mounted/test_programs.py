"""Stock programs, unchanged: git, SQLite, tar, rsync, a compiler, pip, exec."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import REPOSITORY, fill, run, shell, signature, wait_until
from tests.support.otherprocess import OtherProcess
from tests.support.versions import checkpoint, child, restore, snapshot

pytestmark = pytest.mark.mounted

GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(directory: Path, *words: str) -> str:
    """Run git with a configuration of its own."""
    safe = ("-c", "safe.directory=*", "-c", "gc.auto=0")
    return run("git", *safe, *words, cwd=directory, env=GIT).stdout


def make_repository(directory: Path) -> None:
    """This repository's own sources, committed."""
    directory.mkdir(exist_ok=True)
    for name in ("heliosfs", "cas"):
        shutil.copytree(REPOSITORY / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(directory, "init", "-q", "-b", "main")
    git(directory, "add", ".")
    git(directory, "commit", "-q", "-m", "one")


def test_git(branch: Path) -> None:
    """init, add, commit, status, branch, checkout, merge, stash, gc, fsck, clone, worktree."""
    repository = branch / "repository"
    make_repository(repository)
    assert git(repository, "status", "--porcelain") == ""
    git(repository, "checkout", "-q", "-b", "side")
    (repository / "cas/new.py").write_text("x = 1\n")
    (repository / "cas/codec.py").write_text("changed = True\n")
    assert git(repository, "status", "--porcelain").split() == ["M", "cas/codec.py", "??", "cas/new.py"]
    git(repository, "stash", "-u")
    git(repository, "stash", "pop")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "two")
    git(repository, "checkout", "-q", "main")
    assert not (repository / "cas/new.py").exists()
    (repository / "README").write_text("main\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "three")
    git(repository, "merge", "-q", "-m", "merged", "side")
    git(repository, "gc", "-q", "--prune=now")
    assert git(repository, "fsck", "--strict", "--full").strip() in ("", "notice: HEAD points to an unborn branch")
    git(branch, "clone", "-q", "repository", "cloned")
    assert git(branch / "cloned", "log", "--oneline").count("\n") == 4
    git(repository, "worktree", "add", "-q", "../tree", "side")
    assert git(branch / "tree", "status", "--porcelain") == ""
    git(repository, "repack", "-adq")
    git(repository, "reset", "-q", "--hard", "HEAD~1")
    assert git(repository, "status", "--porcelain") == ""


def test_git_status_in_a_fork(branch: Path) -> None:
    """Clean, without reading what has not changed: the index stays as it is, byte for byte."""
    make_repository(branch)
    git(branch, "status")
    index = (branch / ".git/index").read_bytes()
    checkpoint(branch, b"v1")
    child(branch, "exp").mkdir()
    fork = child(branch, "exp")
    assert git(fork, "status", "--porcelain") == ""
    # Only a stat mismatch would make git hash files again and write a refreshed index.
    assert (fork / ".git/index").read_bytes() == index
    trace = run("git", "-c", "safe.directory=*", "diff-files", "--raw", cwd=fork, env=GIT).stdout
    assert trace == ""
    assert git(fork, "ls-files", "-m") == ""
    (fork / "cas/codec.py").write_text("changed\n")
    assert git(fork, "status", "--porcelain").split() == ["M", "cas/codec.py"]
    assert git(branch, "status", "--porcelain") == ""
    git(fork, "commit", "-qam", "in the fork")
    assert git(branch, "log", "--oneline").count("\n") == 1
    # Optional locks off: git must not need to write where nothing can be written.
    held = snapshot(branch, "v1")
    assert (
        run("git", "-c", "safe.directory=*", "--no-optional-locks", "status", "--porcelain", cwd=held).stdout == ""
    )


def test_git_after_a_restore(branch: Path) -> None:
    """The repository goes back with everything else and is whole."""
    make_repository(branch)
    checkpoint(branch, b"v1")
    for number in range(3):
        (branch / f"f{number}").write_text("x")
        git(branch, "add", "-A")
        git(branch, "commit", "-q", "-m", f"c{number}")
    git(branch, "gc", "-q")
    restore(branch, b"v1")
    assert git(branch, "log", "--oneline").count("\n") == 1
    assert git(branch, "status", "--porcelain") == ""
    git(branch, "fsck", "--strict")


@pytest.mark.parametrize("mode", ["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY"])
def test_sqlite(branch: Path, other: Callable[..., OtherProcess], mode: str) -> None:
    """Transactions of two connections, a rollback, a vacuum, a check; a snapshot in the middle opens as well."""
    path = branch / "data.db"
    one, two = (sqlite3.connect(path, timeout=20, isolation_level=None) for _ in range(2))
    try:
        assert one.execute(f"PRAGMA journal_mode={mode}").fetchone()[0].upper() == mode
        for connection in (one, two):
            connection.execute("PRAGMA synchronous=FULL")
        one.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        for number in range(40):
            connection = one if number % 2 else two
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO t (text) VALUES (?)", ("x" * 500 + str(number),))
            connection.execute("ROLLBACK" if number % 10 == 9 else "COMMIT")
            if number == 20:
                checkpoint(branch, b"middle")
        assert one.execute("SELECT count(*) FROM t").fetchone() == (36,)
        one.execute("VACUUM")
        for connection in (one, two):
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        one.close()
        two.close()
    fork = child(branch, "exp")
    os.setxattr(snapshot(branch, "middle"), b"user.helios.branch", b"exp")
    reopened = sqlite3.connect(fork / "data.db")
    assert reopened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert reopened.execute("SELECT count(*) FROM t").fetchone() in ((19,), (20,))
    reopened.close()


def test_sqlite_between_processes(branch: Path) -> None:
    """Four writers at once, waiting for each other's locks."""
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect('data.db', timeout=50, isolation_level=None)\n"
        "c.execute('PRAGMA journal_mode=WAL')\n"
        "for i in range(25):\n"
        "    c.execute('BEGIN IMMEDIATE')\n"
        "    n = c.execute('SELECT n FROM t').fetchone()[0]\n"
        "    c.execute('UPDATE t SET n = ?', (n + 1,))\n"
        "    c.execute('COMMIT')\n"
    )
    (branch / "work.py").write_text(script)
    connection = sqlite3.connect(branch / "data.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (n INTEGER)")
    connection.execute("INSERT INTO t VALUES (0)")
    shell(f"for i in 1 2 3 4; do {sys.executable} work.py & done; wait", branch)
    assert connection.execute("SELECT n FROM t").fetchone() == (100,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_tar(branch: Path, scratch: Path) -> None:
    """In and out with everything: xattrs, hard links, holes, devices, owners, nanoseconds."""
    fill(scratch)
    expected = signature(scratch)
    words = "--xattrs --xattrs-include='*' --sparse --format=posix --numeric-owner"
    shell(f"tar -C {scratch} {words} -cf - . | tar {words} -xpf -", branch)
    assert signature(branch) == expected
    (scratch / "back").mkdir()
    shell(f"tar {words} -cf - . | tar -C {scratch}/back {words} -xpf -", branch)
    found = signature(scratch / "back")
    assert found == expected
    assert os.stat(branch / "sparse").st_blocks < 1000


def test_rsync(branch: Path, scratch: Path) -> None:
    """There and back; the second time there is nothing to do."""
    fill(scratch)
    expected = signature(scratch)
    words = ("rsync", "-aHAXS", "--numeric-ids", "--delete") + (
        ("--devices", "--specials") if not os.geteuid() else ()
    )
    run(*words, f"{scratch}/", f"{branch}/")
    assert signature(branch) == expected
    assert run(*words, "-n", "-i", f"{scratch}/", f"{branch}/").stdout == ""
    # rsync takes times in one second for equal; these are none.
    shell("rm -r dir0; echo changed > file1; chmod 700 file2; touch -d @1000000001.5 file1 .", scratch)
    run(*words, f"{scratch}/", f"{branch}/")
    assert signature(branch) == signature(scratch)
    assert run(*words, "-n", "-i", "-c", f"{branch}/", f"{scratch}/").stdout == ""


def test_cp_mv_and_others(branch: Path, scratch: Path) -> None:
    """coreutils on a tree of every kind."""
    (branch / "tree").mkdir()
    fill(branch / "tree")
    shell("cp -a tree copy; diff -r --no-dereference -x null -x fifo tree copy; mv copy moved", branch)
    assert signature(branch / "moved") == signature(branch / "tree")
    shell("cp -al tree links", branch)
    shell(f"mv tree {scratch}/out; mv {scratch}/out back; rm -rf moved links", branch)
    assert sorted(os.listdir(branch)) == ["back"]
    shell("find back -type f -exec sha256sum {} + | sha256sum; du -s back; df .; sync; sync -f .", branch)
    shell("install -m 755 back/dir0/run.sh tool; ./tool; ln -sf tool l; ln -f tool h; shred -u h", branch)
    shell(
        "for i in 1 2 3; do echo line$i >> log; done; sed -i s/line/Line/ log; sort -o log log; split -l 1 log",
        branch,
    )
    assert (branch / "xaa").read_text() == "Line1\n"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_compiling_and_running(branch: Path) -> None:
    """A compiler reads and writes, the program is mapped and run, a library loaded."""
    (branch / "lib.c").write_text("int answer(void) { return 42; }\n")
    (branch / "main.c").write_text(
        '#include <stdio.h>\nint answer(void);\nint main(void) { printf("%d\\n", answer()); return 0; }\n'
    )
    shell(
        "gcc -g -shared -fPIC -o libanswer.so lib.c; gcc -O1 -o main main.c -L. -lanswer -Wl,-rpath,'$ORIGIN'",
        branch,
    )
    assert run(branch / "main").stdout == "42\n"
    checkpoint(branch, b"v1")
    (branch / "lib.c").write_text("int answer(void) { return 43; }\n")
    shell("gcc -shared -fPIC -o libanswer.so lib.c; ar rc lib.a libanswer.so; strip main", branch)
    assert run(branch / "main").stdout == "43\n"
    assert run(snapshot(branch, "v1") / "main").stdout == "42\n"


def test_a_running_program_cannot_be_written(branch: Path) -> None:
    """ETXTBSY, as Linux gives it; replaced by rename it can be."""
    shutil.copy("/bin/sleep", branch / "sleep")
    process = subprocess.Popen([branch / "sleep", "60"])
    try:
        wait_until(lambda: os.readlink(f"/proc/{process.pid}/exe").endswith("/sleep"), "the program to run")
        with pytest.raises(OSError) as raised:
            os.open(branch / "sleep", os.O_WRONLY)
        assert raised.value.errno == 26
        shutil.copy("/bin/true", branch / "new")
        os.rename(branch / "new", branch / "sleep")
        assert process.poll() is None
        run(branch / "sleep")
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.timeout(150)
def test_pip_installs_a_wheel_into_an_environment(branch: Path, scratch: Path) -> None:
    """venv and pip on the mount, from a wheel made here, without a network."""
    package = scratch / "package"
    (package / "hello_wheel").mkdir(parents=True)
    (package / "hello_wheel/__init__.py").write_text("def greet():\n    return 'hello'\n")
    info = package / "hello_wheel-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hello-wheel\nVersion: 1.0\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    names = ("hello_wheel/__init__.py", "hello_wheel-1.0.dist-info/METADATA", "hello_wheel-1.0.dist-info/WHEEL")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in (*names, "hello_wheel-1.0.dist-info/RECORD")))
    wheel = scratch / "hello_wheel-1.0-py3-none-any.whl"
    shutil.make_archive(os.fspath(scratch / "wheel"), "zip", package)
    os.rename(scratch / "wheel.zip", wheel)
    run(sys.executable, "-m", "venv", "--without-pip", branch / "env")
    python = branch / "env/bin/python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        wheel,
        timeout_s=120,
    )
    assert run(python, "-c", "import hello_wheel; print(hello_wheel.greet())").stdout == "hello\n"
    checkpoint(branch, b"installed")
    run(sys.executable, "-m", "pip", "--python", python, "uninstall", "-q", "-y", "hello-wheel", timeout_s=120)
    assert run(python, "-c", "import hello_wheel", check=False).returncode == 1
    restore(branch, b"installed")
    assert run(python, "-c", "import hello_wheel; print(hello_wheel.greet())").stdout == "hello\n"


def test_python_on_the_mount(branch: Path) -> None:
    """Imports with byte code written and found again, multiprocessing's files, temporary files."""
    (branch / "package").mkdir()
    (branch / "package/__init__.py").write_text("VALUE = 1\n")
    for _ in range(2):
        words = (sys.executable, "-c", "import package; print(package.VALUE)")
        assert run(*words, cwd=branch, env={"PYTHONDONTWRITEBYTECODE": ""}).stdout == "1\n"
    assert list((branch / "package/__pycache__").iterdir())
    script = (
        "import tempfile as t; f = t.TemporaryFile(dir='.'); f.write(b'x' * 9**5); f.seek(0); print(len(f.read()))"
    )
    assert run(sys.executable, "-c", script, cwd=branch).stdout == "59049\n"
    assert sorted(os.listdir(branch)) == ["package"]
