"""A store that another process serves, followed: the same state, a few records behind, by who can go on with it.

A follower replays the log while it is written, so that little is left to replay when it takes over
(docs/takeover.md). Where the other has made a cut since, what is stored has another head, and this state another
beginning: then the store is opened as ever. Invariants: nothing of the store is changed; the process has one thread
and no database of its own, so that it can be forked. Must not know: who decides that it is to go on.
"""

from __future__ import annotations

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
    """One store. Not thread-safe."""

    def __init__(self, store: Path, memory: int, note: StoreNote | None, inherited: Sequence[int] = ()) -> None:
        """Load what the last cut has stored. Forks a process that looks things up.

        Args:
            note: Of the process that serves the store.
            memory: As StoreOptions.memory, in bytes.
            inherited: Descriptors of the caller's that that process must not keep.

        Raises:
            Damaged, OSError.
        """
        layout = StoreLayout(store)
        self._commits = -1 if note is None else note.commits
        self._librarian = Librarian.start(layout.db_dir, inherited)
        self._replay = Replay(self._librarian, store, memory, Claims(), Continuation(None))
        self._log = LogFollower(layout.log_dir, self._replay.start, self._replay.record)

    def advance(self, most: int) -> int:
        """Replay up to `most` records more. How many; fewer: no more are there yet. 20 to 40 us each.

        Raises:
            FollowLost, Damaged, OSError: It can't go on.
        """
        with self._replay.cache.blocking():
            return self._log.advance(most)

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
        self._librarian.close()
        try:
            if not current and db.get(refstore.HEAD) != replay.head:
                return None
            replay.page_store.use(db)
            replay.continuation.narrow(replay.engine, connections)
            with replay.cache.blocking():
                return replay, open_log(replay, self._log.seen)
        except SeenOtherwise:
            return None
        finally:
            self._log.close()
