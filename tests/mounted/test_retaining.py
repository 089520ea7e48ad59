"""`heliosfs retention` and its mount options on a live mount."""

from __future__ import annotations

import json

import pytest

from tests.support.mounts import MountedStore, Mounts, heliosfs

pytestmark = pytest.mark.mounted


def ask(mounted: MountedStore, *words: str) -> dict[str, object]:
    reply = json.loads(heliosfs("-C", mounted.point, *words, "--json").stdout)
    assert isinstance(reply, dict) and reply["ok"]
    return reply


def test_snapshots_go_by_policy_and_the_rest_stays(fresh: MountedStore) -> None:
    control = fresh.point / ".helios"
    (control / "snapshots" / "mine").mkdir()
    for number in range(6):
        (fresh.point / "f").write_text(str(number))
        (control / "checkpoint").touch()
    fresh.wait_durable()
    made = sorted(path.name for path in (control / "snapshots").iterdir() if path.name not in ("latest", "mine"))
    assert len(made) == 6
    assert (control / "snapshots" / made[0] / "f").read_text() == "0"
    assert ask(fresh, "retention", "--keep-last", "2", "--dry-run")["removed"] == made[:4]
    assert ask(fresh, "retention", "--keep-last", "2")["removed"] == made[:4]
    left = sorted(path.name for path in (control / "snapshots").iterdir())
    assert left == sorted([*made[4:], "mine", "latest"])
    with pytest.raises(FileNotFoundError):
        (control / "snapshots" / made[0] / "f").read_text()
    assert "keep last 2" in heliosfs("-C", fresh.point, "retention").stdout
    assert heliosfs("-C", fresh.point, "retention", "--keep-last", "0", check=False).returncode in (1, 2)
    fresh.kill_daemon()
    fresh.mount()
    assert (fresh.point / "f").read_text() == "5"
    policy = ask(fresh, "retention")["policy"]
    assert isinstance(policy, dict) and policy["keep_last"] == 2
    assert ask(fresh, "retention", "--clear")["policy"] is None


def test_a_policy_and_manual_collections_by_mount_option(mounts: Mounts, transport: str) -> None:
    with mounts.mounted(transport, "retention=last:3+daily:7+match:v*,gc=manual") as mounted:
        policy = ask(mounted, "retention")["policy"]
        assert policy == {"keep_last": 3, "hourly": 0, "daily": 7, "weekly": 0, "match": "v*"}
