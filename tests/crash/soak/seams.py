"""Labelled steps at which a server, or a worker of it, kills itself with SIGKILL.

A step is a call of the product: of the system through the log's `OsCalls`, or of one of its functions. A
`Plan` names one, whether to die before it, half way (only part of the bytes written) or after it, and at
which call of it. A label whose function is no longer there fails loudly: the table moves with the code.
Must not know: the soak.
"""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any

from heliosfs.storage.log.oscalls import OsCalls

BEFORE, HALF, AFTER = "before", "half", "after"

_WRITES = ("append", "begin_life", "cancel", "write_ahead")

_SERVER = {
    "layout.open": "heliosfs.storage.layout:StoreLayout._read_format",
    "layout.lock": "heliosfs.storage.layout:StoreLayout._take_lock",
    "layout.create": "heliosfs.storage.layout:StoreLayout.write_format",
    "layout.close": "heliosfs.storage.layout:StoreLayout.close",
    "db.open": "heliosfs.storage.layout:open_database",
    "db.write": "cas.database:Database.write",
    "db.sync": "cas.database:Database.sync",
    "refs.load": "heliosfs.storage.refstore:load",
    "refs.batch": "heliosfs.storage.refstore:commit_batch",
    "replay": "heliosfs.filesystem.replaying:apply",
    "recover": "heliosfs.storage.log.log:recover",
    "log.begin": "heliosfs.storage.log.log:Log._begin_life",
    "log.roll": "heliosfs.storage.log.log:Log._roll",
    "log.sync.begin": "heliosfs.storage.log.syncing:Syncing.begin_sync",
    "log.sync.end": "heliosfs.storage.log.syncing:Syncing.end_sync",
    "log.release": "heliosfs.storage.log.log:Log.release",
    "log.close": "heliosfs.storage.log.log:Log.close",
    "segment.take": "heliosfs.storage.log.segment:SegmentFiles.take",
    "segment.give": "heliosfs.storage.log.segment:SegmentFiles.give",
    "apply": "heliosfs.filesystem.door:apply",
    "cut.begin": "heliosfs.core.cut:begin",
    "cut.store": "heliosfs.storage.persist:Persister._carry_out",
    "cut.chunks": "heliosfs.storage.chunking:FileCutter.canonical",
    "cut.pages": "heliosfs.storage.pagestore:PageStore.flush",
    "cut.move": "heliosfs.storage.persist:Persister._move",
    "cut.finish": "heliosfs.core.cut:finish",
    "commit": "heliosfs.storage.log.commit:GroupCommit.wait_durable",
    "packs.sync": "heliosfs.storage.workers.pool:WorkerPool.sync",
    "packs.index": "cas.index:ChunkIndex.put_batch",
    "pool.close": "heliosfs.storage.workers.pool:WorkerPool.close",
    "import.swap": "heliosfs.filesystem.adopting:Adopting._store_base",
    "space.refill": "heliosfs.storage.space:Space.refill",
    "gc.step": "heliosfs.storage.collecting.collector:Collector._step",
    "gc.rewrite": "heliosfs.storage.collecting.packing:Packing._rewrite",
    "gc.remove": "heliosfs.storage.collecting.packing:Packing._remove",
    "settle": "heliosfs.filesystem.opening:_settle",
}

_WORKER = {
    "worker.roll": "cas.packs:PackWriter._roll",
    "worker.append": "cas.packs:PackWriter.append_many",
    "worker.sync": "cas.packs:PackWriter.sync",
    "worker.directory": "cas.packs:PackWriter._sync_directory",
    "worker.send": "heliosfs.storage.workers.process:_Worker._send",
    "worker.ask": "heliosfs.storage.workers.process:_Worker._ask",
}

_CALLS = tuple(
    f"call.{name}"
    for name in ("append", "begin_life", "read", "sync", "sync_directory", "preallocate", "unlink", "write_ahead")
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Die at the `nth` call (from 1) of `label`, at its `moment`."""

    label: str
    moment: str
    nth: int

    def __str__(self) -> str:
        return f"{self.moment} {self.label} #{self.nth}"

    @property
    def in_worker(self) -> bool:
        return self.label in _WORKER


def steps() -> list[tuple[str, str]]:
    """Every (label, moment)."""
    found = [(label, moment) for label in (*_SERVER, *_WORKER, *_CALLS) for moment in (BEFORE, AFTER)]
    halves = ("call.append", "call.begin_life", "call.write_ahead", "worker.append")
    return [*found, *((label, HALF) for label in halves)]


def place_of(label: str) -> tuple[Any, str]:
    """The object and the name of its function that a step is. Raises AttributeError: the table is out of date."""
    module_name, _, path = (_WORKER.get(label) or _SERVER[label]).partition(":")
    holder: Any = import_module(module_name)
    *outer, name = path.split(".")
    for part in outer:
        holder = getattr(holder, part)
    getattr(holder, name)
    return holder, name


def install(plan: Plan, first: Callable[[], bool]) -> OsCalls:
    """Arrange the death in this process, unless `first` says no. The calls are for the log."""
    calls = OsCalls()
    fuse = _Fuse(plan, first)
    if plan.label.startswith("call."):
        name = plan.label.removeprefix("call.")
        setattr(calls, name, fuse.around(getattr(calls, name), _half_write if name in _WRITES else None))
        return calls
    holder, name = place_of(plan.label)
    wrapped: Any = fuse.around(getattr(holder, name), _half_pack if plan.label == "worker.append" else None)
    if isinstance(inspect.getattr_static(holder, name), staticmethod):
        wrapped = staticmethod(wrapped)
    setattr(holder, name, wrapped)
    return calls


class _Fuse:
    def __init__(self, plan: Plan, first: Callable[[], bool]) -> None:
        self._plan = plan
        self._first = first
        self._count = 0

    def _at(self, moment: str) -> None:
        if self._plan.moment == moment and self._count == self._plan.nth and self._first():
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, original: Callable[..., Any], half: Callable[..., Any] | None) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(original):

            @wraps(original)
            async def waiting(*args: Any, **more: Any) -> Any:
                self._count += 1
                self._at(BEFORE)
                result = await original(*args, **more)
                self._at(AFTER)
                return result

            return waiting

        @wraps(original)
        def called(*args: Any, **more: Any) -> Any:
            self._count += 1
            self._at(BEFORE)
            if half is not None and self._plan.moment == HALF and self._count == self._plan.nth:
                half(original, *args, **more)
                self._at(HALF)
            result = original(*args, **more)
            self._at(AFTER)
            return result

        return called


def _half_write(original: Callable[..., Any], fd: int, data: Any, offset: int) -> None:
    whole = data if isinstance(data, bytes) else b"".join(data)
    os.pwrite(fd, whole[: len(whole) // 2], offset)


def _half_pack(original: Callable[..., Any], writer: Any, entries: Any) -> None:
    if len(entries) > 1:
        original(writer, entries[: len(entries) // 2])
    elif writer._fd >= 0:
        os.pwrite(writer._fd, entries[0][1][: len(entries[0][1]) // 2], writer._offset)
