"""The structures have the sizes of linux/fuse.h."""

from __future__ import annotations

import pytest

from heliosfs.transport.kernel import wire
from heliosfs.transport.kernel.replies import ATTRIBUTES
from heliosfs.transport.kernel.wire import Layouts, Malformed, name_at, names_at

SIZES = {
    wire.IN_HEADER: 40,
    wire.OUT_HEADER: 16,
    wire.ATTR: 88,
    wire.ATTR_OUT: 104,
    wire.ENTRY_OUT: 128,
    wire.OPEN_OUT: 16,
    wire.WRITE_OUT: 8,
    wire.STATFS_OUT: 80,
    wire.XATTR_SIZE_OUT: 8,
    wire.INIT_OUT: 64,
    wire.IOCTL_OUT: 16,
    wire.DIRENT: 24,
    wire.STATX_OUT: 288,
    wire.INVAL_INODE_OUT: 24,
    wire.INVAL_ENTRY_OUT: 16,
    wire.STORE_OUT: 24,
    Layouts.SETATTR: 88,
    Layouts.GETATTR: 16,
    Layouts.STATX: 24,
    Layouts.WRITE: 40,
    Layouts.READ: 40,
    Layouts.CREATE: 16,
    Layouts.MKNOD: 16,
    Layouts.LOCK: 48,
    Layouts.RENAME2: 16,
    Layouts.SETXATTR_EXT: 16,
    Layouts.IOCTL: 32,
    Layouts.FALLOCATE: 32,
    Layouts.LSEEK: 24,
    Layouts.COPY_FILE_RANGE: 56,
    Layouts.RELEASE: 24,
    Layouts.FLUSH: 24,
    Layouts.FSYNC: 16,
    Layouts.POLL: 24,
    Layouts.BMAP: 16,
}


def test_sizes() -> None:
    assert {layout.format: layout.size for layout in SIZES} == {
        layout.format: size for layout, size in SIZES.items()
    }


def test_every_opcode_is_known_once() -> None:
    assert len(wire.BY_OPCODE) == len(wire.OPERATIONS)
    assert max(wire.BY_OPCODE) < wire.OPCODES
    assert wire.BY_OPCODE[53].name == "COPY_FILE_RANGE_64"


def test_names() -> None:
    view = memoryview(b"....one\0two\0rest")
    assert name_at(view, 4, len(view)) == b"one"
    assert names_at(view, 4, len(view)) == (b"one", b"two")
    with pytest.raises(Malformed):
        name_at(view, 12, len(view))
    with pytest.raises(Malformed):
        names_at(view, 8, len(view))


def test_attributes_are_the_end_of_an_entry() -> None:
    entry = wire.ENTRY_OUT.pack(1, 2, 3, 4, 0, 0, *range(10, 26))
    assert wire.ATTR_OUT.unpack(entry[ATTRIBUTES]) == (4, 0, 0, *range(10, 26))
