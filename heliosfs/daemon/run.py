"""The daemon's life: open the store, mount, answer the socket, and take everything down in order.

The order of closing is the reverse: no new requests, those in progress answered, unmounted, then the store's
last cut. Invariants: nothing is mounted when this returns; whoever waits for readiness gets one word. Must
not know: what a request or a verb does.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from heliosfs.control.reply import Reply
from heliosfs.control.runner import Commands
from heliosfs.core.errors import Damaged, FsError
from heliosfs.daemon import journal
from heliosfs.daemon.checks import check_verbs
from heliosfs.daemon.errors import FAILED, DaemonError, daemon_error, first
from heliosfs.daemon.mounted import MountTable, mount_verb
from heliosfs.daemon.options import DEFAULT_TRANSPORT, MountOptions
from heliosfs.daemon.priority import Foremost
from heliosfs.daemon.readiness import Announcer
from heliosfs.daemon.rpc import Progress, Request, Server, Verb, listening, success
from heliosfs.daemon.sdnotify import ServiceManager
from heliosfs.daemon.takeover import BEAT_S, FAILED_STATUS, Supervised, note_of
from heliosfs.daemon.transfers import transfer_verbs
from heliosfs.daemon.upkeep import keep_up
from heliosfs.filesystem import Filesystem, StoreOptions, open_filesystem
from heliosfs.filesystem.background import logged
from heliosfs.transport.keeping import NobodyKeeps

_log = logging.getLogger("heliosfs.daemon")

_WORK_S: Final = 0.1
"""After a takeover those who waited are answered first; a cut opens the database, 20 to 40 ms on the loop."""
_GC_THRESHOLDS: Final = (50_000, 50, 100)
"""The core makes no cycles; a collection of everything stops all requests for 60 ms at 184,000 objects."""


def run(
    store: Path,
    mountpoint: Path,
    options: MountOptions,
    *,
    announcer: Announcer | Supervised,
    foreground: bool = False,
) -> None:
    """Serve a store's branch until it is unmounted, or until SIGTERM or SIGINT.

    Args:
        store, mountpoint: Absolute, without symlinks; the mountpoint was checked (`mountpoint.prepare`).
        announcer: Told when the mount is live, or why it won't be; a supervisor also keeps what the next process
            needs to go on.
        foreground: Log to standard error and end when the terminal goes (SIGHUP), instead of daemon.log.

    Raises:
        DaemonError: What the user can do something about; told to the announcer already.
    """
    journal.start_logging()
    os.umask(0o077)
    if not foreground:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.chdir("/")
    try:
        trio.run(_serve, store, mountpoint, options, announcer, foreground)
    except Exception as error:
        refusal = daemon_error(first(error))
        if refusal is None:
            _log.exception("the daemon died")
            refusal = DaemonError(FAILED, f"unexpected {type(error).__name__}: {error}")
        else:
            _log.error("%s", refusal.message)
        announcer.failed(refusal)
        raise refusal from error


async def _serve(
    store: Path,
    mountpoint: Path,
    options: MountOptions,
    announcer: Announcer | Supervised,
    foreground: bool,
) -> None:
    keeper = announcer if isinstance(announcer, Supervised) else NobodyKeeps()
    # Who says that we live goes on until the store is closed: the last cut may take its time.
    async with (
        _cancelled_behind() as alive,
        open_filesystem(
            store,
            _store_options(options),
            connections=keeper.connections,
            followed=keeper.followed,
            note=note_of(keeper),
        ) as fs,
    ):
        if keeper.read_only:
            fs.log.failed = OSError(errno.EROFS, "served read-only: processes that changed it died again and again")
        if not foreground:
            journal.move_to_store(store)
        _log.info("store %s, process %d, branch %s at %s", store, os.getpid(), options.branch, mountpoint)
        if keeper.again:
            _log.info("%s", _told_of(fs, keeper.followed is not None))
        foremost = Foremost(partial(trio.lowlevel.current_trio_token().run_sync_soon, idempotent=True))
        commands = Commands(fs)
        mounted = MountTable(
            fs, store, commands, options.transport or DEFAULT_TRANSPORT, keeper, quick=options.pm_qos
        )
        facts = partial(daemon_facts, mounted, keeper)
        fs.serving = facts
        server = Server(
            {**daemon_verbs(mounted, keeper, facts), **transfer_verbs(fs), **check_verbs(fs)},
            words_verb(fs, commands),
        )
        async with listening(store, server, keeper), _last_words(announcer), trio.open_nursery() as nursery:
            nursery.start_soon(logged, partial(keep_up, fs, commands, collect=options.gc == "auto"))
            nursery.start_soon(_stop_on_signal, mounted, nursery.cancel_scope, foreground, keeper)
            await nursery.start(_serve_mounts, mounted, mountpoint, options, nursery.cancel_scope)
            if isinstance(announcer, Supervised):
                fs.persister.told = announcer.stored
                alive.start_soon(announcer.beat)
                nursery.start_soon(logged, partial(_hand_over, announcer, fs, mounted))
            else:
                manager = ServiceManager.from_environment()
                manager.ready(str(mountpoint))
                alive.start_soon(_say_alive, manager)
            if not keeper.again:
                gc.collect()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
            announcer.ready()
            if keeper.followed is not None:
                await trio.sleep(_WORK_S)
            if options.realtime:
                foremost.begin(first=keeper.followed is not None)
                nursery.start_soon(_tend, foremost)
            else:
                foremost.end()
            if keeper.followed is not None:
                fs.cut_if_due()
        # What is left to do nobody waits for.
        foremost.end()


@asynccontextmanager
async def _cancelled_behind() -> AsyncIterator[trio.Nursery]:
    """Tasks that end when what is inside has ended."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _last_words(announcer: Announcer | Supervised) -> AsyncIterator[None]:
    """What goes wrong while another process could go on ends this one at once: the log has everything, and taking
    down in order would keep the kernel's callers waiting for a cut."""
    try:
        yield
    except Exception:
        if isinstance(announcer, Supervised) and announcer.serving:
            _log.exception("this worker has failed")
            os._exit(FAILED_STATUS)
        raise


