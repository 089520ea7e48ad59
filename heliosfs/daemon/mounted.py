"""The mountpoints that one daemon serves: the first it was started for, further ones on request.

Invariants: every mountpoint is served by one session, of one transport for all; when the last one has ended the
daemon ends. Must not know: what a request or a verb does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import trio

from heliosfs.control.runner import Commands
from heliosfs.control.tree import ControlTree
from heliosfs.core.errors import FsError
from heliosfs.daemon.errors import CONFLICT, FAILED, LOCKED, DaemonError, daemon_error, first
from heliosfs.daemon.options import MountOptions
from heliosfs.daemon.rpc import Progress, Request, Verb, failure, success
from heliosfs.daemon.takeover import Supervised, memory_of
from heliosfs.filesystem import BranchInfo, Caller, Filesystem
from heliosfs.transport.errors import MountRefused
from heliosfs.transport.keeping import NobodyKeeps
from heliosfs.transport.mounts import mount_at
from heliosfs.transport.options import fuse_options
from heliosfs.transport.registry import Registry
from heliosfs.transport.requests import DeferWork
from heliosfs.transport.session import Session, session_class

_log = logging.getLogger("heliosfs.daemon")


class MountTable:
    """Sessions by mountpoint.

    Attributes:
        transport: Of every session.
    """

    def __init__(
        self,
        fs: Filesystem,
        store: Path,
        commands: Commands,
        transport: str,
        keeper: Supervised | NobodyKeeps,
        *,
        quick: bool = True,
    ) -> None:
        """
        Args:
            quick: See Registry.
        """
        self.transport = transport
        fs.options["transport"] = transport
        self._fs = fs
        self._store = store
        self._commands = commands
        self._keeper = keeper
        self._registry = Registry(fs, quick=quick)
        self._make = session_class(transport)
        self._sessions: dict[Path, Session] = {}
        self._scope: trio.CancelScope | None = None

    async def serve(
        self, mountpoint: Path, options: MountOptions, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Mount the first, or go on with all that a former process has left, and serve until none is left.

        Says started when they are served.

        Raises:
            DaemonError, MountRefused: The first one can't be mounted.
        """
        async with trio.open_nursery() as self._nursery:
            if self._keeper.again:
                for kept_at, kept_options in self._keeper.mounts:
                    await self.add(kept_at, kept_options, again=True)
            else:
                await self.add(mountpoint, options)
            task_status.started()

    async def add(self, mountpoint: Path, options: MountOptions, *, again: bool = False) -> None:
        """Mount one more; returns when it is live.

        Args:
            mountpoint: Absolute, without symlinks, checked (`mountpoint.prepare`).
            again: A former process has mounted it.

        Raises:
            DaemonError: No such branch, an unknown option. MountRefused.
        """
        try:
            branch = self._fs.find_branch(os.fsencode(options.branch))
        except FsError as error:
            raise DaemonError(FAILED, f"{self._store}: {error}") from None
        if not again:
            await self._set_retention(branch, options)
        privileged = os.geteuid() == 0
        try:
            flags = fuse_options(self._store, options.flags, privileged=privileged, trusted=options.trusted)
        except ValueError as error:
            raise DaemonError(FAILED, f"mount option {error} is not known") from None
        if options.trusted and not privileged and "allow_other" in flags:
            # Whoever has asked: it is this process's files that everybody would get at.
            raise DaemonError(FAILED, "permissions=trusted does not go with allow_other: the daemon is not root")

        def make_control(after_reply: DeferWork, by_page: bool) -> ControlTree:
            memory, again = memory_of(self._keeper, f"control {mountpoint}")
            control = ControlTree(
                self._fs,
                visible=options.control_visible,
                after_reply=after_reply,
                commands=self._commands,
                by_page=by_page,
                memory=memory,
            )
            if again:
                control.recall()
            return control

        session = self._make(
            self._fs,
            self._registry,
            make_control,
            branch.view,
            mountpoint,
            flags,
            shared=options.cache == "shared",
            debug=options.debug == "requests",
            keeper=self._keeper,
            besides={"mountpoint": str(mountpoint), "options": options.to_json()},
        )
        await self._nursery.start(self._serve_one, session)
        _log.info("branch %s is mounted at %s", options.branch, mountpoint)

    async def _set_retention(self, branch: BranchInfo, options: MountOptions) -> None:
        """The mounted branch's policy, as its option says; applied by the first look. Raises DaemonError."""
        if options.retention is None:
            return
        owner = Caller(branch.owner_uid, branch.owner_gid, os.getpid())
        reply = await self._commands.run_words(branch.view, ["retention", *options.retention], owner)
        if not reply.ok:
            raise DaemonError(FAILED, f"mount option retention: {reply.error}")

    async def _serve_one(self, session: Session, task_status: trio.TaskStatus[None]) -> None:
        self._sessions[session.mountpoint] = session
        try:
            await session.serve(task_status=task_status)
        except Exception as error:
            # The sessions beside it are cancelled, and this process may end with the first of them. (That it can't
            # be mounted is told to whoever asked for it.)
            if not isinstance(first(error), MountRefused):
                _log.exception("serving %s has failed", session.mountpoint)
            raise
        finally:
            del self._sessions[session.mountpoint]
        self._keeper.drop(f"control {session.mountpoint}")
        _log.info("%s %s", "handed over" if self._keeper.handing_over else "unmounted", session.mountpoint)

    def __contains__(self, mountpoint: Path) -> bool:
        return mountpoint in self._sessions

    @property
    def mountpoints(self) -> list[str]:
        """Of all sessions, in the order in which they were made."""
        return [str(mountpoint) for mountpoint in self._sessions]

    @property
    def serving(self) -> bool:
        """Whether anything is mounted and answers requests."""
        return any(session.serving for session in self._sessions.values())

    def hand_over(self) -> None:
        """End all sessions without unmounting: another process goes on."""
        for session in self._sessions.values():
            session.hand_over()

    def stop(self, mountpoint: Path | None = None) -> None:
        """End one session, or all, in good order. Idempotent."""
        for at, session in self._sessions.items():
            if mountpoint is None or at == mountpoint:
                session.stop()


