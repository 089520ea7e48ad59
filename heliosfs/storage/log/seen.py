"""How far a log has been replayed by a process that follows it, so that recovery need not do that again."""

from __future__ import annotations

from dataclasses import dataclass, field


class SeenOtherwise(Exception):
    """What was replayed is not what the log holds: it must be replayed from the beginning."""


@dataclass(slots=True)
class SeenLife:
    """How far one life has been replayed.

    Attributes:
        salt: Of its header: the life itself, and no later one of the file.
        end: Offset behind the last record that counts.
        records, bytes: Replayed of it.
    """

    salt: bytes
    end: int
    records: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Seen:
    """What of a log has been replayed already, for `Log.open`.

    Attributes:
        lives: By number, in the order of the log; all but the last to their end.
        known: The highest durable position that a record claims.
    """

    lives: dict[int, SeenLife] = field(default_factory=dict)
    known: int = 0

    @property
    def records(self) -> int:
        """Replayed in all."""
        return sum(life.records for life in self.lives.values())
