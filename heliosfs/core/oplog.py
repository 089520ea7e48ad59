"""The records of the log: one class for each kind of change, with its canonical encoding.

A record holds everything that `apply` needs: times, ids and inode numbers included, so replaying gives the
same state. Layout of a body: the integers, then the lengths of the byte strings (u32 each), then the byte
strings; little endian (docs/format/log.md). The bytes of a write are the record's payload, not its body.
Must not know: how records are framed or where they lie.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

from heliosfs.core.ids import BranchId, Ino, PageId, SnapshotId, ViewNo


class BadRecord(Exception):
    """The body of a record cannot be decoded: damage, or a newer version's kind."""


class Record:
    """Base of all records."""

    __slots__ = ()
    view: ViewNo
    """Of the branch that the record changes; every record has it first."""
    KIND: ClassVar[int]
    _packer: ClassVar[struct.Struct]
    _fields: ClassVar[tuple[str, ...]]
    _blob_count: ClassVar[int]

    def encode(self) -> bytes:
        """The body. About 1 us. (Made for each class by `_record`.)"""
        raise NotImplementedError

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Record:
        """The record of a body. Raises BadRecord."""
        try:
            values = cls._packer.unpack_from(body)
        except struct.error as error:
            raise BadRecord(f"kind {cls.KIND}: {error}") from error
        split = len(values) - cls._blob_count
        at = cls._packer.size
        blobs: list[bytes] = []
        for length in values[split:]:
            blobs.append(bytes(body[at : at + length]))
            at += length
        if at != len(body):
            raise BadRecord(f"kind {cls.KIND}: {len(body)} bytes, {at} expected")
        return cls(*values[:split], *blobs)


_R = TypeVar("_R", bound=type[Record])
KINDS: Final[dict[int, type[Record]]] = {}


def _encoder(pack: Callable[..., bytes], integers: list[str], blobs: list[str]) -> Callable[[Any], bytes]:
    """What encodes records with these fields; in few steps, since every change comes here."""
    assert len(integers) > 1
    numbers: Callable[[Any], tuple[int, ...]] = operator.attrgetter(*integers)
    if not blobs:
        return lambda record: pack(*numbers(record))
    if len(blobs) == 1:
        only: Callable[[Any], bytes] = operator.attrgetter(blobs[0])

        def encode_one(record: Any) -> bytes:
            blob = only(record)
            return pack(*numbers(record), len(blob)) + blob

        return encode_one
    strings: Callable[[Any], tuple[bytes, ...]] = operator.attrgetter(*blobs)

    def encode(record: Any) -> bytes:
        parts = strings(record)
        return b"".join((pack(*numbers(record), *map(len, parts)), *parts))

    if len(blobs) > 2:
        return encode

    def encode_two(record: Any) -> bytes:
        one, two = strings(record)
        return pack(*numbers(record), len(one), len(two)) + one + two

    return encode_two


def _record(kind: int, layout: str) -> Callable[[_R], _R]:
    """Register a record class: `layout` is the struct format of its integer fields; the rest are bytes."""

    def register(cls: _R) -> _R:
        names = [name for base in reversed(cls.__mro__) for name in getattr(base, "__slots__", ())]
        integers = len(layout.replace(" ", ""))
        cls.KIND = kind
        cls._fields = tuple(names)
        cls._blob_count = len(names) - integers
        cls._packer = struct.Struct("<" + layout.replace(" ", "") + "I" * cls._blob_count)
        cls.encode = _encoder(cls._packer.pack, names[:integers], names[integers:])  # type: ignore[assignment]
        assert kind not in KINDS
        KINDS[kind] = cls
        return cls

    return register


def decode(kind: int, body: bytes | memoryview) -> Record:
    """The record of this kind and body. Raises BadRecord."""
    cls = KINDS.get(kind)
    if cls is None:
        raise BadRecord(f"unknown kind {kind}")
    return cls.decode(body)


# --- files ---------------------------------------------------------------------------------------------


@_record(1, "I Q Q q I I I I")
@dataclass(slots=True)
class Make(Record):
    """A new file, directory, link or node. `target` is a symbolic link's."""

    view: ViewNo
    parent: Ino
    ino: Ino
    now_ns: int
    mode: int
    uid: int
    gid: int
    rdev: int
    name: bytes
    target: bytes


@_record(2, "I Q Q q")
@dataclass(slots=True)
class Write(Record):
    """The payload lies at `offset` of the file."""

    view: ViewNo
    ino: Ino
    offset: int
    now_ns: int


SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME = 1, 2, 4, 8, 16, 32


@_record(3, "I Q q I I I I Q q q")
@dataclass(slots=True)
class SetAttributes(Record):
    """chmod, chown, truncate, utimensat: the fields whose bit is in `mask`."""

    view: ViewNo
    ino: Ino
    now_ns: int
    mask: int
    mode: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int


@_record(4, "I Q q")
@dataclass(slots=True)
class Unlink(Record):
    """A name of anything but a directory goes."""

    view: ViewNo
    parent: Ino
    now_ns: int
    name: bytes


@_record(5, "I Q q")
@dataclass(slots=True)
class RemoveDirectory(Record):
    """An empty directory goes."""

    view: ViewNo
    parent: Ino
    now_ns: int
    name: bytes


@_record(6, "I Q Q q")
@dataclass(slots=True)
class Link(Record):
    """A further name."""

    view: ViewNo
    ino: Ino
    parent: Ino
    now_ns: int
    name: bytes


