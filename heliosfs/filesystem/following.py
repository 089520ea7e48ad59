"""A store that another process serves, followed: the same state, a few records behind, by who can go on with it.

A follower replays the log while it is written, so that little is left to replay when it takes over
(docs/takeover.md). Where the other has made a cut since, what is stored has another head, and this state another
beginning: then the store is opened as ever. Invariants: nothing of the store is changed; the process has one thread
and no database of its own, so that it can be forked. Must not know: who decides that it is to go on.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from cas.database import Database
from heliosfs.filesystem.continuing import Continuation
from heliosfs.filesystem.replaying import Replay
from heliosfs.storage import refstore
from heliosfs.storage.collecting.claims import Claims
from heliosfs.storage.layout import StoreLayout
from heliosfs.storage.librarian import Librarian
from heliosfs.storage.log import LogFollower, Seen, SeenOtherwise
from heliosfs.storage.note import StoreNote

T = TypeVar("T")


class Following:
    """One store. Not thread-safe.

    Attributes:
        refused: Why its state was of no use to `taken_over`, or None.
    """

    def __init__(
        self,
        store: Path,
        memory: int,
        note: StoreNote | None,
        inherited: Sequence[int] = (),
        call: tuple[int, Callable[[int], None]] | None = None,
    ) -> None:
        """Load what the last cut has stored. Forks a process that looks things up.

        Args:
            note: Of the process that serves the store.
            memory: As StoreOptions.memory, in bytes.
            inherited: Descriptors of the caller's that that process must not keep.
            call: As `Librarian.call`.

        Raises:
            Damaged, OSError.
        """
        layout = StoreLayout(store)
        self.refused: str | None = None
        self._commits = -1 if note is None else note.commits
        self._librarian = Librarian.start(layout.db_dir, inherited)
        self._librarian.call = call
        self._replay = Replay(self._librarian, store, memory, Claims(), Continuation(None))
        self._log = LogFollower(layout.log_dir, self._replay.start, self._replay.record)

    def advance(self, most: int) -> int:
        """Replay up to `most` records more. How many; fewer: no more are there yet. 20 to 40 us each.

        Raises:
            FollowLost, Damaged, OSError: It can't go on.
        """
        with self._replay.cache.blocking():
            return self._log.advance(most)

    def line_for_twin(self) -> socket.socket:
        """For `forked` in a fork of this process, which asks by itself. OSError."""
        return self._librarian.line_for_another()

    def forked(
        self, line: socket.socket, call: tuple[int, Callable[[int], None]], act: Callable[[int], None]
    ) -> None:
        """This is a twin now, called by other means; `act` is done to who reads the database for it, too."""
        self._librarian.use(line)
        self._librarian.call = call
        self._librarian.while_there(act)

    def written_ns(self) -> int:
        """When the log was last written to, as far as it was followed; 0: unknown."""
        return self._log.written_ns()

    def current(self, note: StoreNote | None) -> bool:
        """Whether this state is surely still that of the store: no cut has begun to be committed since."""
        return note is not None and note.commits == self._commits and not self._commits % 2

    def taken_over(
        self, db: Database, current: bool, connections: Collection[int], open_log: Callable[[Replay, Seen], T]
    ) -> tuple[Replay, T] | None:
        """The state, whole, now that its store is ours; None: it is not that of this store any more.

        Args:
            current: It is known to be that of this store.
            connections: That go on.
            open_log: Replays the rest.
        """
        replay = self._replay
        try:
            if not current and db.get(refstore.HEAD) != replay.head:
                self.refused = "a cut was committed since"
                return None
            replay.continuation.narrow(replay.engine, connections)
            # Pages are asked of the librarian still: ours may not be open yet, which takes longer than all of this.
            with replay.cache.blocking():
                log = open_log(replay, self._log.seen)
            replay.page_store.use(db)
            return replay, log
        except SeenOtherwise:
            self.refused = "the log is not what was followed"
            return None
        finally:
            self._librarian.close()
            self._log.close()
