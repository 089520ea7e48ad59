"""Access control lists over versions: the kernel caches them, and must not after a restore."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from tests.support.mounts import NOBODY, MountedStore, run
from tests.support.versions import control

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="another user's access takes root"),
]
ACCESS = b"system.posix_acl_access"


def readable_by(uid: int) -> bytes:
    """A list that lets one more user read."""
    entries = ((0x01, 6, -1), (0x02, 4, uid), (0x04, 0, -1), (0x10, 4, -1), (0x20, 0, -1))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def nobody_reads(path: Path) -> bool:
    return run("cat", path.name, cwd=path.parent, user=NOBODY, check=False).returncode == 0


def test_restores_and_snapshots_bring_the_lists_of_then(shared: MountedStore, branch: Path) -> None:
    path = branch / "f"
    path.write_bytes(b"x")
    path.chmod(0o600)
    assert not nobody_reads(path)
    (control(branch) / "checkpoint").write_text("closed")
    os.setxattr(path, ACCESS, readable_by(NOBODY))
    assert nobody_reads(path)
    (control(branch) / "checkpoint").write_text("shared")
    os.removexattr(path, ACCESS)
    path.chmod(0o600)
    assert not nobody_reads(path)
    for name, readable in (("shared", True), ("closed", False), ("shared", True)):
        (control(branch) / "restore").write_text(name)
        assert nobody_reads(path) is readable
        assert (ACCESS.decode() in os.listxattr(path)) is readable
    assert os.getxattr(path, ACCESS) == readable_by(NOBODY)
