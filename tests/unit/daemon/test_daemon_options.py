"""Mount options on their way to the daemon, and errors on their way back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from heliosfs.core.errors import Damaged, FsError
from heliosfs.daemon.errors import DaemonError, daemon_error
from heliosfs.daemon.options import MountOptions
from heliosfs.storage.errors import StoreAbsent, StoreDamaged, StoreError, StoreLocked, StoreNewer
from heliosfs.transport.errors import MountRefused

STORE = Path("/s")


def test_options_arrive_as_they_were() -> None:
    sent = MountOptions(
        branch=os.fsdecode(b"main/\xff"),
        flags=("ro", "allow_other"),
        control_visible=True,
        nonempty=True,
        memory_bytes=1 << 27,
        commit_s=0.5,
    )
    assert MountOptions.from_json(sent.to_json()) == sent
    assert MountOptions.from_json("{}") == MountOptions()


@pytest.mark.parametrize("text", ["", "[]", '{"unknown": 1}', "7"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        MountOptions.from_json(text)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreAbsent(STORE), 10),
        (StoreLocked(STORE, 7), 11),
        (StoreDamaged(STORE, "no refs"), 12),
        (StoreNewer(STORE, 9), 13),
        (StoreError(STORE, "odd"), 1),
        (MountRefused(STORE, "fuse: device /dev/fuse not found, try 'modprobe fuse' first"), 14),
        (MountRefused(STORE, "fuse: failed to exec fusermount3: No such file or directory"), 14),
        (MountRefused(STORE, "fusermount3: user has no write access to mountpoint /x"), 1),
        (Damaged("c0ffee"), 12),
        (FsError(errno.ENOENT, "no branch x"), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (DaemonError(13, "as it is"), 13),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    found = daemon_error(error)
    assert found is not None
    assert found.exit_code == code
    assert found.message
    assert "\n" not in found.message


def test_bugs_are_not_explained_away() -> None:
    assert daemon_error(KeyError("bug")) is None