async def _tend(foremost: Foremost) -> None:
    while True:
        await trio.sleep(BEAT_S)
        foremost.tend()


async def _say_alive(manager: ServiceManager) -> None:
    while manager.every_s:
        manager.alive(trio.current_time())
        await trio.sleep(manager.every_s)


async def _hand_over(supervised: Supervised, fs: Filesystem, mounted: MountTable) -> None:
    """Let another process go on when asked to; with a cut while we still serve, so that it has little to replay."""
    if not await supervised.wait_hand_over():
        _log.error("the supervisor died before it could say that the mount is live: unmounting")
        mounted.stop()
        return
    # It has more to replay where this fails, on a full disk for one.
    with contextlib.suppress(OSError, Damaged):
        await fs.wait_persisted()
    supervised.handing_over = True
    mounted.hand_over()


async def _serve_mounts(
    mounted: MountTable,
    mountpoint: Path,
    options: MountOptions,
    done: trio.CancelScope,
    task_status: trio.TaskStatus[None],
) -> None:
    await mounted.serve(mountpoint, options, task_status)
    done.cancel()


async def _stop_on_signal(
    mounted: MountTable, scope: trio.CancelScope, foreground: bool, keeper: Supervised | NobodyKeeps
) -> None:
    """The first signal ends the session in order; a second one does not wait for requests in progress."""
    watched = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if foreground else [])]
    with trio.open_signal_receiver(*watched) as signals:
        asked = False
        async for number in signals:
            _log.info("%s", signal.Signals(number).name)
            if asked or not mounted.serving:
                keeper.leaving = True
                scope.cancel()
            else:
                mounted.stop()
            asked = True


def words_verb(fs: Filesystem, commands: Commands) -> Verb:
    """Answers the verbs of the one command table, on the branch that the request names."""

    async def answer(request: Request, progress: Progress) -> Mapping[str, object]:
        view = fs.find_branch(os.fsencode(request.branch)).view
        reply: Reply = await commands.run_words(view, request.argv, request.caller)
        return reply.as_dict()

    return answer


def daemon_facts(mounted: MountTable, keeper: Supervised | NobodyKeeps) -> dict[str, object]:
    """What `ping` and `status` tell of the daemon itself."""
    at = mounted.mountpoints
    return {
        "pid": keeper.pid,
        "worker_pid": os.getpid(),
        "restarts": keeper.restarts,
        "supervised": isinstance(keeper, Supervised) and not keeper.alone,
        "transport": mounted.transport,
        "mountpoint": at[0] if at else None,
        "mountpoints": at,
    }


def daemon_verbs(
    mounted: MountTable, keeper: Supervised | NobodyKeeps, facts: Callable[[], dict[str, object]]
) -> dict[str, Verb]:
    """The verbs that are the daemon's own: ping, mount, unmount, upgrade."""

    async def ping(request: Request, progress: Progress) -> Mapping[str, object]:
        return success("ping", **facts())

    async def unmount(request: Request, progress: Progress) -> Mapping[str, object]:
        told = facts()
        mounted.stop(Path(request.argv[1]) if len(request.argv) > 1 else None)
        return success("unmount", **told)

    async def upgrade(request: Request, progress: Progress) -> Mapping[str, object]:
        if not isinstance(keeper, Supervised):
            raise FsError(errno.EOPNOTSUPP, "nobody supervises this mount: unmount it and mount it again")
        if request.caller.uid not in (0, os.geteuid()):
            raise FsError(errno.EPERM, "only the daemon's user or root may do this")
        if not keeper.replace():
            raise FsError(errno.ESRCH, "the supervisor is gone: unmount and mount again")
        return success("upgrade", **facts())

    return {"ping": ping, "mount": mount_verb(mounted), "unmount": unmount, "upgrade": upgrade}


def _told_of(fs: Filesystem, follower: bool) -> str:
    """How this process has come to the state with which it goes on, and how long that took."""
    recovery = fs.options["recovery"]
    assert isinstance(recovery, dict)
    records, followed = recovery["records"], recovery["followed"]
    found = f"{followed} of {records} records followed" if follower else f"nobody followed: {records} records"
    refused = recovery["refused"]
    if refused is not None:
        found = f"what was followed is of no use ({refused}): {records} records"
    return f"gone on within {1000 * recovery['seconds']:.0f} ms, {found}"


def _store_options(options: MountOptions) -> StoreOptions:
    default = StoreOptions()
    return StoreOptions(
        memory=default.memory if options.memory_bytes is None else options.memory_bytes,
        log=default.log if options.log_bytes is None else options.log_bytes,
        commit_s=default.commit_s if options.commit_s is None else options.commit_s,
    )
