"""mountinfo and the knobs of a connection."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliosfs.transport import mounts

MOUNTINFO = rb"""36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
60 36 0:53 / /a\040b\134c\011d rw,nosuid,nodev shared:2 master:9 - fuse.heliosfs /store\040one rw,user_id=0
61 36 0:54 / /x rw - fuse.heliosfs /s1 rw
62 36 0:55 / /x rw - tmpfs none rw
a line of a later kernel
63 36 1:2 / /y rw - fuse.heliosfs /s2 rw
"""


def test_fields_and_escapes() -> None:
    first, second, *_ = mounts.parse_mountinfo(MOUNTINFO)
    assert first == (98, 0, b"/mnt1", b"/mnt2", b"rw,noatime", b"ext3", b"/dev/root")
    assert second.mountpoint == b"/a b\\c\td"
    assert second.source == b"/store one"
    assert second.connection == 53


def test_lines_that_make_no_sense_are_left_out() -> None:
    assert [mount.mountpoint for mount in mounts.parse_mountinfo(MOUNTINFO)][1:] == [
        b"/a b\\c\td",
        b"/x",
        b"/x",
        b"/y",
    ]


def test_the_number_of_a_connection_is_the_whole_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_bytes(MOUNTINFO)
    monkeypatch.setattr(mounts, "MOUNTINFO", str(tmp_path / "mountinfo"))
    found = mounts.mount_at(Path("/y"))
    assert found is not None
    assert found.connection == 1 << 20 | 2


def test_the_uppermost_mount_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_bytes(MOUNTINFO)
    monkeypatch.setattr(mounts, "MOUNTINFO", str(tmp_path / "mountinfo"))
    assert mounts.mount_at(Path("/x")) is None
    above = mounts.mount_at(Path("/x"), None)
    assert above is not None
    assert above.fstype == b"tmpfs"
    assert mounts.mount_at(Path("/nowhere"), None) is None


def test_this_machine_has_a_root() -> None:
    assert mounts.mount_at(Path("/"), None) is not None


def test_tune_writes_what_it_can_and_tells_what_it_can_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    knob = tmp_path / "0:53" / "read_ahead_kb"
    knob.parent.mkdir()
    knob.write_text("128")
    monkeypatch.setattr(mounts, "_BDI", tmp_path)
    monkeypatch.setattr(mounts, "_CONNECTIONS", tmp_path / "absent")
    refused = mounts.tune(mounts.parse_mountinfo(MOUNTINFO)[1])
    assert knob.read_text() == "1024"
    assert len(refused) == 2
    assert "max_background" in refused[0]


def test_abort_of_an_ended_connection_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mounts, "_CONNECTIONS", tmp_path)
    with pytest.raises(FileNotFoundError):
        mounts.abort(53)
    (tmp_path / "53").mkdir()
    (tmp_path / "53" / "abort").write_text("")
    mounts.abort(53)
    assert (tmp_path / "53" / "abort").read_text() == "1"


@pytest.mark.parametrize(
    ("script", "lazy", "expected"),
    [
        ('[ "$*" = "-u -- /m" ]', False, None),
        ('[ "$*" = "-u -z -- /m" ]', True, None),
        ("echo 'entry for /m not found' >&2; exit 1", False, "entry for /m not found"),
        ("exit 3", False, "fusermount3 exits with 3"),
    ],
)
def test_users_unmount_through_fusermount(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, lazy: bool, expected: str | None
) -> None:
    program = tmp_path / "fusermount3"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(mounts.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mounts.shutil, "which", lambda name: str(program) if name == "fusermount3" else None)
    assert mounts.unmount_once(Path("/m"), lazy=lazy) == expected


def test_without_fusermount_users_hear_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mounts.shutil, "which", lambda name: None)
    assert mounts.unmount_once(Path("/m"), lazy=False) == "fusermount3 is not installed"


def test_root_unmounts_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts.os, "geteuid", lambda: 0)
    assert mounts.unmount_once(tmp_path, lazy=True) in ("Invalid argument", "Operation not permitted")
