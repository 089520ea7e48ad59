"""What a daemon does unasked: apply retention policies, collect garbage.

Goes through control as everybody does, so that kernels and listings are told. Must not know: how either works.
"""

from __future__ import annotations

import logging
import os
from typing import Final

import trio

from heliosfs.control.commands import Retain
from heliosfs.control.runner import Commands
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ViewNo
from heliosfs.filesystem import Caller, Filesystem
from heliosfs.storage.collecting.automatic import Watch

_log = logging.getLogger("heliosfs.daemon")

LOOK_S: Final = 15.0
_REAPPLY_LOOKS: Final = 240
"""Looks after which a policy is applied though no snapshot was made: hours and days go by."""
AUTO_WASTE_MAX: Final = 0.25
"""Share of the packs that may stay dead: copying the rest is not worth the disk's time."""


async def keep_up(fs: Filesystem, commands: Commands, *, collect: bool) -> None:
    """Look now and then until cancelled."""
    policies = _Policies(fs, commands)
    garbage: _Garbage | None = None
    while True:
        await trio.sleep(LOOK_S)
        await policies.look()
        if collect:
            # Not at once: it asks the database, which a process that has taken over has not opened yet.
            garbage = garbage or _Garbage(fs)
            await garbage.look()


class _Policies:
    """Applies the policies of branches that have new snapshots."""

    def __init__(self, fs: Filesystem, commands: Commands) -> None:
        self._fs = fs
        self._commands = commands
        self._applied: dict[ViewNo, tuple[int, int, object]] = {}
        self._looks = 0

    async def look(self) -> None:
        fs = self._fs
        self._looks += 1
        applied: dict[ViewNo, tuple[int, int, object]] = {}
        for view in fs.retained_branches():
            if not fs.is_branch(view):
                continue
            policy = fs.retention(view)
            seen = (self._looks // _REAPPLY_LOOKS, fs.snapshot_count(view), policy)
            if policy is not None and self._applied.get(view) != seen and fs.expired(view, policy):
                owner = fs.branch(view)
                caller = Caller(owner.owner_uid, owner.owner_gid)
                reply = await self._commands.run(Retain(apply=True), view, caller)
                if not reply.ok:
                    _log.error("retention of %s: %s", owner.path.decode("utf-8", "replace"), reply.error)
                seen = (seen[0], fs.snapshot_count(view) if fs.is_branch(view) else 0, policy)
            applied[view] = seen
            await trio.lowlevel.checkpoint()
        self._applied = applied


class _Garbage:
    """Collects when it is worth it."""

    def __init__(self, fs: Filesystem) -> None:
        self._fs = fs
        self._end = fs.log.end
        self._watch = Watch(trio.current_time(), 0.0, *self._sums())
        self._failed = False

    def _sums(self) -> tuple[int, int, int]:
        fs = self._fs
        return fs.index.stats().stored_bytes, fs.persister.persisted, fs.engine.dropped

    async def look(self) -> None:
        fs = self._fs
        quiet, self._end = fs.log.end == self._end, fs.log.end
        stored_bytes, position, dropped = self._sums()
        disk = os.statvfs(fs.store_path)
        if not self._watch.due(
            trio.current_time(),
            stored_bytes=stored_bytes,
            position=position,
            dropped=dropped,
            quiet=quiet,
            free_share=disk.f_bavail / max(disk.f_blocks, 1),
        ):
            return
        began = trio.current_time()
        try:
            report = await fs.collect(restful=True, waste_max=AUTO_WASTE_MAX)
        except (OSError, FsError) as error:
            if not self._failed:
                _log.error("garbage was not collected: %s", error)
            self._failed = True
        else:
            self._failed = False
            if report.freed_chunks or report.packs_removed:
                _log.info(
                    "garbage collected: %d chunks, %d bytes, in %.1f s",
                    report.freed_chunks,
                    report.pack_bytes_freed,
                    report.seconds,
                )
        now = trio.current_time()
        stored_bytes, position, dropped = self._sums()
        self._watch = Watch(now, now - began, stored_bytes, position, dropped)
