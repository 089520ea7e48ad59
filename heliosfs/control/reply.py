"""What a command answers: one JSON line, the same on every way in.

    {"ok": bool, "verb": str, "id": str|null, "name": str|null, "errno": "EEXIST"|null, "error": str|null,
     "durable": bool, "time_ns": int, ...more by verb}

Invariants: a line is valid UTF-8 with exactly one newline, its last byte; text that came from bytes which are
not UTF-8 (surrogate escapes) is quoted as git quotes it. Must not know: verbs.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from typing import Final

from heliosfs.core.errors import FsError
from heliosfs.filesystem.types import Outcome

_ESCAPES: Final = {
    0x07: "\\a",
    0x08: "\\b",
    0x09: "\\t",
    0x0A: "\\n",
    0x0B: "\\v",
    0x0C: "\\f",
    0x0D: "\\r",
    0x22: '\\"',
    0x5C: "\\\\",
}
_CUT_TEXT: Final = 1000
"""Characters of a verb or a reason in a reply that is cut; quoted, each byte of them may take five."""
_OWN_KEYS: Final = frozenset(("ok", "verb", "errno", "error"))


class Reply:
    """The answer to one command; its line is made when somebody reads it.

    Attributes:
        errno: 0 for success.
        error: The reason in words, "" for success.
        extra: Further keys; must not be edited afterwards.
    """

    __slots__ = ("_line", "durable", "errno", "error", "extra", "id", "name", "time_ns", "verb")

    def __init__(
        self,
        verb: str,
        id_: str | None,
        name: str | None,
        durable: bool,
        time_ns: int,
        extra: Mapping[str, object],
        errno_: int = 0,
        error: str = "",
    ) -> None:
        self.verb = verb
        self.id = id_
        self.name = name
        self.durable = durable
        self.time_ns = time_ns
        self.extra = extra
        self.errno = errno_
        self.error = error
        self._line: bytes | None = None

    @classmethod
    def of(cls, verb: str, outcome: Outcome) -> Reply:
        """The reply to what was done. 0.5 us."""
        return cls(verb, outcome.id, outcome.name, outcome.durable, outcome.time_ns, outcome.extra)

    @classmethod
    def refusal(cls, verb: str, errno_: int, reason: str, time_ns: int) -> Reply:
        """The reply to what was refused; without a reason, strerror."""
        return cls(verb, None, None, False, time_ns, {}, errno_, reason or os.strerror(errno_))

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return self.errno == 0

    @property
    def line(self) -> bytes:
        """The JSON line, newline included. About 5 us the first time."""
        line = self._line
        if line is None:
            line = self._line = encode_line(self._keys())
        return line

    def cut(self) -> bytes:
        """A line of less than 12 KiB in place of one that does not fit: the eight keys of every reply."""
        short = Reply(
            self.verb[:_CUT_TEXT],
            self.id,
            self.name,
            self.durable,
            self.time_ns,
            {},
            self.errno,
            self.error[:_CUT_TEXT],
        )
        return short.line

    def as_dict(self) -> dict[str, object]:
        """What the line says, as who reads it will have it."""
        keys: dict[str, object] = json.loads(self.line)
        return keys

    def _keys(self) -> dict[str, object]:
        """The keys in their order; those of `extra` never replace ok, verb, errno and error."""
        failed = self.errno
        keys: dict[str, object] = {
            "ok": not failed,
            "verb": self.verb,
            "id": self.id,
            "name": self.name,
            "errno": errno.errorcode.get(failed, str(failed)) if failed else None,
            "error": self.error if failed else None,
            "durable": self.durable,
            "time_ns": self.time_ns,
        }
        for key, value in self.extra.items():
            if key not in _OWN_KEYS:
                keys[key] = value
        return keys

    def raise_refusal(self) -> None:
        """Nothing for a success.

        Raises:
            FsError: With the errno and reason of a refusal.
        """
        if self.errno:
            raise FsError(self.errno, self.error)


def encode_line(value: Mapping[str, object]) -> bytes:
    """One JSON line. Text with surrogate escapes, or that begins with a quote, is quoted as git quotes."""
    text = _ENCODER.encode(value)
    # A name that begins with a quote is quoted, too: else it could be taken for a quoted one.
    if '"\\"' not in text:
        try:
            return text.encode() + b"\n"
        except UnicodeEncodeError:
            pass
    return _ENCODER.encode(_quoted(value)).encode() + b"\n"


def encode_lines(values: Iterable[Mapping[str, object]]) -> bytes:
    """JSON lines."""
    return b"".join(map(encode_line, values))


def git_quoted(name: bytes) -> str:
    """A name in double quotes with C escapes, every byte that is not printable ASCII in octal."""
    return '"' + "".join(map(_escaped, name)) + '"'


def _escaped(byte: int) -> str:
    escape = _ESCAPES.get(byte)
    if escape is not None:
        return escape
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    raise TypeError(f"no JSON for {type(value).__name__}")


def _quoted(value: object) -> object:
    """The same value with every text in it quoted where that is needed."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        name = value.encode("utf-8", "surrogateescape")
        if value.startswith('"'):
            return git_quoted(name)
        try:
            name.decode()
        except UnicodeDecodeError:
            return git_quoted(name)
        return value
    if isinstance(value, Mapping):
        return {_quoted(key): _quoted(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_quoted(inner) for inner in value]
    return value


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain)
