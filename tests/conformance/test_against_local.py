"""Every case gives the same trace on the mount as on the directory's own filesystem, as root and as nobody."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conformance.runner import OF_OUR_OWN_SESSION, load_all
from tests.support.mounts import NOBODY, REPOSITORY, MountedStore, run

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="cases run as several users, which takes root"),
]

ALL = [
    pytest.param(found.group, found.name, uid, id=f"{found.group}-{found.name}-{'nobody' if uid else 'root'}")
    for found in sorted(load_all(), key=lambda found: (found.group, found.name))
    for uid in (0, NOBODY)
    if not (uid and found.root_only) and found.group not in OF_OUR_OWN_SESSION
]
"""All but those of one transport, which test_ranges_against_local.py runs."""


@pytest.fixture(scope="module")
def traces(shared: MountedStore, local: Path) -> Iterator[object]:
    """Runs a group in a directory of the mount and in a local one, once; gives case -> trace for both."""

    @cache
    def both(group: str, uid: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        found = []
        for parent in (local, shared.point):
            directory = Path(tempfile.mkdtemp(dir=parent, prefix=group))
            directory.chmod(0o755)
            words = (sys.executable, "-m", "tests.conformance.runner", group, str(directory), str(uid))
            found.append(json.loads(run(*words, cwd=REPOSITORY, timeout_s=100).stdout))
        return found[0], found[1]

    yield both


@pytest.mark.parametrize(("group", "name", "uid"), ALL)
def test_same_as_local(traces: object, group: str, name: str, uid: int) -> None:
    """One case."""
    assert callable(traces)
    expected, got = traces(group, uid)
    assert expected[name], "the case recorded nothing"
    assert "did not end" not in expected[name][-1]
    assert not expected[name][-1].startswith("the case itself failed"), expected[name]
    pairs = zip(expected[name], got[name], strict=False)
    differences = [f"local: {one}\nmount: {two}" for one, two in pairs if one != two]
    assert not differences, "\n".join(differences)
    assert len(got[name]) == len(expected[name])
