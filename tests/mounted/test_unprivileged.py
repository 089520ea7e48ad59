"""Mounts by somebody who is not root: through fusermount3, which passes the descriptor, and in a user namespace.

Each runs in namespaces of its own, and every process ends with them. /dev/fuse is one that everybody may open, as
udev makes it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mounts import NOBODY, TIMEOUT_S, run

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="to become somebody else takes root"),
]

PREPARED = """
    set -eu
    base=$1 python=$2
    mknod "$base/fuse" c 10 229
    chmod 666 "$base/fuse"
    mount --bind "$base/fuse" /dev/fuse
    cd "$base"
    export HOME=$base
"""
_NOBODY = f"exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups "
AS = {
    "fusermount": _NOBODY + 'bash -euc "$3" bash "$python" "$4"',
    "user namespace": _NOBODY + 'unshare --user --map-root-user --mount bash -euc "$3" bash "$python" "$4"',
}
WORK = """
    python=$1 transport=$2
    helios() { "$python" -m heliosfs "$@" </dev/null; }
    mkdir mnt
    helios init store >/dev/null
    helios mount store mnt -o transport=$transport
    head -c 300000 /dev/urandom > data
    cp data mnt/data
    cmp data mnt/data
    mkdir mnt/d && ln mnt/data mnt/d/link && mkfifo mnt/d/fifo && setfattr -n user.colour -v blue mnt/data
    touch mnt/.helios/checkpoint
    test "$(stat -c %h mnt/data)" = 2
    test "$(ls mnt/.helios/snapshots | wc -l)" = 2
    if test $transport = kernel; then
        exec 5<mnt/data
        kill -9 $(sed 's/.*"worker_pid":\\([0-9]*\\).*/\\1/' mnt/.helios/status)
        cmp data /proc/self/fd/5
        exec 5<&-
        grep -q '"restarts":1' mnt/.helios/status
    fi
    cp mnt/data mnt/again
    echo latest > mnt/.helios/restore
    test ! -e mnt/again
    cmp data mnt/data
    grep -q "$PWD/mnt .* fuse.heliosfs" /proc/self/mountinfo
    helios umount mnt
    test -z "$(ls mnt)"
    helios fsck store >/dev/null
    test -z "$(grep ERROR store/daemon.log)"
    echo all is well
"""
REFUSED = """
    python=$1
    mkdir mnt
    "$python" -m heliosfs init store </dev/null >/dev/null
    for options in $2; do
        code=0
        "$python" -m heliosfs mount store mnt -o $options </dev/null 2>&1 || code=$?
        echo "exit $code"
    done
    ! grep "$PWD/mnt" /proc/self/mountinfo
"""


def alone(base: Path, script: str, identity: str, word: str = "") -> subprocess.CompletedProcess[str]:
    """A script of somebody's, in namespaces of its own."""
    os.chown(base, NOBODY, NOBODY)
    namespaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    return run(
        *namespaces,
        "bash",
        "-c",
        PREPARED + AS[identity],
        "bash",
        base,
        sys.executable,
        script,
        word,
        timeout_s=TIMEOUT_S,
    )


@pytest.mark.parametrize("identity", sorted(AS))
def test_everything_works(scratch: Path, transport: str, identity: str) -> None:
    done = alone(scratch, WORK, identity, transport)
    assert done.stdout.endswith("all is well\n"), done.stdout


def test_what_is_refused(scratch: Path) -> None:
    """Nobody but root lets others in unchecked; the kernel passes reads through for root of the machine alone."""
    options = "permissions=trusted,allow_other cache=shared"
    said = alone(scratch, REFUSED, "fusermount", options).stdout.splitlines()
    assert said[1::2] == ["exit 2", "exit 1"]
    assert "permissions=trusted" in said[0] and "cache=shared needs root" in said[2]


def test_root_of_a_namespace_is_not_the_machines(scratch: Path) -> None:
    """(His allow_other lets in who is in his namespace, and so his.)"""
    said = alone(scratch, REFUSED, "user namespace", "cache=shared").stdout.splitlines()
    assert said[-1] == "exit 1" and "cache=shared needs root" in said[-2]
