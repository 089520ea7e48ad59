"""The reply to a command that a former process carried out and did not answer, made from its record.

It says what the reply would have said, but for counts of what differed, which nobody has any more. Must not know:
how the record was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from heliosfs.control.reply import Reply
from heliosfs.core import oplog
from heliosfs.core.oplog import Record
from heliosfs.core.unanswered import Applied


def reply_again(applied: Sequence[Applied]) -> Reply | None:
    """The reply to the command that made these records; None if none of them is a command's."""
    for entry in reversed(applied):
        record = oplog.decode(entry.kind, entry.body)
        make = _REPLIES.get(type(record))
        if make is not None:
            return make(record, entry.lsn)
    return None


def _checkpoint(record: oplog.Checkpoint, lsn: int) -> Reply:
    return _reply("checkpoint", lsn, record.name, record.now_ns)


def _fork(record: oplog.Fork, lsn: int) -> Reply:
    return _reply("branch", record.branch, record.name, record.now_ns, view=record.new_view)


def _restore(record: oplog.Restore, lsn: int) -> Reply:
    return _reply("restore", record.snapshot, None, record.now_ns, safety=_text(record.safety))


def _restore_path(record: oplog.RestorePath, lsn: int) -> Reply:
    safety, path = _text(record.safety), _text(record.path)
    return _reply("restore", record.snapshot, None, record.now_ns, path=path, safety=safety)


def _forget(record: oplog.ForgetSnapshot, lsn: int) -> Reply:
    return _reply("snapshot rm", record.snapshot, None, record.now_ns)


def _rename(record: oplog.RenameSnapshot, lsn: int) -> Reply:
    return _reply("snapshot mv", record.snapshot, record.name, record.now_ns)


def _discard(record: oplog.Discard, lsn: int) -> Reply:
    return _reply("branch rm", None, None, record.now_ns)


_REPLIES: Final[dict[type[Record], Callable[..., Reply]]] = {
    oplog.Checkpoint: _checkpoint,
    oplog.Fork: _fork,
    oplog.Restore: _restore,
    oplog.RestorePath: _restore_path,
    oplog.ForgetSnapshot: _forget,
    oplog.RenameSnapshot: _rename,
    oplog.Discard: _discard,
}


def _reply(verb: str, id_: int | None, name: bytes | None, time_ns: int, **extra: object) -> Reply:
    shown = None if id_ is None else str(id_)
    return Reply(verb, shown, None if name is None else _text(name), False, time_ns, extra)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
