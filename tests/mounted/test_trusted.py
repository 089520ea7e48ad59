"""`-o permissions=trusted`: no modes are checked, but what asks about them, or depends on them, gets the truth."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliosfs.core import acl
from tests.support.mounts import MountedStore, Mounts

pytestmark = pytest.mark.mounted

EMPTY_GROUP = bytes.fromhex("02000000 01000600ffffffff 04000000ffffffff 20000000ffffffff")
USER_5 = bytes.fromhex(
    "02000000 01000700ffffffff 0200070005000000 04000400ffffffff 10000700ffffffff 20000000ffffffff"
)
"""Access lists. Source: acl(5)."""


@pytest.fixture(scope="module")
def shared(mounts: Mounts) -> Iterator[MountedStore]:
    with mounts.mounted("kernel", "permissions=trusted") as mounted:
        yield mounted


def test_access_tells_a_program_from_a_text(branch: Path) -> None:
    text, program = branch / "text", branch / "program"
    for path in (text, program):
        path.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    assert os.access(text, os.R_OK | os.W_OK) and not os.access(text, os.X_OK)
    assert os.access(program, os.X_OK)
    text.chmod(0o000)
    assert os.access(text, os.R_OK), "root may"
    for name, said in (("program", b"ran\n"), ("text", b"")):
        done = subprocess.run(["sh", "-c", f"PATH=. {name}"], cwd=branch, stdout=subprocess.PIPE, timeout=30)
        assert done.stdout == said


def test_a_default_list_stands_in_for_the_umask(branch: Path) -> None:
    os.setxattr(branch, acl.DEFAULT, EMPTY_GROUP)
    (branch / "f").write_text("x")
    assert stat.S_IMODE((branch / "f").stat().st_mode) == 0o600


def test_a_list_changes_the_mode_that_is_seen(branch: Path) -> None:
    path = branch / "f"
    path.write_text("x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    os.setxattr(path, acl.ACCESS, USER_5)
    assert stat.S_IMODE(path.stat().st_mode) == 0o770
