"""Files and directories with two faces: what programs see, and what the disk has.

A change is *pending* until a sync of the file, or of the directory for names. `after_cut` makes the tree
that is found after a power cut: the disk's, and of the pending writes none, the first ones, any of them,
or any of them in pieces. Of the pending changes to a directory the first ones survive, however many: what
has a journal keeps their order, and RocksDB relies on it (CURRENT is renamed before the name of the
MANIFEST it contains is synced). Stricter than ext4 in two ways: syncing a new file does not sync its name,
and each directory is ordered by itself alone. Must not know: FUSE, paths, who asks.
"""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

How: TypeAlias = Literal["lost", "ordered", "reordered", "torn", "kept"]
"""What becomes of pending changes: none survives; a prefix; any subset; any subset, writes in pieces; all."""

SECTORS = (512, 4096)

_Write: TypeAlias = tuple[int, bytes]
"""Offset and data; data b"" is a change of size to the offset."""

_Names: TypeAlias = tuple[tuple[bytes, "Image | None"], ...]
"""Names set (or, None, removed) together."""


@dataclass
class Losses:
    """What a cut cost: pending changes that did not survive, and writes of which a part did."""

    writes: int = 0
    names: int = 0
    torn: int = 0


@dataclass(eq=False, slots=True)
class Image:
    """An inode: a directory has `names`, all else `data`.

    Attributes:
        data, names: As programs see them; on_disk, names_on_disk: as the disk has them.
        links: Names of it that programs see.
    """

    number: int
    mode: int
    data: bytearray = field(default_factory=bytearray)
    on_disk: bytearray = field(default_factory=bytearray)
    names: dict[bytes, Image] = field(default_factory=dict)
    names_on_disk: dict[bytes, Image] = field(default_factory=dict)
    links: int = 1
    lookups: int = 0
    path: bytes = b""
    _writes: list[_Write] = field(default_factory=list)
    _changes: list[_Names] = field(default_factory=list)

    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def pending(self) -> int:
        """Changes that the disk does not have."""
        return len(self._writes) + len(self._changes)

    # --- changes -------------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes) -> None:
        """As pwrite(2)."""
        _put(self.data, offset, data)
        if data:
            self._writes.append((offset, data))

    def truncate(self, size: int) -> None:
        """As ftruncate(2)."""
        if size != len(self.data):
            _resize(self.data, size)
            self._writes.append((size, b""))

    def rename(self, *changes: tuple[bytes, Image | None]) -> None:
        """Set and remove names, all at once."""
        for name, image in changes:
            old = self.names.pop(name, None)
            if old is not None:
                old.links -= 1
            if image is not None:
                self.names[name] = image
                image.links += 1
        self._changes.append(changes)

    def sync(self) -> None:
        """As fsync(2) of this file, or of this directory's names."""
        for offset, data in self._writes:
            _apply(self.on_disk, offset, data)
        self._writes.clear()
        if self._changes:
            self.names_on_disk = dict(self.names)
            self._changes.clear()

    def let_go(self) -> None:
        """Forget everything: nobody can get at it any more, though the kernel may still name it."""
        self.data, self.on_disk = bytearray(), bytearray()
        self.names, self.names_on_disk = {}, {}
        self._writes, self._changes = [], []

    # --- the cut -------------------------------------------------------------------------------------

    def after_cut(self, how: How, dice: random.Random, numbers: Iterator[int], losses: Losses) -> Image:
        """This directory as it is found when the power is back: new inodes, nothing pending."""
        return _found(self, how, dice, numbers, losses, {})


def _found(
    image: Image, how: How, dice: random.Random, numbers: Iterator[int], losses: Losses, twins: dict[int, Image]
) -> Image:
    twin = twins.get(image.number)
    if twin is not None:
        twin.links += 1
        return twin
    twin = twins[image.number] = Image(next(numbers), image.mode, path=image.path)
    if image.is_dir():
        names = dict(image.names_on_disk)
        kept = _survivors(image._changes, how if how in ("lost", "kept") else "ordered", dice)
        losses.names += len(image._changes) - len(kept)
        for change in kept:
            for name, target in change:
                if target is None:
                    names.pop(name, None)
                else:
                    names[name] = target
        twin.names = {name: _found(below, how, dice, numbers, losses, twins) for name, below in names.items()}
        twin.names_on_disk = dict(twin.names)
        return twin
    data = bytearray(image.on_disk)
    survivors = _survivors(image._writes, how, dice)
    losses.writes += len(image._writes) - len(survivors)
    for offset, written in survivors:
        if how == "torn" and written and dice.random() < 0.5:
            losses.torn += 1
            for at, piece in _pieces(offset, written, dice):
                _put(data, at, piece)
        else:
            _apply(data, offset, written)
    twin.on_disk = data
    twin.data = bytearray(data)
    return twin


def _survivors(pending: list, how: How, dice: random.Random) -> list:  # type: ignore[type-arg]
    if how == "kept":
        return pending
    if how == "lost" or not pending:
        return []
    if how == "ordered":
        return pending[: dice.randrange(len(pending) + 1)]
    chance = dice.random()
    return [change for change in pending if dice.random() < chance]


def _pieces(offset: int, data: bytes, dice: random.Random) -> Iterator[_Write]:
    """Some of the sectors of a write."""
    sector = dice.choice(SECTORS)
    end = offset + len(data)
    at = offset
    while at < end:
        stop = min((at // sector + 1) * sector, end)
        if dice.random() < 0.5:
            yield at, data[at - offset : stop - offset]
        at = stop


def _apply(target: bytearray, offset: int, data: bytes) -> None:
    if data:
        _put(target, offset, data)
    else:
        _resize(target, offset)


def _put(target: bytearray, offset: int, data: bytes) -> None:
    if offset > len(target):
        _resize(target, offset)
    target[offset : offset + len(data)] = data


def _resize(target: bytearray, size: int) -> None:
    if size < len(target):
        del target[size:]
    else:
        target.extend(bytes(size - len(target)))
