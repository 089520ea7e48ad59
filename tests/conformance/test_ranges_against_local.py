"""Copies, allocation, holes and files without a name through our own session, compared with a local filesystem."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.mutating import Twins
from tests.conformance.runner import OF_OUR_OWN_SESSION
from tests.support.mounts import NOBODY, REPOSITORY, MountedStore, Mounts, run

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="cases run as several users, which takes root"),
]


@pytest.fixture(scope="module")
def mount(mounts: Mounts) -> Iterator[MountedStore]:
    with mounts.mounted("kernel") as made:
        yield made


@pytest.mark.parametrize("uid", [0, NOBODY], ids=["root", "nobody"])
@pytest.mark.parametrize("group", sorted(OF_OUR_OWN_SESSION))
def test_same_as_local(mount: MountedStore, local: Path, group: str, uid: int) -> None:
    expected, got = (traces(parent, group, uid) for parent in (local, mount.point))
    assert expected.keys() == got.keys() and len(expected) > 3
    for name, trace in expected.items():
        assert not trace[-1].startswith("the case itself failed"), trace
        assert "did not end" not in trace[-1]
        assert got[name] == trace, name


def traces(parent: Path, group: str, uid: int) -> dict[str, list[str]]:
    """Case -> trace, in a new directory."""
    directory = Path(tempfile.mkdtemp(dir=parent, prefix=group))
    directory.chmod(0o755)
    words = (sys.executable, "-m", "tests.conformance.runner", group, str(directory), str(uid))
    return dict(json.loads(run(*words, cwd=REPOSITORY, timeout_s=100).stdout))


@pytest.mark.parametrize("round_", range(3))
def test_random_sequences(mount: MountedStore, scratch: Path, dice: random.Random, round_: int) -> None:
    """Every kind of change, by write(2), by ranges, by a mapping, in any order: equal after each."""
    with Twins(mount.point / f"twin{round_}", scratch / "twin", dice) as twins:
        for step in range(150):
            twins.step()
            if step % 50 == 25:
                (mount.point / ".helios/checkpoint").touch()
            if step % 50 == 40:
                # What follows works on what was stored.
                assert os.getxattr(mount.point, "user.helios.root")
