"""Connections that outlive their daemon: what the replay of the log must keep for them.

Three things get lost with a process: which requests were carried out but not answered, which unlinked files a
kernel still knows, and which of its caches it was about to be told to drop. The first stands in the records'
headers, the second are all that were unlinked, the third follows from the records that change a tree as a whole.
Must not know: descriptors, how a request is answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any, Final

from heliosfs.core import oplog
from heliosfs.core.diff import Change, kernel_changes
from heliosfs.core.engine import Engine
from heliosfs.core.ids import Ino
from heliosfs.core.oplog import Record
from heliosfs.core.unanswered import Applied, Asked
from heliosfs.storage.log import Place

_ANSWERED: Final = 1 << 10
"""Requests for files are answered in the turn of the loop that carries them out; so many later ones prove it. What
waits behind its record is a write that is to be durable: it may be done again, as long as it has not returned. The
first answer after a takeover waits until these are forgotten: with 65,536 of them that took 60 ms."""
_WHOLE_TREE: Final = (oplog.Restore, oplog.RestorePath, oplog.Adopt)
_DEATHS: Final = (oplog.Discard, oplog.ForgetSnapshot, oplog.ExpireSnapshots)


class Continuation:
    """Watches a replay for the sake of connections that go on.

    Attributes:
        connections: Their numbers; empty where a mount begins anew; None as long as they are not known.
        changes: What these kernels may not have been told; told again, it costs little.
    """

    def __init__(self, connections: Collection[int] | None = ()) -> None:
        self.connections = None if connections is None else frozenset(connections)
        self.changes: list[Change] = []
        self._order: deque[Asked] = deque()
        self._met: set[int] = set()

    def __bool__(self) -> bool:
        return self.connections is None or bool(self.connections)

    def _concerns(self, connection: int) -> bool:
        return bool(connection) if self.connections is None else connection in self.connections

    def begin(self, engine: Engine) -> None:
        """The refs are loaded: of what the last cut carried, only these connections' requests still matter."""
        unanswered = engine.unanswered
        engine.unanswered = {asked: unanswered[asked] for asked in unanswered if self._concerns(asked[0])}
        self._met.update(connection for connection, _ in engine.unanswered)

    def narrow(self, engine: Engine, connections: Collection[int]) -> None:
        """Now it is known which connections go on."""
        self.connections = frozenset(connections)
        self._order.clear()
        if not self._met <= self.connections:
            self.begin(engine)

    def applied(self, engine: Engine, record: Record, body: bytes | memoryview, place: Place, result: Any) -> None:
        """A record has been applied; `result` is what its rule gave."""
        if self._concerns(place.connection):
            self._note(engine, record.KIND, bytes(body), place)
        if isinstance(record, _WHOLE_TREE):
            self.changes.extend(kernel_changes(record.view, result, engine.pages))
        elif isinstance(record, _DEATHS):
            self.changes.extend(Change(view, Ino(0), True, ()) for view in result)

    def _note(self, engine: Engine, kind: int, body: bytes, place: Place) -> None:
        asked = (place.connection, place.request)
        self._met.add(place.connection)
        unanswered = engine.unanswered
        records = unanswered.get(asked)
        if records is None:
            records = unanswered[asked] = []
            if kind < oplog.FIRST_VERSION_KIND:
                self._order.append(asked)
                if len(self._order) > _ANSWERED:
                    unanswered.pop(self._order.popleft(), None)
        records.append(Applied(kind, body, place.lsn, place.length))

    def finish(self, engine: Engine) -> None:
        """All is replayed. Files without a name live on only where a kernel may still know them."""
        if not self.connections:
            for branch in engine.branches.values():
                branch.orphans.clear()
