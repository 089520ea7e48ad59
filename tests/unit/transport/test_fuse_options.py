"""Options of the kernel's mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from heliosfs.transport.options import PASSED_ON, fuse_options

STORE = Path("/s")
ALWAYS = {"default_permissions", "fsname=/s", "subtype=heliosfs"}


def test_modes_are_the_kernels_to_check_and_the_store_is_the_source() -> None:
    assert fuse_options(STORE, (), privileged=False) == ALWAYS


def test_root_mounts_as_mount_does() -> None:
    assert fuse_options(STORE, (), privileged=True) == ALWAYS | {"suid", "dev"}
    assert fuse_options(STORE, ("nosuid", "nodev"), privileged=True) == ALWAYS | {"nosuid", "nodev"}


def test_others_can_not_ask_for_devices() -> None:
    assert fuse_options(STORE, ("suid", "dev"), privileged=False) == ALWAYS


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("ro",), {"ro"}),
        (("ro", "rw"), set()),
        (("rw", "ro"), {"ro"}),
        (("noexec", "exec"), {"exec"}),
        (("exec", "noexec"), {"noexec"}),
        (("allow_other", "noatime", "nodiratime"), {"allow_other", "noatime", "nodiratime"}),
    ],
)
def test_the_last_of_two_that_contradict_each_other_counts(flags: tuple[str, ...], expected: set[str]) -> None:
    assert fuse_options(STORE, flags, privileged=False) == ALWAYS | expected


def test_an_unknown_flag_is_named() -> None:
    with pytest.raises(ValueError, match=r"^frobnicate$"):
        fuse_options(STORE, ("ro", "frobnicate"), privileged=False)


def test_every_flag_is_taken() -> None:
    for flag in PASSED_ON:
        assert len(fuse_options(STORE, (flag,), privileged=True)) >= 3


def test_odd_stores_do_not_break_the_options() -> None:
    store = Path(os.fsdecode("/a b,c\\d%é".encode() + b"\xff"))
    (name,) = (option for option in fuse_options(store, (), privileged=False) if option.startswith("fsname="))
    assert name == "fsname=/a b%2cc%5cd%25%c3%a9%ff"
    assert name.isascii()
