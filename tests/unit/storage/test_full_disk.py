"""A disk that fills up, by us or by others: refusals where they belong, a way out, and nothing lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support import smalldisk
from tests.support.mounts import REPOSITORY, run


@pytest.mark.parametrize("scenario", sorted(smalldisk.SCENARIOS))
def test_a_disk_of_64_mib(scenario: str) -> None:
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    run(*namespace, sys.executable, "-m", "tests.support.smalldisk", scenario, "64m", cwd=Path(REPOSITORY))
