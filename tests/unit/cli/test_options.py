"""-o of mount: every option is taken, ignored for a reason, or refused by name."""

from __future__ import annotations

import pytest

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.options import parse, size_bytes, time_s
from heliosfs.daemon.options import MountOptions


def test_nothing_given_leaves_the_defaults() -> None:
    assert parse([]) == MountOptions()
    assert parse(["defaults,rw"]) == MountOptions(flags=("rw",))


def test_own_options_in_several_groups_later_ones_win() -> None:
    options = parse(["branch=main/a,memory=64M", "branch=main/exp/b,log=2g,commit=50ms,control=visible,nonempty"])
    assert options.branch == "main/exp/b"
    assert (options.memory_bytes, options.log_bytes, options.commit_s) == (64 << 20, 2 << 30, 0.05)
    assert options.control_visible
    assert options.nonempty


def test_supervision_is_refused_where_there_is_none() -> None:
    assert parse(["cache=shared"]).outlives_its_process is False
    assert parse(["supervised=yes"]).outlives_its_process
    assert not parse(["follow=no"]).follow
    for word in ("cache=shared", "transport=pyfuse3"):
        with pytest.raises(CliError) as refused:
            parse([f"{word},supervised=yes"])
        assert refused.value.code == Exit.USAGE


def test_options_of_mount_are_handed_on_in_their_order() -> None:
    flags = parse(["rw,nosuid,allow_other", "suid,noatime"]).flags
    assert flags == ("rw", "nosuid", "allow_other", "suid", "noatime")


@pytest.mark.parametrize(
    "word",
    [
        *("auto", "noauto", "user", "nofail", "_netdev", "defaults", "x-systemd.automount", "comment=x", ""),
        *("silent", "relatime", "default_permissions"),
    ],
)
def test_what_concerns_mount_alone_is_ignored(word: str) -> None:
    assert parse([f"rw,{word}"]).flags == ("rw",)


@pytest.mark.parametrize(
    "word",
    [
        *("branches=x", "allow_others", "memory", "memory=", "memory=0", "memory=12Q", "memory=-1", "log=1.5G"),
        *("commit=0", "commit=2h", "commit=ten", "control=on", "cache=none", "branch="),
        *("branch=/main", "branch=main/", "ro=1", "s", "_", "memory=99999999999999999999999"),
    ],
)
def test_what_is_unknown_or_malformed_is_refused_by_name(word: str) -> None:
    with pytest.raises(CliError) as caught:
        parse([f"rw,{word},nosuid"])
    assert caught.value.code == Exit.USAGE
    assert word in caught.value.what


def test_a_shared_cache_is_refused_where_it_cannot_be_had() -> None:
    assert parse(["cache=shared"]).cache == "shared"
    with pytest.raises(CliError) as caught:
        parse(["cache=shared,transport=pyfuse3"])
    assert caught.value.code == Exit.USAGE


def test_sloppy_leaves_out_what_is_unknown_but_not_what_is_wrong() -> None:
    assert parse(["rw,sloth,a=b"], sloppy=True).flags == ("rw",)
    with pytest.raises(CliError):
        parse(["memory=much"], sloppy=True)


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("4k", 4096), ("4KiB", 4096), ("128M", 128 << 20), ("1gb", 1 << 30)]
)
def test_sizes(text: str, value: int) -> None:
    assert size_bytes("memory", text) == value


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("1.5s", 1.5), ("50ms", 0.05), ("2m", 120.0)])
def test_times(text: str, value: float) -> None:
    assert time_s("commit", text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("uid", "flags", "refused"), [(0, "allow_other", False), (7, "allow_other", True), (7, "ro", False)]
)
def test_unchecked_permissions_are_not_for_others_where_a_user_mounts(
    monkeypatch: pytest.MonkeyPatch, uid: int, flags: str, refused: bool
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    words = ["permissions=trusted", flags]
    if not refused:
        assert parse(words).trusted
        return
    with pytest.raises(CliError) as caught:
        parse(words)
    assert caught.value.code == Exit.USAGE
