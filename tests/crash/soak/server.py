"""The process that is killed: opens a store and carries out operations for clients on socket pairs.

It tells the journal the log position of every record, and answers each operation only when the filesystem
has. Must not know: the model, when it will be killed (seams.py does).
"""

from __future__ import annotations

import errno
import gc
import marshal
import os
import resource
import socket
import stat
import struct
import sys
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from heliosfs.core.check import check
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ROOT_INO, NodeId, node_id
from heliosfs.filesystem import Caller, Filesystem, SetAttr, StoreOptions, open_filesystem, opening
from heliosfs.storage import persist
from heliosfs.storage.calls import StoreCalls
from heliosfs.storage.importing import import_tree
from heliosfs.storage.log import Log
from heliosfs.storage.log.oscalls import OsCalls
from heliosfs.storage.space import Sizes
from heliosfs.storage.workers import WorkerPool
from heliosfs.storage.workers import process as worker_process
from tests.crash.soak import seams, workers
from tests.crash.soak.dump import dump
from tests.crash.soak.journal import FAILED, NOBODY, Journal
from tests.crash.soak.seams import Plan

_HEAD = struct.Struct("<I")
_ROOT = Caller(0, 0, 1)
_now: ContextVar[tuple[int, int]] = ContextVar("operation", default=(NOBODY, 0))


@dataclass(frozen=True, slots=True)
class Life:
    """How one server is to run.

    Attributes:
        segment_bytes: Of the log; small, so that it rolls and recycles.
        quiet_s: After this long without a change the persister cuts; 0: only when asked.
        workers: Processes.
        plan: Where it dies by itself, if anywhere.
    """

    store: Path
    segment_bytes: int = 1 << 17
    log_bytes: int = 1 << 20
    commit_s: float = 0.02
    quiet_s: float = 0.01
    workers: int = 1
    plan: Plan | None = None


