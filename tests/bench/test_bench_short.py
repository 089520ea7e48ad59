"""The benchmark's short form: every step runs, and the work behind every figure is right. No times are judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 280


@pytest.mark.mounted
@pytest.mark.timeout(300)
def test_short_form_verifies_every_figure(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run(
        (sys.executable, "-m", "tests.bench", "--short", "--json", report, "--dir", tmp_path),
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": os.fspath(_ROOT)},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["faults"] == []
    assert [row["name"] for row in found["figures"] if not row["verified"]] == []
    cells = [cell for row in found["workload"]["seconds"].values() for cell in row.values()]
    assert all(cell["verified"] and cell["seconds"] for cell in cells)
    # Every part has given figures: a part that measures nothing is no success.
    for part in (
        "LIB checkpoint",
        "LIB fork",
        "LIB restore",
        "LIB persist",
        "LIB deduplication",
        "LIB first byte",
        "LIB 400 files",
    ):
        assert any(row["name"].startswith(part) for row in found["figures"]), part
    for part in (
        "checkpoint",
        "fork",
        "mixed",
        "git status",
        "restore",
        "fsync",
        "stat",
        "import",
        "PSS",
        "memory",
        "mount of",
    ):
        assert any(row["name"].startswith(f"MNT {part}") for row in found["figures"]), part
    asked = {row["name"]: row["value"] for row in found["figures"] if row["name"].startswith("requests: ")}
    assert asked["requests: stat, warm [default]"] == 0 < asked["requests: untar [trusted]"]
    assert done.returncode == 0, done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert os.fspath(tmp_path) not in Path("/proc/self/mountinfo").read_text()
