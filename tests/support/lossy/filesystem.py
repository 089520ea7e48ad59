"""The images as a FUSE filesystem. Everything is in memory; operations are atomic but for delays.

Must not know: how commands arrive.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import stat
import time
from collections import Counter
from typing import Any

import pyfuse3
import trio

from tests.support.lossy.faults import Rule
from tests.support.lossy.images import How, Image, Losses

_FOREVER_S = 86400.0
_BLOCK = 4096


class LossyFilesystem(pyfuse3.Operations):  # type: ignore[misc]
    """One epoch at a time, below the root.

    Attributes:
        rules: The first that meets an operation decides.
        capacity: Bytes of file data that there is room for; full: operations that found none.
        counts: Operations so far, by kind.
        off: The power is off: everything fails until the next epoch.
    """

    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(2)
        self._images: dict[int, Image] = {}
        self.rules: list[Rule] = []
        self.capacity = 1 << 40
        self.used = 0
        self.full = 0
        self.counts: Counter[str] = Counter()
        self.off = False
        self.epoch = 0
        self._now_ns = time.time_ns()
        self._top = Image(1, stat.S_IFDIR | 0o755)
        self._images[1] = self._top
        self.renew(Image(next(self._numbers), stat.S_IFDIR | 0o700))

    # --- commands ------------------------------------------------------------------------------------

    def renew(self, root: Image | None = None) -> str:
        """Begin an epoch, empty unless a tree is given. Its name."""
        self.epoch += 1
        for image in self._images.values():
            if image is not self._top:
                image.let_go()
        self._root = root or Image(next(self._numbers), stat.S_IFDIR | 0o700)
        name = b"e%d" % self.epoch
        self._top.names = {name: self._root}
        self._alive: set[int] = set()
        self.used = 0
        self._admit(self._root)
        self.off = False
        return name.decode()

    def _admit(self, image: Image) -> None:
        self._images[image.number] = image
        self._alive.add(image.number)
        self.used += len(image.data)
        for below in image.names.values():
            if below.number not in self._alive:
                self._admit(below)

    def cut(self, how: How, seed: int) -> tuple[str, Losses]:
        """The power goes, and comes back in the next epoch."""
        losses = Losses()
        found = self._root.after_cut(how, random.Random(seed), self._numbers, losses)
        return self.renew(found), losses

    # --- what every operation does first --------------------------------------------------------------

    async def _enter(self, operation: str, number: int, name: bytes = b"") -> Image:
        image = self._images[number]
        self._check_alive(image)
        self.counts[operation] += 1
        if self.rules:
            path = image.path + b"/" + name if name and image.path else name or image.path
            await self._obey(operation, os.fsdecode(path))
            self._check_alive(image)
        return image

    def _check_alive(self, image: Image) -> None:
        if image is not self._top and (self.off or image.number not in self._alive):
            raise pyfuse3.FUSEError(errno.EIO)

    async def _obey(self, operation: str, path: str) -> None:
        for rule in self.rules:
            if rule.meets(operation, path):
                if rule.cut:
                    self.off = True
                if rule.delay:
                    await trio.sleep(rule.delay)
                if rule.errno:
                    raise pyfuse3.FUSEError(rule.errno)
                if rule.short:
                    self._short = True
                return

    # --- looking -------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes, ctx: Any = None) -> pyfuse3.EntryAttributes:
        directory = await self._enter("lookup", parent, name)
        if name == b".":
            return self._entry(directory)
        found = directory.names.get(name)
        if found is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._entry(found)

    def _entry(self, image: Image) -> pyfuse3.EntryAttributes:
        image.lookups += 1
        return self._attributes(image)

    def _attributes(self, image: Image) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = image.number
        entry.st_mode = image.mode
        entry.st_nlink = max(image.links, 1)
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        entry.st_size = len(image.data)
        entry.st_blksize = _BLOCK
        entry.st_blocks = (len(image.data) + 511) // 512
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._now_ns
        entry.entry_timeout = 0.0 if image is self._top else _FOREVER_S
        entry.attr_timeout = 0.0 if image is self._top else _FOREVER_S
        return entry

    async def getattr(self, number: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        return self._attributes(await self._enter("getattr", number))

    async def setattr(
        self, number: int, wanted: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        image = await self._enter("setattr", number)
        if fields.update_mode:
            image.mode = stat.S_IFMT(image.mode) | stat.S_IMODE(wanted.st_mode)
        if fields.update_size:
            self._take_room(wanted.st_size - len(image.data))
            image.truncate(wanted.st_size)
        return self._attributes(image)

    async def forget(self, forgotten: Any) -> None:
        for number, count in forgotten:
            image = self._images.get(number)
            if image is not None and image is not self._top:
                image.lookups -= count
                if image.lookups <= 0 and (image.links <= 0 or number not in self._alive):
                    del self._images[number]
                    if number in self._alive:
                        self.used -= len(image.data)

    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = _BLOCK
        data.f_blocks = self.capacity // _BLOCK
        data.f_bfree = data.f_bavail = max(self.capacity - self.used, 0) // _BLOCK
        data.f_files = data.f_ffree = data.f_favail = 1 << 20
        data.f_namemax = 255
        return data

    def _take_room(self, size: int) -> None:
        if size > 0 and self.used + size > self.capacity:
            self.full += 1
            raise pyfuse3.FUSEError(errno.ENOSPC)
        self.used += size

    # --- names ---------------------------------------------------------------------------------------

    def _make(self, directory: Image, name: bytes, mode: int) -> Image:
        if directory is self._top:
            raise pyfuse3.FUSEError(errno.EPERM)
        if name in directory.names:
            raise pyfuse3.FUSEError(errno.EEXIST)
        path = directory.path + b"/" + name if directory.path else name
        image = Image(next(self._numbers), mode, links=0, path=path)
        self._images[image.number] = image
        self._alive.add(image.number)
        directory.rename((name, image))
        return image

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        directory = await self._enter("mkdir", parent, name)
        return self._entry(self._make(directory, name, stat.S_IFDIR | stat.S_IMODE(mode) & ~ctx.umask))

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> pyfuse3.EntryAttributes:
        directory = await self._enter("create", parent, name)
        return self._entry(self._make(directory, name, mode & ~ctx.umask))

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        directory = await self._enter("create", parent, name)
        image = self._make(directory, name, stat.S_IFREG | stat.S_IMODE(mode) & ~ctx.umask)
        return pyfuse3.FileInfo(fh=image.number), self._entry(image)

    async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        directory = await self._enter("unlink", parent, name)
        if name not in directory.names:
            raise pyfuse3.FUSEError(errno.ENOENT)
        directory.rename((name, None))

    async def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        directory = await self._enter("rmdir", parent, name)
        found = directory.names.get(name)
        if found is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        if found.names:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        directory.rename((name, None))

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: Any
    ) -> None:
        directory = await self._enter("rename", parent, name)
        if parent != new_parent:
            raise pyfuse3.FUSEError(errno.EXDEV)
        image = directory.names.get(name)
        if image is None or flags:
            raise pyfuse3.FUSEError(errno.EINVAL if flags else errno.ENOENT)
        image.path = directory.path + b"/" + new_name if directory.path else new_name
        directory.rename((name, None), (new_name, image))

    # --- content -------------------------------------------------------------------------------------

    async def open(self, number: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        await self._enter("open", number)
        return pyfuse3.FileInfo(fh=number, keep_cache=True)

    async def read(self, number: int, offset: int, size: int) -> bytes:
        image = await self._enter("read", number)
        return bytes(image.data[offset : offset + size])

    async def write(self, number: int, offset: int, data: bytes) -> int:
        self._short = False
        image = await self._enter("write", number)
        if self._short:
            data = data[: len(data) // 2]
        self._take_room(max(offset + len(data) - len(image.data), 0))
        image.write(offset, bytes(data))
        return len(data)

    async def fsync(self, number: int, datasync: bool) -> None:
        image = await self._enter("fsync", number)
        image.sync()

    async def flush(self, number: int) -> None:
        """Nothing is kept back."""

    async def release(self, number: int) -> None:
        """Descriptors are inode numbers."""

    async def opendir(self, number: int, ctx: Any) -> int:
        await self._enter("open", number)
        return number

    async def readdir(self, number: int, start: int, token: Any) -> None:
        directory = await self._enter("read", number)
        for position, (name, image) in enumerate(list(directory.names.items())[start:], start + 1):
            image.lookups += 1
            if not pyfuse3.readdir_reply(token, name, self._attributes(image), position):
                image.lookups -= 1
                return

    async def fsyncdir(self, number: int, datasync: bool) -> None:
        image = await self._enter("fsyncdir", number)
        image.sync()

    async def releasedir(self, number: int) -> None:
        """As release."""