@_record(7, "I Q Q q I Q")
@dataclass(slots=True)
class Rename(Record):
    """`whiteout` is the number of the character device left behind, or 0."""

    view: ViewNo
    parent: Ino
    new_parent: Ino
    now_ns: int
    flags: int
    whiteout: Ino
    name: bytes
    new_name: bytes


@_record(8, "I Q q")
@dataclass(slots=True)
class SetXattr(Record):
    """An extended attribute has this value now."""

    view: ViewNo
    ino: Ino
    now_ns: int
    name: bytes
    value: bytes


@_record(9, "I Q q")
@dataclass(slots=True)
class RemoveXattr(Record):
    """An extended attribute goes."""

    view: ViewNo
    ino: Ino
    now_ns: int
    name: bytes


@_record(10, "I Q Q I Q Q Q q")
@dataclass(slots=True)
class CopyRange(Record):
    """The file holds at `offset` what `length` bytes from `source_offset` of the source hold at this position.

    The source may be of another view. It is named, not spelled out, so that a record does not grow with the
    extents: whoever applies this record has the source as it was, for the same records led there.
    """

    view: ViewNo
    ino: Ino
    offset: int
    source_view: ViewNo
    source_ino: Ino
    source_offset: int
    length: int
    now_ns: int


@_record(11, "I Q I Q Q q")
@dataclass(slots=True)
class Fallocate(Record):
    """fallocate(2) with these flags."""

    view: ViewNo
    ino: Ino
    mode: int
    offset: int
    length: int
    now_ns: int


@_record(12, "I Q Q q I I I")
@dataclass(slots=True)
class MakeUnnamed(Record):
    """A new regular file without a name, as O_TMPFILE makes it, owned as if made in `parent`."""

    view: ViewNo
    parent: Ino
    ino: Ino
    now_ns: int
    mode: int
    uid: int
    gid: int


# --- versions ------------------------------------------------------------------------------------------

FIRST_VERSION_KIND: Final = 16
"""Kinds below it change files."""

SNAPSHOT_KINDS: Final = ("user", "auto", "restore", "import", "base")
KIND_USER, KIND_AUTO, KIND_RESTORE, KIND_IMPORT, KIND_BASE = range(5)


@_record(16, "I q I I I")
@dataclass(slots=True)
class Checkpoint(Record):
    """The branch as it is gets a snapshot, whose id is the record's position."""

    view: ViewNo
    now_ns: int
    uid: int
    pid: int
    kind: int
    name: bytes


@_record(17, "I q I I I Q I I")
@dataclass(slots=True)
class Fork(Record):
    """A branch below that of `view`: of its present state, or of a snapshot of it."""

    view: ViewNo
    now_ns: int
    uid: int
    gid: int
    pid: int
    snapshot: SnapshotId
    branch: BranchId
    new_view: ViewNo
    name: bytes


@_record(18, "I q I I Q")
@dataclass(slots=True)
class Restore(Record):
    """The branch becomes a snapshot of it; what it was is kept as the snapshot `safety`."""

    view: ViewNo
    now_ns: int
    uid: int
    pid: int
    snapshot: SnapshotId
    safety: bytes


@_record(19, "I q I I Q Q")
@dataclass(slots=True)
class RestorePath(Record):
    """One path becomes what it is in a snapshot. New inode numbers start at `first_ino`."""

    view: ViewNo
    now_ns: int
    uid: int
    pid: int
    snapshot: SnapshotId
    first_ino: Ino
    safety: bytes
    path: bytes


@_record(20, "I q I I Q")
@dataclass(slots=True)
class ForgetSnapshot(Record):
    """A snapshot goes."""

    view: ViewNo
    now_ns: int
    uid: int
    pid: int
    snapshot: SnapshotId


@_record(21, "I q I I Q")
@dataclass(slots=True)
class RenameSnapshot(Record):
    """A snapshot gets another name."""

    view: ViewNo
    now_ns: int
    uid: int
    pid: int
    snapshot: SnapshotId
    name: bytes


@_record(22, "I q I I")
@dataclass(slots=True)
class Discard(Record):
    """A branch goes, with its snapshots."""

    view: ViewNo
    now_ns: int
    uid: int
    pid: int


@_record(23, "I Q I")
@dataclass(slots=True)
class AssignView(Record):
    """A snapshot gets its view number, at its first LOOKUP."""

    view: ViewNo
    snapshot: SnapshotId
    new_view: ViewNo


@_record(25, "I q I I I I I I")
@dataclass(slots=True)
class SetRetention(Record):
    """The branch keeps so many snapshots from now on; all counts 0: no policy."""

    view: ViewNo
    now_ns: int
    uid: int
    pid: int
    keep_last: int
    hourly: int
    daily: int
    weekly: int
    match: bytes


@_record(26, "I q I I")
@dataclass(slots=True)
class ExpireSnapshots(Record):
    """Snapshots of a branch go by its policy: their ids, 8 bytes each, little endian, oldest first."""

    view: ViewNo
    now_ns: int
    uid: int
    pid: int
    snapshots: bytes


@_record(24, "I q I I Q Q Q")
@dataclass(slots=True)
class Adopt(Record):
    """The branch becomes a tree that is already in the page store: an import.

    `safety` names the snapshot of the state before, b"" for none; `next_ino` is the first inode number of
    the store that the import has not used.
    """

    view: ViewNo
    now_ns: int
    uid: int
    pid: int
    files: int
    size_bytes: int
    next_ino: Ino
    safety: bytes
    name: bytes
    root: PageId
