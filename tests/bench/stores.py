"""Stores opened in this process, filled through the one door, for the LIB figures."""

from __future__ import annotations

from pathlib import Path

from heliosfs.core.ids import NodeId, ViewNo
from heliosfs.filesystem import Caller, Filesystem

CALLER = Caller(0, 0)
_IN_A_DIRECTORY = 100
_FILE, _DIRECTORY = 0o100644, 0o40755


def main_view(fs: Filesystem) -> ViewNo:
    """The view of the first branch."""
    return fs.find_branch(b"main").view


async def fill(fs: Filesystem, view: ViewNo, files: int, content: bytes = b"") -> list[NodeId]:
    """`files` files in directories of 100, each with its number and `content`, in order."""
    root = fs.branch_root(view).node
    nodes: list[NodeId] = []
    directory = root
    for number in range(files):
        if number % _IN_A_DIRECTORY == 0:
            directory = (await fs.make(root, b"d%05d" % (number // _IN_A_DIRECTORY), _DIRECTORY, CALLER)).node
        entry = await fs.make(directory, b"f%06d" % number, _FILE, CALLER)
        await fs.write(entry.node, 0, b"%08d" % number + content, CALLER)
        nodes.append(entry.node)
    return nodes


def path(number: int) -> bytes:
    """Where fill() put file `number`."""
    return b"d%05d/f%06d" % (number // _IN_A_DIRECTORY, number)


async def content(fs: Filesystem, view: ViewNo, number: int) -> bytes:
    """The first 4 KiB of file `number` as a view has it."""
    return await fs.read((await fs.resolve(view, path(number))).node, 0, 4096)


def directory_bytes(directory: Path) -> int:
    """Sizes of all files below a directory."""
    return sum(entry.stat().st_size for entry in directory.rglob("*") if entry.is_file())


def stored_bytes(fs: Filesystem) -> int:
    """Bytes of packs, and of the chunk index at 97 bytes a chunk."""
    return directory_bytes(fs.layout.packs_dir) + 97 * fs.index.stats().chunks
