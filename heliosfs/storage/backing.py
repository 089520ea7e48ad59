"""Backing files: stored content as plain files, which the kernel reads by itself for every branch that has it.

With `-o cache=shared` a file's pages belong to its backing file, one for equal content, instead of to each
branch's inode. Invariants: a file is offered only when it is whole and every byte of it came from a verified
chunk; it is never written to again; what is in use is not removed; together they stay within the budget,
and give way where the disk has no room for what is written.
They are a cache: the directory is emptied whenever the store is opened. Must not know: the kernel, open files.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, NewType

import trio
from blake3 import blake3

from heliosfs.core import radix
from heliosfs.core.errors import Damaged
from heliosfs.core.extent import ChunkRef, Extent, locate
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Pages
from heliosfs.storage.reading import Reader

BackingKey = NewType("BackingKey", bytes)
"""Names a content by where its chunks lie in it: 32 bytes."""

LEAST_BYTES: Final = 64 << 10
"""Smaller files cost more as a file of their own than their pages do."""
AT_ONCE_BYTES: Final = 64 << 20
"""Larger ones are copied out when they are asked for a second time: the first may want a few bytes of them."""
_MORE_BYTES: Final = 64 << 20
_REMEMBERED: Final = 4096
_PLACE: Final = struct.Struct("<QQQ32s")
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class BackingPlan(NamedTuple):
    """What a backing file is to hold: (offset in the file, length, start in the chunk, chunk), ascending."""

    key: BackingKey
    size: int
    parts: tuple[tuple[int, int, int, ChunkRef], ...]


class BackingFile:
    """A file with verified content.

    Attributes:
        fd: Open for reading, as long as the file is kept.
        blocks: Bytes that it takes on the disk.
        users: How many `take` were not followed by `give_back` yet.
    """

    __slots__ = ("blocks", "fd", "key", "users")

    def __init__(self, key: BackingKey, fd: int) -> None:
        self.key = key
        self.fd = fd
        self.blocks = os.fstat(fd).st_blocks * 512
        self.users = 0


class BackingFiles:
    """The backing files of a store, by content."""

    def __init__(self, directory: Path, reader: Reader, budget_bytes: int, room: Callable[[], int]) -> None:
        """
        Args:
            room: How many bytes of the disk ordinary writes may still take.
        """
        self._directory = directory
        self._room = room
        self._reader = reader
        self._budget = budget_bytes
        self._kept: OrderedDict[BackingKey, BackingFile] = OrderedDict()
        self._making: dict[BackingKey, trio.Event] = {}
        self._asked: OrderedDict[BackingKey, None] = OrderedDict()
        self._plans: OrderedDict[tuple[int, int], BackingPlan] = OrderedDict()
        self._used = 0

    def start(self) -> None:
        """Remove what an earlier process left. The directory is made when it is needed: a full disk must open."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def plan(self, inode: Inode, pages: Pages) -> BackingPlan | None:
        """How to make the content of an inode a backing file.

        Returns:
            None: it is no regular file, too small, larger than the budget, or not stored in chunks yet.

        Raises:
            NeedPages. O(extents), once for each version of an inode.
        """
        if not inode.is_file() or not LEAST_BYTES <= inode.size <= self._budget:
            return None
        version = (inode.ino, inode.ctime_ns)
        known = self._plans.get(version)
        if known is not None:
            self._plans.move_to_end(version)
            return known
        parts: list[tuple[int, int, int, ChunkRef]] = []
        hasher = blake3(inode.size.to_bytes(8, "little"))
        extent: Extent
        for offset, extent in radix.items(inode.tree, pages):
            at = offset
            for source, start, length in locate(extent.source, extent.start, extent.length):
                if type(source) is not ChunkRef:
                    return None
                parts.append((at, length, start, source))
                hasher.update(_PLACE.pack(at, length, start, source.id))
                at += length
        plan = BackingPlan(BackingKey(hasher.digest()), inode.size, tuple(parts))
        self._plans[version] = plan
        if len(self._plans) > _REMEMBERED:
            self._plans.popitem(last=False)
        return plan

    async def take(self, plan: BackingPlan) -> BackingFile | None:
        """The backing file of this content, made if it has to be; `give_back` it when nobody reads it any more.

        Returns:
            None: the disk or the budget has no room, a chunk cannot be read, or a large content was asked for
            the first time. Whoever reads it through the filesystem then learns of damage.
        """
        # The plan names chunks: they stay until this is through.
        with self._reader.under_way.read():
            return await self._take(plan)

    async def _take(self, plan: BackingPlan) -> BackingFile | None:
        while (event := self._making.get(plan.key)) is not None:
            await event.wait()
        file = self._kept.get(plan.key)
        if file is None:
            if plan.size > AT_ONCE_BYTES and not self._asked_before(plan.key):
                return None
            if not self._make_room(plan):
                return None
            self._making[plan.key] = event = trio.Event()
            try:
                file = BackingFile(plan.key, await trio.to_thread.run_sync(self._write, plan))
            except (OSError, Damaged):
                return None
            finally:
                del self._making[plan.key]
                event.set()
            self._kept[plan.key] = file
            self._used += file.blocks
        self._kept.move_to_end(plan.key)
        file.users += 1
        return file

    def give_back(self, file: BackingFile) -> None:
        """Undo one `take`. The file stays for the next one, as far as the budget goes."""
        file.users -= 1

    def _asked_before(self, key: BackingKey) -> bool:
        if key in self._asked:
            return True
        self._asked[key] = None
        if len(self._asked) > _REMEMBERED:
            self._asked.popitem(last=False)
        return False

    def shrink(self, wanted: int) -> int:
        """Remove those that were not asked for longest and that nobody uses: what is written needs the disk.

        Args:
            wanted: Bytes to be freed, as far as there are any; a little more goes, so that it is rarely asked.

        Returns:
            Bytes that were freed.
        """
        before = self._used
        for file in list(self._kept.values()):
            if before - self._used >= wanted + _MORE_BYTES:
                break
            if not file.users:
                self._remove(file)
        return before - self._used

    def _make_room(self, plan: BackingPlan) -> bool:
        """Remove those that were not asked for longest, until this one fits; False if the others are in use.

        Nor is one made on a disk that would be half full of it.
        """
        wanted = sum(length for _, length, _, _ in plan.parts)
        if self._room() < 2 * wanted:
            return False
        for file in list(self._kept.values()):
            if self._used + wanted <= self._budget:
                return True
            if not file.users:
                self._remove(file)
        return self._used + wanted <= self._budget

    def _remove(self, file: BackingFile) -> None:
        del self._kept[file.key]
        self._used -= file.blocks
        os.close(file.fd)
        self._path(file.key).unlink(missing_ok=True)

    def _path(self, key: BackingKey) -> Path:
        return self._directory / key.hex()

    def _write(self, plan: BackingPlan) -> int:
        """In a thread: make the file; a descriptor of it for reading. Raises OSError, Damaged; then it is gone."""
        path = self._path(plan.key)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        fd = os.open(path, _FLAGS, 0o600)
        try:
            os.ftruncate(fd, plan.size)
            for offset, length, start, chunk in plan.parts:
                data = memoryview(self._reader.chunk(chunk.id))[start : start + length]
                if os.pwrite(fd, data, offset) != length:
                    raise OSError(errno.ENOSPC, "short write to a backing file")
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def stats(self) -> dict[str, int]:
        """How many files, and the bytes that they take on the disk."""
        return {"files": len(self._kept), "bytes": self._used, "budget_bytes": self._budget}

    def close(self) -> None:
        """Remove all of them; a kernel that still reads some keeps their data until it has done. Idempotent."""
        for file in list(self._kept.values()):
            self._remove(file)
