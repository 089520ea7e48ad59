"""The worker process: one job at a time, over one socket, until the daemon closes it or dies.

The daemon reads, cuts and stores nothing itself; here nothing is decided. Bulk bytes go from file to pack
inside this process; ids, lengths and places cross the socket. Between asking which chunks are wanted and the
answer, the daemon may ask for a sync, so that a long job never holds up a commit.
Must not know: the index, the log's records, inodes.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cas.digest import ChunkId
from cas.packs import PackCalls, PackReader, PackWriter, Stored
from heliosfs.storage.workers import protocol
from heliosfs.storage.workers.copying import copy_chunks
from heliosfs.storage.workers.cutting import cut_run
from heliosfs.storage.workers.files import store_file
from heliosfs.storage.workers.jobs import CutResult, ScannedNode, ScanWarning, StoredFile
from heliosfs.storage.workers.sources import SourceReader, Unreadable, read_cut
from heliosfs.storage.workers.storing import ChunkKeeper, PacksFailed
from heliosfs.storage.workers.walk import walk

_PR_SET_PDEATHSIG: Final = 1


class _Gone(Exception):
    """The daemon has closed the socket: there is nothing left to do."""


class _Worker:
    __slots__ = ("_directory", "_number", "_packs", "_reader", "_socket", "_store", "_writer")

    def __init__(
        self, connection: socket.socket, packs: Path, number: int, pack_bytes: int, calls: PackCalls | None
    ) -> None:
        self._socket = connection
        self._store = packs.parent
        self._directory = packs
        self._number = number
        self._writer = PackWriter(packs, number, roll_bytes=pack_bytes, calls=calls)
        self._packs = PackReader(packs)
        self._reader = SourceReader(self._packs)

    def serve(self) -> None:
        """Do jobs until the daemon is gone."""
        while True:
            kind, body = self._receive()
            if kind == protocol.SYNC:
                self._sync()
                continue
            if kind == protocol.ROLL:
                self._roll()
                continue
            try:
                self._do(kind, body)
            except PacksFailed as failed:
                self._fail(failed.cause)
            except OSError as error:
                self._fail(error)
            except (_Gone, KeyboardInterrupt):
                raise
            except Exception as error:
                # Our bug: told in the daemon's log; the job fails, the process is good for others.
                traceback.print_exc()
                self._send(protocol.FAILED, protocol.failure(errno.EIO, f"{type(error).__name__}: {error}"))
            finally:
                self._reader.forget()
                # A pack that a collection removed gives its room back when nobody has it open any more.
                self._packs.close()

    def _do(self, kind: int, body: bytes) -> None:
        if kind == protocol.CUT:
            self._send(protocol.CUT_DONE, protocol.cut_results_body(self._cut(body)))
        elif kind == protocol.FILES:
            self._send(protocol.FILES_DONE, protocol.file_results_body(self._store_files(body)))
        elif kind == protocol.SCAN:
            self._scan(body)
        elif kind == protocol.COPY:
            entries = [entry for part in protocol.read_places(body) for entry in part]
            copied = copy_chunks(self._directory, self._number, self._packs, entries)
            self._send(protocol.COPIED, protocol.stored_body(copied))
        else:
            raise ValueError(f"a message of kind {kind}")

    def _cut(self, body: bytes) -> list[CutResult | protocol.Failure]:
        keeper = ChunkKeeper(self._writer, self._ask, self._tell)
        results: list[CutResult | protocol.Failure] = []
        for run in read_cut(body):
            try:
                results.append(cut_run(run, self._reader.read, keeper.keep))
            except Unreadable as error:
                results.append((error.errno, error.reason))
        keeper.flush()
        return results

    def _store_files(self, body: bytes) -> list[StoredFile | protocol.Failure]:
        keeper = ChunkKeeper(self._writer, self._ask, self._tell)
        results: list[StoredFile | protocol.Failure] = []
        for path in protocol.read_files(body):
            try:
                results.append(store_file(path, keeper.keep))
            except OSError as error:
                results.append((error.errno or errno.EIO, error.strerror or str(error)))
        keeper.flush()
        return results

    def _scan(self, root: bytes) -> None:
        def emit(nodes: list[ScannedNode], warnings: list[ScanWarning]) -> None:
            self._send(protocol.SCANNED, protocol.scanned_body(nodes, warnings))
            while select.select([self._socket], [], [], 0)[0]:
                kind, _ = self._receive()
                if kind != protocol.SYNC:
                    raise ValueError(f"a message of kind {kind} in a walk")
                self._sync()

        store = os.stat(self._store)
        walk(root, emit, skip=(store.st_dev, store.st_ino))
        self._send(protocol.SCAN_DONE, b"")

    # --- talking to the daemon -----------------------------------------------------------------------

    def _ask(self, ids: list[ChunkId]) -> bytes:
        self._send(protocol.ASK, b"".join(ids))
        while True:
            kind, body = self._receive()
            if kind == protocol.WANT:
                return body
            if kind != protocol.SYNC:
                raise ValueError(f"a message of kind {kind} where an answer belongs")
            self._sync()

    def _tell(self, entries: list[Stored]) -> None:
        self._send(protocol.STORED, protocol.stored_body(entries))

    def _roll(self) -> None:
        """Leave the present pack for good, synced; the next append makes another."""
        self._sync(self._writer.close)

    def _sync(self, sync: Callable[[], None] | None = None) -> None:
        try:
            (sync or self._writer.sync)()
        except OSError as error:
            answer = protocol.failure(error.errno or errno.EIO, error.strerror or str(error))
        else:
            answer = protocol.failure(0, "")
        self._send(protocol.SYNCED, answer)

    def _fail(self, error: OSError) -> None:
        reason = protocol.failure(error.errno or errno.EIO, error.strerror or str(error))
        self._send(protocol.FAILED, reason)

    def _send(self, kind: int, body: bytes) -> None:
        try:
            self._socket.sendall(protocol.frame(kind, body))
        except (BrokenPipeError, ConnectionResetError):
            raise _Gone from None

    def _receive(self) -> tuple[int, bytes]:
        length, kind = protocol.HEADER.unpack(self._receive_exactly(protocol.HEADER.size))
        if length > protocol.MAX_BODY:
            raise _Gone
        return kind, self._receive_exactly(length)

    def _receive_exactly(self, length: int) -> bytes:
        buffer = bytearray(length)
        view = memoryview(buffer)
        while view:
            try:
                count = self._socket.recv_into(view)
            except ConnectionResetError:
                raise _Gone from None
            if not count:
                raise _Gone
            view = view[count:]
        return bytes(buffer)


def _tie_to(parent: int) -> bool:
    """Die when the daemon does, even in the middle of a system call; False if it is dead already.

    Its end of the socket closing is not enough: a worker that reads a dead network mount would not notice.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def main(arguments: list[str], calls: PackCalls | None = None) -> int:
    """Run a worker.

    Args:
        arguments: The socket's descriptor, the packs' directory, a number, the daemon's pid, bytes of a pack.
        calls: System calls of the pack writer, for tests.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, packs, number, parent, pack_bytes = arguments
    if not _tie_to(int(parent)):
        return 0
    gc.freeze()
    with socket.socket(fileno=int(descriptor)) as connection:
        try:
            _Worker(connection, Path(packs), int(number), int(pack_bytes), calls).serve()
        except _Gone:
            pass
    return 0
