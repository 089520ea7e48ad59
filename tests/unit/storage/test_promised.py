"""A change is true once it is logged: its caller may hear of it before it is applied."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from heliosfs.core import acl
from heliosfs.core.diff import Change
from heliosfs.core.errors import FsError
from heliosfs.core.ids import NodeId
from heliosfs.filesystem import Caller, Filesystem, open_filesystem

ME = Caller(0, 0)
READABLE_BY_OWNER = bytes.fromhex("02000000 01000400ffffffff 04000000ffffffff 20000000ffffffff")
"""A default access list. Source: acl(5)."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def root_of(fs: Filesystem) -> NodeId:
    return fs.branch_root(fs.find_branch(b"main").view).node


async def test_who_is_killed_between_the_two_has_made_it(store: Path, tmp_path: Path) -> None:
    async with open_filesystem(store, create=True, background=False) as fs:
        await fs.admit()
        root = root_of(fs)
        made = fs.promise_make(root, b"f", stat.S_IFREG | 0o644, ME)
        assert fs.owed is not None
        assert fs.try_find(root, b"f") is None, "not yet"
        killed = shutil.copytree(store, tmp_path / "killed")
        fs.keep()
        assert fs.owed is None
        found = fs.try_find(root, b"f")
        assert found is not None and found.attr.mode == made.mode
    async with open_filesystem(killed, background=False) as fs:
        again = fs.try_find(root_of(fs), b"f")
        assert again is not None and again.node == found.node


async def test_what_fails_promises_nothing(store: Path) -> None:
    async with open_filesystem(store, create=True, background=False) as fs:
        with pytest.raises(FsError):
            fs.promise_unlink(root_of(fs), b"absent")
        assert fs.owed is None


async def test_others_who_look_are_told_first(store: Path) -> None:
    told: list[Change] = []
    async with open_filesystem(store, create=True, background=False) as fs:
        await fs.admit()
        fs.watcher = told.extend
        fs.promise_make(root_of(fs), b"f", stat.S_IFREG | 0o644, ME)
        assert fs.owed is None
        assert told
        assert fs.try_find(root_of(fs), b"f") is not None


async def test_what_inherits_an_access_list_is_applied_at_once(store: Path) -> None:
    """Its mode is the list's, too, and so not what was asked for."""
    async with open_filesystem(store, create=True, background=False) as fs:
        await fs.admit()
        root = root_of(fs)
        fs.try_setxattr(root, acl.DEFAULT, READABLE_BY_OWNER, 0)
        made = fs.promise_make(root, b"f", stat.S_IFREG | 0o666, ME, umask=0o022)
        assert fs.owed is None
        found = fs.try_find(root, b"f")
        assert found is not None
        assert stat.S_IMODE(found.attr.mode) == 0o400 != stat.S_IMODE(made.mode)