def fork(
    life: Life,
    journal: Journal,
    channels: list[socket.socket],
    control: socket.socket,
    ours: list[socket.socket],
    said: int,
) -> int:
    """Start a server; its process id.

    Args:
        channels: Its ends, one a client (numbered from 1). control: its end for the soak itself.
        ours: The other ends. said: descriptor for its standard error.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(said, 2)
        for end in ours:
            end.close()
        gc.freeze()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _run(life, journal, channels, control)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(life: Life, journal: Journal, channels: list[socket.socket], control: socket.socket) -> None:
    def prepare_worker() -> None:
        worker_process._NICE = 0  # type: ignore[misc]
        if life.plan is not None and life.plan.in_worker:
            seams.install(life.plan, journal.die_once)

    workers.fork_nursery(prepare_worker, closing=[end.fileno() for end in (*channels, control)])
    calls = OsCalls()
    if life.plan is not None and not life.plan.in_worker:
        calls = seams.install(life.plan, journal.die_once)
    _shape(life)
    trio.run(_serve, life, journal, channels, control, calls)


def _shape(life: Life) -> None:
    """What the product has as constants, small enough for everything to happen in one life."""

    def sizes(total: int, log: int) -> Sizes:
        return Sizes(
            segment=life.segment_bytes,
            log=life.log_bytes,
            spares=2,
            reserve_segment=life.segment_bytes // 2,
            reserve=1 << 16,
            pack=1 << 18,
            write_buffer=1 << 20,
        )

    Sizes.for_disk = sizes  # type: ignore[method-assign, assignment]
    opening.WorkerPool = partial(WorkerPool, count=life.workers)  # type: ignore[misc, assignment]
    WorkerPool.start = lambda self: None  # type: ignore[method-assign]
    if life.quiet_s:
        persist.QUIET_S = life.quiet_s  # type: ignore[misc]


async def _serve(
    life: Life, journal: Journal, channels: list[socket.socket], control: socket.socket, log_calls: OsCalls
) -> None:
    options = StoreOptions(memory=8 << 20, log=life.log_bytes, commit_s=life.commit_s)
    calls = StoreCalls(log=log_calls)
    async with open_filesystem(life.store, options, create=True, background=bool(life.quiet_s), calls=calls) as fs:
        _tell_journal(fs.log, journal)
        _send(control, ("ready", fs.log._segment.header.prev_end, fs.log.end, fs.log.recovery.records))
        async with trio.open_nursery() as nursery:
            for number, channel in enumerate(channels, 1):
                nursery.start_soon(_client, fs, number, channel)
            await _controlled(fs, control)
            nursery.cancel_scope.cancel()


def _tell_journal(log: Log, journal: Journal) -> None:
    append = log.append

    def told(*args: Any, **more: Any) -> Any:
        journal.begin(*_now.get())
        try:
            place = append(*args, **more)
        except BaseException:
            journal.end(FAILED)
            raise
        journal.end(place.end_lsn)
        return place

    log.append = told  # type: ignore[method-assign]


async def _controlled(fs: Filesystem, control: socket.socket) -> None:
    """Show what is there, in the turns of `dump`, until asked to close. With everything, check() runs, too."""
    while True:
        await trio.lowlevel.wait_readable(control)
        asked = receive(control)
        if asked == "close":
            return
        if asked == "health":
            # Not after the pauses that follow failures, but now.
            mended = fs.log.failed is not None and await fs.commit.mend()
            if fs.log.failed is None:
                await fs.persister.persist()
            well = ("well", "mended" if mended else "")
            _send(control, well if fs.log.failed is None else ("read-only", str(fs.log.failed)))
            continue
        wrong: list[str] = []
        try:
            if asked < 0:
                with fs.cache.blocking():
                    wrong = check(fs.engine)
            shown = await dump(fs, asked)
        except Exception as error:
            wrong, shown = [f"reading everything: {error!r}", traceback.format_exc()], {}
        _send(control, (wrong, shown))


async def _client(fs: Filesystem, client: int, channel: socket.socket) -> None:
    held: dict[str, NodeId] = {}
    number = 0
    while True:
        await trio.lowlevel.wait_readable(channel)
        operation = receive(channel)
        number += 1
        _now.set((client, number))
        answer: Any = None
        code = 0
        try:
            answer = await _VERBS[operation[0]](fs, held, *operation[1:])
        except (FsError, OSError) as error:
            code = error.errno or errno.EIO
            if code == errno.EIO:
                traceback.print_exc()
        _now.set((NOBODY, 0))
        _send(channel, (code, answer, max(fs.log.durable_lsn, fs.persister.persisted)))


# --- operations ------------------------------------------------------------------------------------------


async def _node(fs: Filesystem, branch: bytes, path: tuple[bytes, ...]) -> NodeId:
    at = node_id(fs.find_branch(branch).view, ROOT_INO)
    for name in path:
        at = (await fs.lookup(at, name)).node
    return at


async def _make(fs: Filesystem, held: Any, branch: bytes, path: Any, mode: int, target: bytes) -> int:
    parent = await _node(fs, branch, path[:-1])
    entry = await fs.make(parent, path[-1], mode, _ROOT, target=target if stat.S_ISLNK(mode) else None)
    return entry.attr.ino  # type: ignore[attr-defined, no-any-return]


async def _link(fs: Filesystem, held: Any, branch: bytes, path: Any, new: Any) -> None:
    node, parent = await _node(fs, branch, path), await _node(fs, branch, new[:-1])
    await fs.link(node, parent, new[-1], _ROOT)


async def _unlink(fs: Filesystem, held: Any, branch: bytes, path: Any) -> None:
    await fs.unlink(await _node(fs, branch, path[:-1]), path[-1], _ROOT)


async def _hold(fs: Filesystem, held: dict[str, NodeId], branch: bytes, path: Any) -> None:
    node = await _node(fs, branch, path)
    await _unlink(fs, held, branch, path)
    held["node"] = node


async def _scribble(fs: Filesystem, held: dict[str, NodeId], branch: bytes, offset: int, data: bytes) -> None:
    if "node" in held:
        await fs.write(held["node"], offset, data, _ROOT)


async def _release(fs: Filesystem, held: dict[str, NodeId], branch: bytes) -> None:
    if "node" in held:
        fs.forget(held.pop("node"))


async def _rmdir(fs: Filesystem, held: Any, branch: bytes, path: Any) -> None:
    await fs.rmdir(await _node(fs, branch, path[:-1]), path[-1], _ROOT)


async def _rename(fs: Filesystem, held: Any, branch: bytes, path: Any, new: Any, flags: int) -> None:
    parent, into = await _node(fs, branch, path[:-1]), await _node(fs, branch, new[:-1])
    await fs.rename(parent, path[-1], into, new[-1], flags, _ROOT)


async def _write(fs: Filesystem, held: Any, branch: bytes, path: Any, offset: int, data: bytes) -> None:
    await fs.write(await _node(fs, branch, path), offset, data, _ROOT)


async def _append(fs: Filesystem, held: Any, branch: bytes, path: Any, data: bytes) -> None:
    node = await _node(fs, branch, path)
    await fs.write(node, (await fs.getattr(node)).size, data, _ROOT)


async def _copy(
    fs: Filesystem, held: Any, branch: bytes, path: Any, start: int, target: Any, into: int, length: int
) -> None:
    source, node = await _node(fs, branch, path), await _node(fs, branch, target)
    copied = await fs.copy_range(source, start, node, into, length, 0, _ROOT)
    assert copied == length


async def _allocate(
    fs: Filesystem, held: Any, branch: bytes, path: Any, mode: int, offset: int, length: int
) -> None:
    await fs.fallocate(await _node(fs, branch, path), mode, offset, length, _ROOT)


async def _set(fs: Filesystem, held: Any, branch: bytes, path: Any, value: int, *, what: str) -> None:
    await fs.setattr(await _node(fs, branch, path), SetAttr(**{what: value}), _ROOT)


async def _setxattr(fs: Filesystem, held: Any, branch: bytes, path: Any, name: bytes, value: bytes) -> None:
    await fs.setxattr(await _node(fs, branch, path), name, value, 0, _ROOT)


async def _removexattr(fs: Filesystem, held: Any, branch: bytes, path: Any, name: bytes) -> None:
    await fs.removexattr(await _node(fs, branch, path), name, _ROOT)


async def _fsync(fs: Filesystem, held: Any, branch: bytes, path: Any) -> None:
    end = fs.log.end
    await fs.fsync(await _node(fs, branch, path))
    assert fs.durable(end)


async def _checkpoint(fs: Filesystem, held: Any, branch: bytes, name: bytes | None) -> list[bytes]:
    outcome = await fs.checkpoint(fs.find_branch(branch).view, name, _ROOT)
    return [os.fsencode(outcome.name or "")]


async def _fork(fs: Filesystem, held: Any, branch: bytes, name: bytes, snapshot: bytes | None) -> None:
    await fs.fork(fs.find_branch(branch).view, name, _ROOT, snapshot=snapshot)


async def _restore(fs: Filesystem, held: Any, branch: bytes, name: bytes) -> list[bytes]:
    outcome = await fs.restore(fs.find_branch(branch).view, name, _ROOT)
    return [os.fsencode(str(outcome.extra["safety"]))]


async def _forget(fs: Filesystem, held: Any, branch: bytes, name: bytes) -> None:
    await fs.forget_snapshot(fs.find_branch(branch).view, name, _ROOT)


async def _rename_snapshot(fs: Filesystem, held: Any, branch: bytes, old: bytes, new: bytes) -> None:
    await fs.rename_snapshot(fs.find_branch(branch).view, old, new, _ROOT)


async def _look(fs: Filesystem, held: Any, branch: bytes, name: bytes) -> None:
    await fs.snapshot_root(fs.find_branch(branch).view, name)


async def _discard(fs: Filesystem, held: Any, branch: bytes) -> None:
    await fs.discard(fs.find_branch(branch).view, _ROOT)


async def _adopt(fs: Filesystem, held: Any, branch: bytes, tree: Any, source: str) -> list[bytes]:
    result = await import_tree(fs, os.fsencode(source), branch, lambda files, size: None, _ROOT)
    assert not result.warnings, result.warnings
    made = fs.snapshots(fs.find_branch(branch).view)[-2:]
    return [snapshot.name for snapshot in made]


async def _persist(fs: Filesystem, held: Any, branch: bytes) -> None:
    await fs.wait_persisted()


async def _collect(fs: Filesystem, held: Any, branch: bytes) -> None:
    await fs.collect()


async def _root(fs: Filesystem, held: Any, branch: bytes) -> str:
    return await fs.tree_root(fs.find_branch(branch).view)


_VERBS: dict[str, Any] = {
    "make": _make,
    "link": _link,
    "unlink": _unlink,
    "hold": _hold,
    "scribble": _scribble,
    "release": _release,
    "rmdir": _rmdir,
    "rename": _rename,
    "write": _write,
    "append": _append,
    "copy": _copy,
    "allocate": _allocate,
    "truncate": partial(_set, what="size"),
    "chmod": partial(_set, what="mode"),
    "chown": partial(_set, what="uid"),
    "utimens": partial(_set, what="mtime_ns"),
    "setxattr": _setxattr,
    "removexattr": _removexattr,
    "fsync": _fsync,
    "checkpoint": _checkpoint,
    "fork": _fork,
    "restore": _restore,
    "forget": _forget,
    "rename_snapshot": _rename_snapshot,
    "look": _look,
    "discard": _discard,
    "adopt": _adopt,
    "persist": _persist,
    "collect": _collect,
    "root": _root,
}


# --- messages --------------------------------------------------------------------------------------------


def _send(channel: socket.socket, message: Any) -> None:
    body = marshal.dumps(message)
    channel.sendall(_HEAD.pack(len(body)) + body)


def receive(channel: socket.socket) -> Any:
    """The next message. Raises EOFError when the other end is gone."""
    (length,) = _HEAD.unpack(_exactly(channel, _HEAD.size))
    return marshal.loads(_exactly(channel, length))


def send(channel: socket.socket, message: Any) -> None:
    """Send a message. Raises BrokenPipeError, ConnectionResetError."""
    _send(channel, message)


def _exactly(channel: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        try:
            part = channel.recv(min(length, 1 << 20))
        except ConnectionResetError:
            part = b""
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
