"""Power cuts at chosen moments, on a filesystem that forgets what was not synced (tests/support/lossy)."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from heliosfs.core.ids import ROOT_INO, node_id
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.storage.layout import StoreLayout
from tests.support.lossy.mounted import Lossy, mounted_lossy

ROOT = Caller(0, 0)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lossy]:
    with mounted_lossy(tmp_path_factory.mktemp("lossy")) as lossy:
        yield lossy


@pytest.fixture
def lossy(mounted: Lossy) -> Iterator[Lossy]:
    """An empty one, without rules."""
    mounted.renew()
    yield mounted
    mounted.rules()
    mounted.capacity()


async def write_synced(fs: Filesystem, name: bytes, content: bytes) -> None:
    root = node_id(fs.find_branch(b"main").view, ROOT_INO)
    made = await fs.make(root, name, 0o100644, ROOT)
    await fs.write(made.node, 0, content, ROOT)
    await fs.fsync(made.node)


async def read(fs: Filesystem, name: bytes) -> bytes:
    entry = await fs.resolve(fs.find_branch(b"main").view, name)
    return await fs.read(entry.node, 0, 1 << 20)


async def test_a_new_store_is_there_after_a_power_cut(lossy: Lossy) -> None:
    """Its own name, too, and those of directories that were made for it."""
    with pytest.raises(OSError):
        async with open_filesystem(lossy.root / "deep/er/store", create=True, background=False) as fs:
            await write_synced(fs, b"f", b"precious")
            lossy.cut("lost", 1)
    async with open_filesystem(lossy.root / "deep/er/store", background=False) as fs:
        assert await read(fs, b"f") == b"precious"


async def test_what_a_killed_creation_left_is_synced_before_it_is_used(
    lossy: Lossy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(StoreLayout, "_sync_names", lambda self: None)
        StoreLayout.create(lossy.root / "store").close()
    with pytest.raises(OSError):
        async with open_filesystem(lossy.root / "store", background=False) as fs:
            await write_synced(fs, b"f", b"precious")
            lossy.cut("lost", 1)
    async with open_filesystem(lossy.root / "store", background=False) as fs:
        assert await read(fs, b"f") == b"precious"


async def test_a_store_that_cannot_be_closed_well_gives_its_lock_back(lossy: Lossy) -> None:
    async with open_filesystem(lossy.root / "store", create=True, background=False) as fs:
        await write_synced(fs, b"f", b"precious")
        lossy.rules({"operation": "fsync", "path": "store/db/*", "errno": errno.EIO})
    lossy.rules()
    async with open_filesystem(lossy.root / "store", background=False) as fs:
        assert await read(fs, b"f") == b"precious"
