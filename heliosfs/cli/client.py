"""Talks to the daemon of a store over the socket in it: one JSON line out, JSON lines back.

Invariants: plain blocking sockets, no trio; a store without a daemon is an answer (None), not an error.
Must not know: verbs, stores' files other than the socket.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.output import Reply, shown
from heliosfs.daemon.address import socket_address

Progress = Callable[[int, int], None]
"""Called with (files, bytes) done so far."""

Steps = Callable[[str, int, int], None]
"""Called with (stage, done, of)."""

_CONNECT_S = 5.0
_SEE = "see daemon.log in the store"


class DaemonGone(CliError):
    """The daemon ended before it answered."""


class Client:
    """A connection to one daemon; close it, or use it as a context manager."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lines = connection.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. No error."""
        self._lines.close()
        self._socket.close()

    def ask(
        self,
        words: Sequence[str],
        branch: str | None = None,
        progress: Progress | None = None,
        steps: Steps | None = None,
    ) -> Reply:
        """Have one command run and wait for its reply, however long it takes.

        Args:
            words: The verb and its arguments; bytes that are not UTF-8 as surrogate escapes.
            branch: "main/exp/a"; None for the branch that the daemon has mounted.
            progress: Told of each progress line of files and bytes, if given.
            steps: Told of each progress line of stages, if given.

        Raises:
            CliError: It sent something else than JSON lines. DaemonGone.
        """
        request = {"argv": list(words), "branch": branch, "cwd_path": None}
        try:
            self._socket.sendall(json.dumps(request).encode("ascii") + b"\n")
            while line := self._lines.readline():
                reply = json.loads(line)
                if not isinstance(reply, dict):
                    raise ValueError("not an object")
                state = reply.get("progress")
                if not isinstance(state, dict):
                    return reply
                if "stage" in state and steps is not None:
                    steps(str(state["stage"]), int(state.get("done", 0)), int(state.get("of", 0)))
                elif progress is not None:
                    progress(int(state.get("files", 0)), int(state.get("bytes", 0)))
        except OSError as error:
            raise DaemonGone(f"the daemon's answer was cut short: {error}", _SEE) from error
        except ValueError as error:
            raise CliError(f"the daemon's answer makes no sense: {error}", _SEE) from error
        raise DaemonGone("the daemon went away before it answered", _SEE)


def connect(store: bytes) -> Client | None:
    """Reach the daemon that has `store` open.

    Returns:
        None if none answers: no socket, or nobody listens on it.

    Raises:
        CliError: The socket is there but may not be used (another user's store).
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(_CONNECT_S)
    try:
        with socket_address(Path(os.fsdecode(store))) as address:
            connection.connect(address)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        return None
    except PermissionError as error:
        connection.close()
        raise CliError(
            f"{shown(store)}: permission denied", "it is another user's store", errno_name="EACCES"
        ) from error
    except OSError as error:
        connection.close()
        raise CliError(
            f"{shown(store)}: the daemon does not take connections: {error}", code=Exit.LOCKED
        ) from error
    connection.settimeout(None)
    return Client(connection)
