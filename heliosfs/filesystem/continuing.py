"""Connections that outlive their daemon: what the replay of the log must keep for them.

Three things get lost with a process: which requests were carried out but not answered, which unlinked files a
kernel still knows, and which of its caches it was about to be told to drop. The first stands in the records'
headers, the second are all that were unlinked, the third follows from the records that change a tree as a whole.
Must not know: descriptors, how a request is answered.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from heliosfs.core import oplog
from heliosfs.core.diff import Change, kernel_changes
from heliosfs.core.engine import Engine
from heliosfs.core.ids import Ino
from heliosfs.core.oplog import Record
from heliosfs.core.unanswered import Applied
from heliosfs.storage.log import Place

_WHOLE_TREE: Final = (oplog.Restore, oplog.RestorePath, oplog.Adopt)
_DEATHS: Final = (oplog.Discard, oplog.ForgetSnapshot, oplog.ExpireSnapshots)


class Continuation:
    """Watches a replay for the sake of connections that go on.

    Attributes:
        connections: Their numbers; empty where a mount begins anew.
        changes: What these kernels may not have been told; told again, it costs little.
    """

    def __init__(self, connections: Collection[int] = ()) -> None:
        self.connections = frozenset(connections)
        self.changes: list[Change] = []

    def __bool__(self) -> bool:
        return bool(self.connections)

    def begin(self, engine: Engine) -> None:
        """The refs are loaded: of what the last cut carried, only these connections' requests still matter."""
        unanswered = engine.unanswered
        engine.unanswered = {asked: unanswered[asked] for asked in unanswered if asked[0] in self.connections}

    def applied(self, engine: Engine, record: Record, body: bytes | memoryview, place: Place, result: Any) -> None:
        """A record has been applied; `result` is what its rule gave."""
        if place.connection in self.connections:
            entry = Applied(record.KIND, bytes(body), place.lsn, place.length)
            engine.unanswered.setdefault((place.connection, place.request), []).append(entry)
        if isinstance(record, _WHOLE_TREE):
            self.changes.extend(kernel_changes(record.view, result, engine.pages))
        elif isinstance(record, _DEATHS):
            self.changes.extend(Change(view, Ino(0), True, ()) for view in result)

    def finish(self, engine: Engine) -> None:
        """All is replayed. Files without a name live on only where a kernel may still know them."""
        if not self.connections:
            for branch in engine.branches.values():
                branch.orphans.clear()
