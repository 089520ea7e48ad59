"""What requests have changed whose answers their kernel may not have: so that asking again changes nothing.

A record carries the kernel's connection and the number of the request that made it. A daemon that takes over a
connection finds what was applied in the log, and what the log has been relieved of in the last cut. Must not know:
how requests are read or answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

Asked: TypeAlias = tuple[int, int]
"""(connection, request); connection 0 stands for nobody who could ask again."""


class Applied(NamedTuple):
    """One record that a request has made.

    Attributes:
        kind, body: As in oplog.
        lsn: Its position.
        length: Bytes of its payload.
    """

    kind: int
    body: bytes
    lsn: int
    length: int


Unanswered: TypeAlias = dict[Asked, list[Applied]]


def to_json(unanswered: Unanswered) -> list[list[object]]:
    """As it is stored: one list for each record, in order."""
    return [
        [*asked, applied.kind, applied.body.hex(), applied.lsn, applied.length]
        for asked, records in sorted(unanswered.items())
        for applied in records
    ]


def from_json(stored: Iterable[tuple[int, int, int, str, int, int]]) -> Unanswered:
    """The inverse. Raises ValueError, TypeError for anything else."""
    found: Unanswered = {}
    for connection, request, kind, body, lsn, length in stored:
        found.setdefault((connection, request), []).append(Applied(kind, bytes.fromhex(body), lsn, length))
    return found
