"""An export as a tar stream (PAX), by the standard library's tarfile.

Must not know: where the steps come from, what the stream is.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Sequence
from typing import BinaryIO, Final, cast

from heliosfs.storage.exporting_steps import BeginNode, EndFile, FileData, Step, shown

_STREAM_BYTES: Final = 1 << 20
_ZEROS: Final = bytes(1 << 20)
_TYPES: Final = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class _Stream:
    """Gathers small writes. (tarfile's own stream mode writes once more when it is abandoned.)"""

    __slots__ = ("_fileobj", "_held", "_held_bytes", "_position")

    def __init__(self, fileobj: BinaryIO) -> None:
        self._fileobj = fileobj
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._position = 0

    def tell(self) -> int:
        return self._position

    def write(self, data: bytes) -> int:
        self._held.append(data)
        self._held_bytes += len(data)
        self._position += len(data)
        if self._held_bytes >= _STREAM_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        view = memoryview(b"".join(self._held))
        self._held.clear()
        self._held_bytes = 0
        while view:
            # An unbuffered file may take less than all.
            view = view[self._fileobj.write(view) :]
        self._fileobj.flush()


class TarSink:
    """Writes the steps as members of one archive."""

    def __init__(self, fileobj: BinaryIO) -> None:
        self._stream = _Stream(fileobj)
        self._tar: tarfile.TarFile | None = None
        self._left = 0
        self._position = 0
        self._padding = 0

    def start(self) -> None:
        """See Sink."""
        self._tar = tarfile.open(  # noqa: SIM115 - `finish` closes it
            fileobj=cast(BinaryIO, self._stream),  # It asks for no more than tell and write.
            mode="w",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def write(self, steps: Sequence[Step]) -> list[str]:
        """See Sink."""
        warnings: list[str] = []
        for step in steps:
            if type(step) is FileData:
                self._zeros(step.offset - self._position)
                self._raw(step.data)
                self._position += len(step.data)
            elif type(step) is BeginNode:
                warnings += [f"{shown(step.path)}: {warning}" for warning in self._begin(step)]
            else:
                # The header has promised a size: what can't be read is zeros, as tar(1) does.
                self._zeros(self._left - self._position)
                self._raw(bytes(self._padding))
                if type(step) is not EndFile:
                    warnings.append("the content of the last named file is filled up with zeros")
        return warnings

    def finish(self) -> list[str]:
        """See Sink."""
        assert self._tar is not None
        self._tar.close()
        self._stream.flush()
        return []

    def _begin(self, node: BeginNode) -> list[str]:
        assert self._tar is not None
        kind = stat.S_IFMT(node.mode)
        if kind not in _TYPES:
            return ["a socket has no place in a tar"]
        warnings: list[str] = []
        info = tarfile.TarInfo(_text(node.path) if node.path else ".")
        info.mode = stat.S_IMODE(node.mode)
        info.uid, info.gid = node.uid, node.gid
        info.type = tarfile.LNKTYPE if node.first else _TYPES[kind]
        info.mtime = node.mtime_ns // 1_000_000_000
        records: dict[str, str] = {}
        if node.mtime_ns % 1_000_000_000:
            records["mtime"] = _seconds(node.mtime_ns)
        for name, value in node.xattrs:
            # "=" ends a keyword: escaped as GNU tar does.
            escaped = name.replace(b"%", b"%25").replace(b"=", b"%3D")
            try:
                records["SCHILY.xattr." + escaped.decode("utf-8")] = _text(value)
            except UnicodeDecodeError:
                warnings.append(f"the name of xattr {shown(name)} is not UTF-8, which PAX keywords are")
        info.pax_headers = records
        if node.first:
            info.linkname = _text(node.first)
        elif kind == stat.S_IFLNK:
            info.linkname = _text(node.target)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            info.devmajor, info.devminor = os.major(node.rdev), os.minor(node.rdev)
        elif kind == stat.S_IFREG:
            info.size = node.size
            self._left = node.size
            self._position = 0
            self._padding = -node.size % tarfile.BLOCKSIZE
        self._tar.addfile(info)
        # It remembers every member for reading back, which a stream can't do.
        self._tar.members.clear()  # type: ignore[attr-defined]
        return warnings

    def _zeros(self, count: int) -> None:
        self._position += max(count, 0)
        while count > 0:
            step = min(count, len(_ZEROS))
            self._raw(_ZEROS[:step])
            count -= step

    def _raw(self, data: bytes) -> None:
        assert self._tar is not None
        if data:
            self._stream.write(data)
            self._tar.offset += len(data)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _seconds(time_ns: int) -> str:
    """A time as PAX has it: decimal seconds, exact."""
    sign, time_ns = ("-", -time_ns) if time_ns < 0 else ("", time_ns)
    return f"{sign}{time_ns // 1_000_000_000}.{time_ns % 1_000_000_000:09d}"
