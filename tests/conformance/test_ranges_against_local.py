"""The cases of ranges.py give the same traces on a mount through our own session as on a local filesystem."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.mounts import NOBODY, REPOSITORY, Mounts, run

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="cases run as several users, which takes root"),
]


def test_same_as_local(mounts: Mounts, local: Path) -> None:
    with mounts.mounted("kernel") as mount:
        for uid in (0, NOBODY):
            expected, got = (traces(parent, uid) for parent in (local, mount.point))
            assert expected.keys() == got.keys() and len(expected) > 10
            for name, trace in expected.items():
                assert not trace[-1].startswith("the case itself failed"), trace
                assert got[name] == trace, name


def traces(parent: Path, uid: int) -> dict[str, list[str]]:
    """Case -> trace, in a new directory."""
    directory = Path(tempfile.mkdtemp(dir=parent, prefix="ranges"))
    directory.chmod(0o755)
    words = (sys.executable, "-m", "tests.conformance.runner", "ranges", str(directory), str(uid))
    return dict(json.loads(run(*words, cwd=REPOSITORY, timeout_s=100).stdout))
