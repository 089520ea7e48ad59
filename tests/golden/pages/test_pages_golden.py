"""The pages of format version 0: written the same by today's code, read by it, and as the document shows."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from cas.digest import ChunkId
from heliosfs.core import pages
from heliosfs.core.directory import Dentry, name_key
from heliosfs.core.extent import ChunkRef, Extent
from heliosfs.core.ids import Ino, Lsn, PageId
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Branch, Leaf, Node, Tree

FIXTURES = Path(__file__).parent
DOCUMENT = FIXTURES.parents[2] / "docs" / "format" / "pages.md"
EARLIER_NS, LATER_NS = -1_500_000_000, 1_700_000_000_123_456_789


def dentries() -> Leaf:
    """Two names with keys of their own, and two that are made to share one."""
    named = sorted((name_key(name), (Dentry(name, Ino(ino), kind),)) for name, ino, kind in NAMES)
    shared = (Dentry(b"a", Ino(70), 8), Dentry(b"b", Ino(71), 10))
    return Leaf([3, *(key for key, _ in named)], [shared, *(bucket for _, bucket in named)])


NAMES = ((b"hello", 66, 8), (b"\xff not utf-8", 67, 4))


def extents() -> Leaf:
    def chunk(byte: int, length: int) -> Extent:
        return Extent(length, ChunkRef(ChunkId(bytes([byte]) * 32), length), 0)

    return Leaf([0, 65536, 1 << 40], [chunk(0xA1, 65536), chunk(0xA2, 1), chunk(0xA3, 131072)])


def inodes() -> Leaf:
    """The root, an empty file, one with everything, one whose extents are a page, a link and a device."""
    root = Inode(Ino(1), Lsn(5), stat.S_IFDIR | 0o755, 0, 0, LATER_NS, nlink=2, parent=Ino(1))
    root.tree, root.size = dentries(), 4
    empty = Inode(Ino(64), Lsn(5), stat.S_IFREG | 0o600, 1000, 1000, EARLIER_NS)
    full = Inode(Ino(65), Lsn(5), stat.S_IFREG | 0o4755, 4294967294, 7, LATER_NS, nlink=3)
    full.xattrs = {b"user.z": b"", b"user.a": b"\0value"}
    full.atime_set_ns = 0
    full.ctime_ns, full.mtime_ns = LATER_NS + 1, EARLIER_NS
    full.tree, full.size, full.allocated = extents(), (1 << 40) + 131072, 65536 + 1 + 131072
    large = Inode(Ino(66), Lsn(5), stat.S_IFREG | 0o644, 0, 0, LATER_NS)
    large.tree, large.size, large.allocated = PageId(bytes(range(32))), 1 << 50, 1 << 49
    link = Inode(Ino(67), Lsn(5), stat.S_IFLNK | 0o777, 0, 0, 0, target=b"to/where")
    link.size = 8
    device = Inode(Ino(69), Lsn(5), stat.S_IFCHR | 0o666, 0, 0, 1, rdev=0x103)
    found = [root, empty, full, large, link, device]
    return Leaf([inode.ino for inode in found], list(found))


def branch() -> Branch:
    kids: list[Tree] = [None] * 16
    for n in (0, 7, 15):
        kids[n] = PageId(bytes([n]) * 32)
    return Branch(4, 0x0123456789ABCD, 130, kids)


PAGES: dict[str, Node] = {"branch": branch(), "dentries": dentries(), "extents": extents(), "inodes": inodes()}
IDS = {
    "branch": "2cbc19253e4bc45ce535a5f5c931ee3e262b4a3cb605becd42a785cee3c85580",
    "dentries": "34b59c371701049ee3b83736d81fca51e3ba8620da594259842c24c6451bb301",
    "extents": "5144ba57f78ba0a6476cc38220d4a8764f579401246336c5792149c699345bc3",
    "inodes": "1a1377c25160948b8a28730c2ca261b5e966167ae2805a9a1d9636ddf235bf15",
}


@pytest.mark.parametrize("name", PAGES)
def test_written_as_ever(name: str) -> None:
    encoded = pages.encode(PAGES[name])
    assert encoded == (FIXTURES / name).read_bytes()
    assert pages.page_id(encoded).hex() == IDS[name]


@pytest.mark.parametrize("name", PAGES)
def test_read_and_written_again_as_ever(name: str) -> None:
    encoded = (FIXTURES / name).read_bytes()
    assert pages.encode(pages.decode(encoded)) == encoded


def test_read_as_ever() -> None:
    found = pages.decode((FIXTURES / "inodes").read_bytes())
    assert isinstance(found, Leaf)
    assert found.keys == [1, 64, 65, 66, 67, 69]
    for read, written in zip(found.values, inodes().values, strict=True):
        for name in set(Inode.__slots__) - {"tree", "born"}:
            assert getattr(read, name) == getattr(written, name), (written.ino, name)
    assert found.values[0].tree.values == dentries().values
    assert found.values[2].tree.values == extents().values
    assert found.values[3].tree == bytes(range(32))
    kids = pages.decode((FIXTURES / "branch").read_bytes())
    assert isinstance(kids, Branch)
    assert (kids.shift, kids.prefix, kids.count, kids.kids) == (4, 0x0123456789ABCD, 130, branch().kids)


def test_document_shows_the_fixture() -> None:
    data = (FIXTURES / "dentries").read_bytes()
    shown = re.findall(r"^    ([0-9a-f]{4}): ((?:[0-9a-f]{2,4} ?)+)", DOCUMENT.read_text(), re.M)
    assert len(shown) >= 4
    for at, text in shown:
        part = bytes.fromhex(text)
        assert data[int(at, 16) :][: len(part)] == part, f"at {at}"
