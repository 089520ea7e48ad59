"""The bytes on the socket between pool and worker. Little endian, no text formats, no object serialisation.

message = length of the body (u32) | kind (u8) | body

Both sides are this program in one version, so the layout carries no version of its own; but lengths are
checked, and a message that can't be read ends the worker. Must not know: sockets, files.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from cas.digest import ID_BYTES, ChunkId
from cas.packs import Place, Stored
from heliosfs.storage.workers.jobs import CutResult, ScannedNode, ScanWarning, StoredFile

CUT: Final = 1
FILES: Final = 2
SCAN: Final = 3
WANT: Final = 4
SYNC: Final = 5
ROLL: Final = 6
COPY: Final = 7

ASK: Final = 16
STORED: Final = 17
CUT_DONE: Final = 18
FILES_DONE: Final = 19
SCANNED: Final = 20
SCAN_DONE: Final = 21
SYNCED: Final = 22
FAILED: Final = 23
COPIED: Final = 24

MAX_BODY: Final = 1 << 30
HEADER: Final = struct.Struct("<IB")

U16: Final = struct.Struct("<H")
U32: Final = struct.Struct("<I")
RUN: Final = struct.Struct("<II")  # sources, resync offsets
SEGMENT: Final = struct.Struct("<BIIH")  # 2, seed, block bytes, path length
LOG: Final = struct.Struct("<BIQIIII")  # 0, segment, payload offset, payload length, sums length, start, length
CHUNK: Final = struct.Struct("<BIQII32sI")  # 1, pack, offset, frame length, start, chunk, length
KIND_LOG: Final = 0
KIND_CHUNK: Final = 1
KIND_SEGMENT: Final = 2

_STORED: Final = struct.Struct("<32sIQII")
_OUTCOME: Final = struct.Struct("<iIQ")  # errno, pieces (or bytes of the reason), consumed
_PIECE: Final = struct.Struct("<32sI")
_FILE: Final = struct.Struct("<iIBQqq")  # errno, extents (or bytes of the reason), changed, size, mtime, ctime
_EXTENT: Final = struct.Struct("<QI32s")
_NODE: Final = struct.Struct("<qIIIQQqqQQIHHH")
_WARNING: Final = struct.Struct("<iHH")
_PAIR: Final = struct.Struct("<HI")
_SLICE: Final = 1024
"""Pieces decoded in one step."""

Failure = tuple[int, str]
"""errno and reason."""


def frame(kind: int, body: bytes) -> bytes:
    """A whole message."""
    return HEADER.pack(len(body), kind) + body


def failure(error_number: int, reason: str) -> bytes:
    """Body of FAILED and SYNCED."""
    return struct.pack("<i", error_number) + reason.encode("utf-8", "backslashreplace")


def read_failure(body: bytes) -> Failure:
    """The opposite of `failure`."""
    number: int = struct.unpack_from("<i", body)[0]
    return number, body[4:].decode("utf-8", "replace")


# --- ids and places ----------------------------------------------------------------------------------


def ids_of(body: bytes) -> list[ChunkId]:
    """Body of ASK. 0.1 us an id."""
    return [ChunkId(body[at : at + ID_BYTES]) for at in range(0, len(body), ID_BYTES)]


def stored_body(entries: Sequence[Stored]) -> bytes:
    """Body of STORED."""
    pack = _STORED.pack
    return b"".join([pack(id_, p.pack, p.offset, p.length, raw) for id_, p, raw in entries])


def read_stored(body: bytes) -> list[Stored]:
    """The opposite of `stored_body`. 0.6 us an entry."""
    return [
        Stored(ChunkId(id_), Place(pack, offset, length), raw)
        for id_, pack, offset, length, raw in _STORED.iter_unpack(body)
    ]


def read_places(body: bytes) -> Iterator[list[Stored]]:
    """Body of COPY and COPIED, in steps of 1,024 entries (0.6 ms each)."""
    step = _SLICE * _STORED.size
    for at in range(0, len(body), step):
        yield read_stored(body[at : at + step])


# --- paths -------------------------------------------------------------------------------------------


def files_body(paths: Sequence[bytes]) -> bytes:
    """Body of FILES. A path may have up to 65,535 bytes; what is longer no system call would take."""
    parts: list[bytes] = []
    for path in paths:
        parts.append(U16.pack(min(len(path), 0xFFFF)))
        parts.append(path[:0xFFFF])
    return b"".join(parts)


def read_files(body: bytes) -> list[bytes]:
    """The opposite of `files_body`."""
    paths: list[bytes] = []
    at = 0
    while at < len(body):
        (length,) = U16.unpack_from(body, at)
        paths.append(body[at + 2 : at + 2 + length])
        at += 2 + length
    return paths


# --- results -----------------------------------------------------------------------------------------


def cut_results_body(results: Sequence[CutResult | Failure]) -> bytes:
    """Body of CUT_DONE."""
    parts: list[bytes] = []
    pack = _PIECE.pack
    for result in results:
        if type(result) is CutResult:
            parts.append(_OUTCOME.pack(0, len(result.pieces), result.consumed))
            parts.extend([pack(id_, length) for id_, length in result.pieces])
        else:
            number, reason = result
            text = str(reason).encode("utf-8", "backslashreplace")
            parts += (_OUTCOME.pack(number, len(text), 0), text)
    return b"".join(parts)


def read_cut_results(body: bytes) -> Iterator[CutResult | Failure | None]:
    """The opposite of `cut_results_body`; None after each 1,024 pieces, for others to have their turn."""
    view = memoryview(body)
    at = 0
    while at < len(body):
        number, count, consumed = _OUTCOME.unpack_from(body, at)
        at += _OUTCOME.size
        if number:
            yield number, body[at : at + count].decode("utf-8", "replace")
            at += count
            continue
        pieces: list[tuple[ChunkId, int]] = []
        while count:
            step = min(count, _SLICE)
            pieces.extend(_PIECE.iter_unpack(view[at : at + step * _PIECE.size]))
            at += step * _PIECE.size
            count -= step
            if step == _SLICE:
                yield None
        yield CutResult(tuple(pieces), consumed)


def file_results_body(results: Sequence[StoredFile | Failure]) -> bytes:
    """Body of FILES_DONE."""
    parts: list[bytes] = []
    pack = _EXTENT.pack
    for result in results:
        if type(result) is StoredFile:
            parts.append(
                _FILE.pack(0, len(result.extents), result.changed, result.size, result.mtime_ns, result.ctime_ns)
            )
            parts.extend([pack(*extent) for extent in result.extents])
        else:
            number, reason = result[0], result[1]
            text = str(reason).encode("utf-8", "backslashreplace")
            parts += (_FILE.pack(number, len(text), 0, 0, 0, 0), text)
    return b"".join(parts)


def read_file_results(body: bytes) -> Iterator[StoredFile | Failure | None]:
    """The opposite of `file_results_body`; None after each 1,024 extents."""
    view = memoryview(body)
    at = 0
    while at < len(body):
        number, count, changed, size, mtime_ns, ctime_ns = _FILE.unpack_from(body, at)
        at += _FILE.size
        if number:
            yield number, body[at : at + count].decode("utf-8", "replace")
            at += count
            continue
        extents: list[tuple[int, int, ChunkId]] = []
        while count:
            step = min(count, _SLICE)
            extents.extend(_EXTENT.iter_unpack(view[at : at + step * _EXTENT.size]))
            at += step * _EXTENT.size
            count -= step
            if step == _SLICE:
                yield None
        yield StoredFile(size, mtime_ns, ctime_ns, bool(changed), extents)


# --- the walk ----------------------------------------------------------------------------------------


def scanned_body(nodes: Sequence[ScannedNode], warnings: Sequence[ScanWarning]) -> bytes:
    """Body of SCANNED."""
    parts = [U32.pack(len(nodes))]
    for node in nodes:
        parts.append(_NODE.pack(node.parent, *node[2:12], len(node.name), len(node.target), len(node.xattrs)))
        parts += (node.name, node.target)
        for name, value in node.xattrs:
            parts += (_PAIR.pack(len(name), len(value)), name, value)
    for path, number, reason in warnings:
        text = reason.encode("utf-8", "backslashreplace")[:0xFFFF]
        parts += (_WARNING.pack(number, min(len(path), 0xFFFF), len(text)), path[:0xFFFF], text)
    return b"".join(parts)


def read_scanned(body: bytes) -> tuple[list[ScannedNode], list[ScanWarning]]:
    """The opposite of `scanned_body`. 2 us a node."""
    (count,) = U32.unpack_from(body)
    at = 4
    nodes: list[ScannedNode] = []
    unpack, size = _NODE.unpack_from, _NODE.size
    for _ in range(count):
        parent, *numbers, name_length, target_length, attributes = unpack(body, at)
        at += size
        name = body[at : at + name_length]
        at += name_length
        target = body[at : at + target_length]
        at += target_length
        xattrs: list[tuple[bytes, bytes]] = []
        for _ in range(attributes):
            key_length, value_length = _PAIR.unpack_from(body, at)
            at += _PAIR.size
            key = body[at : at + key_length]
            at += key_length
            xattrs.append((key, body[at : at + value_length]))
            at += value_length
        nodes.append(ScannedNode(parent, name, *numbers, tuple(xattrs), target))  # type: ignore[call-arg]
    warnings: list[ScanWarning] = []
    while at < len(body):
        number, path_length, length = _WARNING.unpack_from(body, at)
        at += _WARNING.size
        path = body[at : at + path_length]
        at += path_length
        warnings.append(ScanWarning(path, number, body[at : at + length].decode("utf-8", "replace")))
        at += length
    return nodes, warnings


def segment_record(seed: int, block_bytes: int, path: str | bytes | os.PathLike[str]) -> bytes:
    """Tells the worker of a segment file, once, before the first source in it."""
    name = os.fsencode(path)
    return SEGMENT.pack(KIND_SEGMENT, seed, block_bytes, len(name)) + name
