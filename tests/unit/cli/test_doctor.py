"""doctor: each finding on machines that lack something, and what --install links."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from heliosfs.cli import doctor
from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.main import main


def test_a_missing_device(tmp_path: Path) -> None:
    finding = doctor.check_device(str(tmp_path / "fuse"))
    assert (finding.ok, finding.needed, finding.found) == (False, True, "missing")
    assert "modprobe fuse" in finding.mend


def test_a_device_for_root_alone_is_a_note(tmp_path: Path) -> None:
    device = tmp_path / "fuse"
    device.touch(mode=0o600)
    finding = doctor.check_device(str(device))
    assert (finding.ok, finding.needed) == (False, False)
    device.chmod(0o666)
    assert doctor.check_device(str(device)).ok


def test_allow_other_is_read_without_comments(tmp_path: Path) -> None:
    conf = tmp_path / "fuse.conf"
    assert not doctor.check_allow_other(str(conf)).ok
    conf.write_text("# user_allow_other\nmount_max = 10\n")
    assert not doctor.check_allow_other(str(conf)).ok
    conf.write_text("mount_max = 10\nuser_allow_other  # for all\n")
    assert doctor.check_allow_other(str(conf)).ok


def test_missing_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.check_fusermount().mend == "apt-get install fuse3"
    assert not doctor.check_bubblewrap().ok
    program = tmp_path / "fusermount3"
    program.touch(mode=0o755)
    assert "set-uid" in doctor.check_fusermount().found
    if os.geteuid() == 0:
        program.chmod(0o4755)
        assert doctor.check_fusermount().ok


def test_cores_that_are_slow_to_wake_up_are_a_note(tmp_path: Path) -> None:
    device, driver = tmp_path / "cpu_dma_latency", tmp_path / "current_driver"
    assert doctor.check_wake_ups(device, driver).ok, "nothing would help"
    driver.write_text("intel_idle\n")
    finding = doctor.check_wake_ups(device, driver)
    assert (finding.ok, finding.needed, finding.found) == (False, False, "missing")
    assert "--device" in finding.mend
    device.mkdir()  # Which nobody may write to; root may write to any file.
    finding = doctor.check_wake_ups(device, driver)
    assert (finding.ok, finding.needed, finding.found) == (False, False, "is a directory")
    device.rmdir()
    device.touch(mode=0o600)
    assert doctor.check_wake_ups(device, driver).ok


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_modules().ok
    monkeypatch.setattr(doctor, "_MODULES", ("json", "absent_one"))
    assert doctor.check_modules().found == "missing: absent_one"


def test_install_links_helper_and_unit_and_can_be_repeated(tmp_path: Path) -> None:
    for _ in range(2):
        assert len(doctor.install(str(tmp_path))) == 3
    for name in ("mount.fuse.heliosfs", "umount.fuse.heliosfs"):
        helper = tmp_path / "sbin" / name
        assert helper.is_symlink()
        assert os.access(helper, os.X_OK)
    assert (tmp_path / "etc/systemd/system/heliosfs@.service").read_text().startswith("# One HeliosFS mount")


def test_install_replaces_no_file(tmp_path: Path) -> None:
    helper = tmp_path / "sbin" / "mount.fuse.heliosfs"
    helper.parent.mkdir()
    helper.write_text("somebody's own")
    with pytest.raises(CliError) as caught:
        doctor.install(str(tmp_path))
    assert caught.value.code == Exit.CONFLICT
    assert helper.read_text() == "somebody's own"


@pytest.mark.parametrize(
    ("finding", "code", "mark"),
    [
        (doctor.Finding(True, "kernel", "6.1"), Exit.OK, "ok   kernel: 6.1"),
        (doctor.Finding(False, "x", "not there", "get it", False), Exit.OK, "note x: not there; get it"),
        (doctor.Finding(False, "x", "not there", "get it"), Exit.ERROR, "BAD  x: not there; get it"),
        (doctor.Finding(False, "/dev/fuse", "missing", "get it"), Exit.NO_FUSE, "BAD  /dev/fuse: missing; get it"),
    ],
)
def test_the_report_and_its_exit_code(
    finding: doctor.Finding,
    code: Exit,
    mark: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lambda: finding,))
    assert main(["doctor"]) == code
    assert capsys.readouterr().out == mark + "\n"
    assert main(["doctor", "--json"]) == code
    reply = json.loads(capsys.readouterr().out)
    assert reply["ok"] == (code == Exit.OK)
    assert reply["findings"][0]["found"] == finding.found
