"""Forks of one repository, each edited by its own process in its own container at the same time: no cross-talk."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.mounts import REPOSITORY, MountedStore, run, signature
from tests.support.versions import checkpoint, child, control, snapshot, snapshots

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
]

FORKS = int(os.environ.get("HELIOSFS_TEST_FORKS", "20"))
"""100 in the long form."""

SCRIPT = """
set -eu
cd /workspace
test "$(ls /workspace/.helios/branches)" = ""
test ! -e /workspace/../secret
for i in 1 2 3 4 5; do
    echo "agent $1 edit $i" >> heliosfs/__init__.py
    echo "agent $1" > "new-$i"
    mv "new-$i" "cas/new-$i"
    touch .helios/checkpoint
done
rm cas/codec.py
echo "named-$1" > .helios/checkpoint
git -c safe.directory='*' add -A
git -c safe.directory='*' -c user.name=a -c user.email=a@example.org commit -qm "agent $1"
echo "after $1" > last
"""


def container(view: Path, script: str, *words: str) -> subprocess.Popen[bytes]:
    """A shell in a sandbox that sees only one branch, as /workspace."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    for directory in ("/usr", "/bin", "/lib", "/lib64", "/etc"):
        if os.path.exists(directory):
            command += ["--ro-bind", directory, directory]
    command += ["--bind", os.fspath(view), "/workspace", "--chdir", "/workspace"]
    return subprocess.Popen(
        [*command, "/bin/bash", "-c", script, "agent", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.timeout(300)
def test_forks_in_containers(fresh: MountedStore) -> None:
    """Every fork has exactly its own edits; the branch they came from has none; so has each snapshot."""
    point = fresh.point
    for name in ("heliosfs", "cas"):
        shutil.copytree(REPOSITORY / name, point / name, ignore=shutil.ignore_patterns("__pycache__"))
    git = ("git", "-c", "safe.directory=*", "-c", "user.name=a", "-c", "user.email=a@example.org")
    run(*git, "init", "-q", cwd=point)
    run(*git, "add", ".", cwd=point)
    run(*git, "commit", "-qm", "one", cwd=point)
    checkpoint(point, b"start")
    before = signature(point)
    original = (point / "heliosfs/__init__.py").read_text()
    processes = []
    for number in range(FORKS):
        child(point, f"agent-{number}").mkdir()
        processes.append(container(child(point, f"agent-{number}"), SCRIPT, str(number)))
    for number, process in enumerate(processes):
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, (number, output.decode(errors="replace"))
    assert signature(point) == before
    assert snapshots(point) == ["start"]
    for number in range(FORKS):
        fork = child(point, f"agent-{number}")
        edits = "".join(f"agent {number} edit {turn}\n" for turn in range(1, 6))
        assert (fork / "heliosfs/__init__.py").read_text() == original + edits
        assert sorted(name for name in os.listdir(fork / "cas") if name.startswith("new")) == [
            f"new-{turn}" for turn in range(1, 6)
        ]
        assert all((fork / f"cas/new-{turn}").read_text() == f"agent {number}\n" for turn in range(1, 6))
        assert not (fork / "cas/codec.py").exists()
        assert (fork / "last").read_text() == f"after {number}\n"
        assert len(snapshots(fork)) == 7 and f"named-{number}" in snapshots(fork)
        held = snapshot(fork, f"named-{number}")
        assert not (held / "last").exists() and (held / "cas/new-5").read_text() == f"agent {number}\n"
        assert signature(snapshot(fork, "base")) == before
        assert run(*git, "log", "--format=%s", cwd=fork).stdout == f"agent {number}\none\n"
    for number in range(0, FORKS, 2):
        os.rmdir(child(point, f"agent-{number}"))
    assert len(os.listdir(control(point, "branches"))) == FORKS // 2
    fresh.unmount()
    assert fresh.check() == []


def test_a_container_can_restore_what_it_wrecked(branch: Path) -> None:
    """From within: rm -rf of everything, then one line."""
    (branch / "d").mkdir()
    for number in range(20):
        (branch / f"d/f{number}").write_bytes(os.urandom(2000))
    before = signature(branch)
    script = 'touch .helios/checkpoint; rm -rf ./*; test -z "$(ls)"; echo latest > .helios/restore; test -e d/f19'
    process = container(branch, script)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert signature(branch) == before
