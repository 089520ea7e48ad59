"""Lines of the operation log, rendered only when somebody reads or stores them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from heliosfs.core.refs import Branch


class VersionRecord(Protocol):
    """What every record of a versioning verb has."""

    now_ns: int
    uid: int
    pid: int


class Event(NamedTuple):
    """One versioning operation: where it lies in the log, what it did, to which branch."""

    lsn: int
    verb: str
    branch: Branch
    record: VersionRecord
    more: dict[str, object]

    def line(self) -> dict[str, object]:
        """The line as it is stored and shown; names as text, bytes that are not UTF-8 as surrogates."""
        return {
            "lsn": self.lsn,
            "time_ns": self.record.now_ns,
            "verb": self.verb,
            "branch": text_of(self.branch.path),
            "uid": self.record.uid,
            "pid": self.record.pid,
            **{key: text_of(value) if isinstance(value, bytes) else value for key, value in self.more.items()},
        }


def text_of(name: bytes) -> str:
    """A name as text that leads back to the same bytes."""
    return name.decode("utf-8", "surrogateescape")
