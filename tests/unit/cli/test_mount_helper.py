"""mount(8)'s calling convention."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.helping import FAILED, USAGE
from heliosfs.cli.mount_helper import main, read_words


@pytest.mark.parametrize(
    "words",
    [
        ["/s", "/m", "-o", "rw,branch=main/a"],
        ["-o", "rw,branch=main/a", "/s", "/m"],
        ["/s", "/m", "-orw", "-o", "branch=main/a"],
        ["fuse.heliosfs#/s", "/m", "-t", "fuse.heliosfs", "-N", "7", "-o", "rw,branch=main/a"],
    ],
)
def test_words_in_any_order(words: list[str]) -> None:
    request = read_words(words)
    assert (request.source, request.target) == (b"/s", b"/m")
    assert (request.options.branch, request.options.flags) == ("main/a", ("rw",))
    assert (request.fake, request.verbose) == (False, False)


def test_flags_may_be_joined() -> None:
    request = read_words(["/s", "/m", "-sfnvo", "strange"])
    assert (request.fake, request.verbose) == (True, True)


@pytest.mark.parametrize(
    "words", [[], ["/s"], ["/s", "/m", "/x"], ["/s", "/m", "-o"], ["/s", "/m", "-q"], ["/s", "/m", "-o", "strange"]]
)
def test_bad_words_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CliError) as caught:
        read_words(words)
    assert caught.value.code == Exit.USAGE
    assert main(words) == USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mount.fuse.heliosfs: ")
    assert err.count("\n") == 1


def test_a_missing_store_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "s"), str(tmp_path)]) == FAILED
    assert "no store here" in capsys.readouterr().err


def test_a_remount_takes_what_the_kernel_shows() -> None:
    """mount(8) reads the options of the mount that is there, and passes them all."""
    shown = "remount,ro,nosuid,relatime,user_id=0,group_id=0,default_permissions,allow_other,max_read=4096"
    request = read_words(["/s", "/m", "-o", shown])
    assert request.remount
    assert request.options.flags == ("ro", "nosuid", "allow_other")
    assert not read_words(["/s", "/m", "-o", "ro"]).remount
    for words in (["-o", "remount,strange"], ["-o", "user_id=0"]):
        with pytest.raises(CliError, match="unknown mount option"):
            read_words(["/s", "/m", *words])


def test_only_a_mount_of_ours_is_remounted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mount(2) would change the flags of whatever is mounted there."""
    for place in (tmp_path, Path("/proc")):
        assert main([str(tmp_path), str(place), "-o", "remount,ro"]) == FAILED
        assert "no HeliosFS is mounted here" in capsys.readouterr().err
