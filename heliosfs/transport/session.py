"""What the daemon asks of a mount, whichever transport serves it, and which transports there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from heliosfs.core.ids import ViewNo
from heliosfs.transport.keeping import Keeper
from heliosfs.transport.registry import Registry
from heliosfs.transport.requests import MakeControl

if TYPE_CHECKING:
    from heliosfs.filesystem import Filesystem


class Session(Protocol):
    """Serves one view at one mountpoint until somebody unmounts it.

    Attributes:
        transport: Its name, as in `-o transport=`.
        mountpoint: Absolute, its symlinks resolved.
    """

    transport: str
    mountpoint: Path

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Mount, say started, serve until unmounted or until `stop`, and leave nothing mounted.

        Raises:
            MountRefused: Nothing is mounted then.
        """

    @property
    def serving(self) -> bool:
        """Whether it is mounted and answers requests."""

    def stop(self) -> None:
        """End the session in good order: requests in progress are answered first. Idempotent."""

    def hand_over(self) -> None:
        """Answer what was read, and leave the mount to another process."""


class MakeSession(Protocol):
    """The constructor of a transport's session."""

    def __call__(
        self,
        fs: Filesystem,
        registry: Registry,
        make_control: MakeControl,
        view: ViewNo,
        mountpoint: Path,
        options: set[str],
        *,
        shared: bool = False,
        debug: bool = False,
        keeper: Keeper,
        besides: Mapping[str, Any],
    ) -> Session: ...


def session_class(transport: str) -> MakeSession:
    """The session of a transport, imported only now: each needs what the other does not.

    Raises:
        ValueError: There is none of that name.
        ImportError: What it needs is not installed.
    """
    if transport == "kernel":
        from heliosfs.transport.kernel.session import KernelSession

        return KernelSession
    if transport == "pyfuse3":
        from heliosfs.transport.pyfuse3.session import Pyfuse3Session

        return Pyfuse3Session
    raise ValueError(f"no transport is called {transport}")
