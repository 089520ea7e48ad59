"""The three ways a verb reaches a branch: its `ctl` file, the daemon's socket, or the store itself.

Invariants: a command is the same words on each way, and its reply the same JSON object; the store is opened
here only when no daemon answers, and under its lock. Must not know: what any verb means.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import click

from heliosfs.cli.client import connect
from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.locate import Place, locate
from heliosfs.cli.output import Reply, shown
from heliosfs.cli.verb import checked, start_directory
from heliosfs.control import ioctl

_CHUNK = 1 << 20


class Backend(Protocol):
    """Runs one command on one branch."""

    def run(self, words: Sequence[str]) -> Reply:
        """The command's reply, failures included. CliError if it could not be delivered."""
        ...


@dataclass(slots=True, frozen=True)
class CtlFile:
    """The branch's `.helios/ctl`: an ioctl carries the line and its reply.

    Where the transport has none, the line is written to the descriptor and its reply read from the same one.

    Attributes:
        place: The branch.
    """

    place: Place

    def run(self, words: Sequence[str]) -> Reply:
        """Three system calls and the command itself."""
        line = os.fsencode(shlex.join(words)) + b"\n"
        try:
            descriptor = os.open(self.place.ctl, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise CliError.from_os(error) from error
        try:
            refused, reply = self._in_one_call(descriptor, line)
            if refused is not None and refused.errno == errno.ENOTTY:
                refused, reply = None, b""
                try:
                    os.write(descriptor, line)
                except OSError as error:
                    refused = error
            # The reason in words can be read back from the same descriptor, like a reply that is long.
            answer = _object(reply) if reply else self._read(descriptor)
        finally:
            os.close(descriptor)
        # A refusal that came without a reply of its own leaves the branch's last result to be read.
        expected = None if refused is None else errno.errorcode.get(refused.errno or 0)
        if answer is not None and (refused is None or answer.get("errno") == expected):
            return answer
        raise CliError.from_os(refused or OSError(5, "the control file gave no reply", self.place.ctl))

    @staticmethod
    def _in_one_call(descriptor: int, line: bytes) -> tuple[OSError | None, bytes]:
        """Why the command was refused, and its reply; b"" if there is none, or it does not fit."""
        if len(line) > ioctl.TEXT_MAX:
            return OSError(errno.ENOTTY, "too long"), b""
        structure = ioctl.request(line)
        refused = None
        try:
            fcntl.ioctl(descriptor, ioctl.NUMBER, structure, True)
        except OSError as error:
            refused = error
        reply, whole = ioctl.reply_in(structure)
        # Untouched, where it did not come to a reply.
        return refused, reply if whole == len(reply) else b""

    @staticmethod
    def _read(descriptor: int) -> Reply | None:
        """The JSON line that answers this descriptor's command; None if there is none."""
        parts: list[bytes] = []
        offset = 0
        try:
            while part := os.pread(descriptor, _CHUNK, offset):
                parts.append(part)
                offset += len(part)
        except OSError:
            return None
        return _object(b"".join(parts))


def _object(line: bytes) -> Reply | None:
    try:
        reply = json.loads(line)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None


@dataclass(slots=True, frozen=True)
class Socket:
    """The daemon of a mounted store.

    Attributes:
        store: The store's directory, absolute.
        branch: "main/exp".
    """

    store: bytes
    branch: str

    def run(self, words: Sequence[str]) -> Reply:
        """One connection a command."""
        client = connect(self.store)
        if client is None:
            raise CliError("the daemon went away", "try again", Exit.LOCKED)
        with client:
            return client.ask(words, self.branch)


@dataclass(slots=True, frozen=True)
class Offline:
    """A store that no daemon has open: opened in this process, under its lock.

    Attributes:
        store: The store's directory, absolute.
        branch: "main/exp".
    """

    store: bytes
    branch: str

    def run(self, words: Sequence[str]) -> Reply:
        """Opens the store, runs the command, waits until it is durable, closes the store."""
        from heliosfs.cli.offline import run_words

        return run_words(self.store, self.branch, words)


@dataclass(slots=True, frozen=True)
class Target:
    """What a verb acts on, as its options say.

    Attributes:
        backend: The way to it.
        place: Where the branch is mounted, if it was found by path.
        base: The directory that relative paths start from, absolute.
    """

    backend: Backend
    place: Place | None
    base: bytes

    def ask(self, words: Sequence[str]) -> Reply:
        """Run a command.

        Raises:
            CliError: The reply is a failure.
        """
        return checked(self.backend.run(words))


def reach_store(store: bytes, branch: str) -> Backend:
    """The way to a branch of a store: its daemon if one answers, else the store itself.

    Raises:
        CliError: No store there (exit 10).
    """
    client = connect(store)
    if client is not None:
        client.close()
        return Socket(store, branch)
    if not os.path.isfile(os.path.join(store, b"format")):
        raise no_store(store)
    return Offline(store, branch)


def no_store(store: bytes) -> CliError:
    """There is no store at this path (exit 10)."""
    path = shown(store)
    return CliError(f"{path}: no store here", f"make one: heliosfs init {shlex.quote(path)}", Exit.NO_STORE)


def reach(ctx: click.Context, at: bytes | None, store: bytes | None, branch: str | None) -> Target:
    """The branch that a verb's -C, --store and --branch mean; the current directory's without them.

    Raises:
        CliError: No branch there, no store there, or options that do not go together (exit 2).
    """
    if store is not None:
        full = os.path.normpath(os.path.join(start_directory(ctx, None), store))
        return Target(reach_store(full, branch or "main"), None, full)
    if branch is not None:
        raise CliError("--branch goes with --store", "or use -C PATH", Exit.USAGE, errno_name="EINVAL")
    base = start_directory(ctx, at)
    place = locate(base)
    return Target(CtlFile(place), place, os.path.realpath(base))