class _Ending(DaemonError):
    """The mountpoint is gone, and its session will be in a moment: worth asking again."""


def mount_verb(mounted: MountTable) -> Verb:
    """Answers `mount MOUNTPOINT OPTIONS`: one more mountpoint of this daemon's store, for its owner and root."""

    async def mount(request: Request, progress: Progress) -> Mapping[str, object]:
        words = request.argv[1:]
        try:
            mountpoint, options = Path(words[0]), MountOptions.from_json(words[1])
        except (IndexError, ValueError, TypeError):
            return failure("mount", 22, "usage: mount MOUNTPOINT OPTIONS")
        if request.caller.uid not in (0, os.geteuid()):
            return failure("mount", 1, "only the daemon's user or root may mount")
        try:
            _check(mounted, mountpoint, options)
            await mounted.add(mountpoint, options)
        except Exception as error:
            refusal = daemon_error(error)
            if refusal is None:
                raise
            ending = isinstance(error, _Ending)
            return {**failure("mount", 5, refusal.message), "exit": refusal.exit_code, "ending": ending}
        return success("mount", pid=os.getpid(), mountpoint=str(mountpoint))

    return mount


def _check(mounted: MountTable, mountpoint: Path, options: MountOptions) -> None:
    if mounted.transport == "pyfuse3":
        raise DaemonError(LOCKED, "this daemon runs on pyfuse3, which has one mountpoint")
    if options.transport not in ("", mounted.transport):
        raise DaemonError(CONFLICT, f"the store is mounted with transport={mounted.transport}")
    given = (options.memory_bytes, options.log_bytes, options.commit_s)
    if any(value is not None for value in given):
        raise DaemonError(CONFLICT, "memory=, log= and commit= were set by the first mount of this store")
    if mountpoint in mounted:
        if mount_at(mountpoint) is None:
            raise _Ending(LOCKED, f"{mountpoint}: is being unmounted")
        raise DaemonError(FAILED, f"{mountpoint}: is being served already")
