"""Runs commands: may this caller, do it, tell the kernels, answer. Every way in ends here.

Invariants: a command that was refused has changed nothing and still has a reply; kernels have forgotten what
changed before the reply is given, or, where the caller holds a lock, show nobody names of before. Must not know:
verbs, files, attributes.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from heliosfs.control.commands import Command, Target, check_owner
from heliosfs.control.door import Versions
from heliosfs.control.reply import Reply
from heliosfs.control.snapshotroots import SnapshotRoots
from heliosfs.control.table import VERBS, parse_words, verb_of
from heliosfs.control.words import as_bytes
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ViewNo
from heliosfs.filesystem.types import AfterReply, Caller

_NONE: Final[dict[bytes, Reply]] = {}


class Commands:
    """Commands on branches, and the last result of each kind on each branch.

    Attributes:
        roots: The snapshots that were looked up.
    """

    def __init__(self, fs: Versions, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._fs = fs
        self._clock = clock
        self._last: dict[ViewNo, dict[bytes, Reply]] = {}
        self.roots = SnapshotRoots()

    def may(self, view: ViewNo, caller: Caller) -> None:
        """Whether the caller may use the control surface of the branch: its owner and root may.

        Raises:
            FsError: EACCES; ESTALE for a dead branch.
        """
        if caller.uid:
            check_owner(self._fs.branch(view), caller)

    async def run(
        self, command: Command, view: ViewNo, caller: Caller, *, later: AfterReply | None = None
    ) -> Reply:
        """Do it. About 3 us beside what the filesystem takes.

        Args:
            view: A branch's.
            later: The caller holds locks until the reply: tell the kernels of names after it, by this.

        Returns:
            The reply; of a refusal, too (FsError, and OSError of a log that cannot be appended to).
        """
        fs = self._fs
        verb = VERBS[type(command)]
        try:
            self.may(view, caller)
            outcome = await command.run(Target(fs, self.roots, view, caller, self._clock()))
        except FsError as error:
            return self.refusal(verb, error.errno, error.reason)
        except OSError as error:
            return self.refusal(verb, error.errno or errno.EIO, error.strerror or "")
        changes = outcome.changes
        if changes:
            for change in changes:
                if not change.ino:
                    self._drop(change.view)
            if later is None:
                await fs.publish(changes)
                outcome.told()
            else:
                await fs.publish_around(changes, later, outcome.told)
        else:
            outcome.told()
        return Reply.of(verb, outcome)

    async def run_words(self, view: ViewNo, words: Sequence[bytes] | Sequence[str], caller: Caller) -> Reply:
        """Run a command line's words; never raises FsError. Coherent when it returns."""
        line = as_bytes(words)
        try:
            command = parse_words(line)
        except FsError as error:
            return self.refusal(verb_of(line), error.errno, error.reason)
        return await self.run(command, view, caller)

    def refusal(self, verb: str, errno_: int, reason: str) -> Reply:
        """The reply to a refused command."""
        return Reply.refusal(verb, errno_, reason, self._clock())

    def record(self, view: ViewNo, kind: bytes, reply: Reply) -> None:
        """The reply is the branch's last result of this kind.

        A dead branch has none, and who may not use the branch does not leave his traces in it.
        """
        if reply.errno != errno.EACCES and self._fs.is_branch(view):
            self._last.setdefault(view, {})[kind] = reply

    def last(self, view: ViewNo, kind: bytes) -> Reply | None:
        """The branch's last result of this kind since the mount."""
        return self._last.get(view, _NONE).get(kind)

    def results(self) -> Iterator[tuple[ViewNo, bytes, Reply]]:
        """Every last result: view, kind, reply."""
        for view, results in self._last.items():
            for kind, reply in results.items():
                yield view, kind, reply

    def _drop(self, view: ViewNo) -> None:
        """Forget the results of a dead view. O(1)."""
        self._last.pop(view, None)
