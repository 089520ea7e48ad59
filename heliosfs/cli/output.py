"""How results look: one JSON object, or lines and aligned tables for people.

Invariants: with --json exactly one line goes to stdout; nothing here writes colour or cursor codes.
Must not know: where a reply came from.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from heliosfs.cli.exits import CliError

Reply = dict[str, object]
"""One reply, as control defines it: ok, verb, id, name, errno, error, durable, time_ns and more by verb."""


def local_reply(verb: str, **extra: object) -> Reply:
    """A successful reply to a verb that no filesystem answered (mount, doctor, ...); time is now."""
    reply: Reply = {"ok": True, "verb": verb, "id": None, "name": None, "errno": None, "error": None}
    reply.update(durable=True, time_ns=time.time_ns())
    reply.update(extra)
    return reply


def error_reply(verb: str | None, error: CliError) -> Reply:
    """The JSON object of a failed verb: the same keys as a reply, `exit` and `remedy` beside them."""
    reply: Reply = {"ok": False, "verb": verb, "id": None, "name": None, "errno": error.errno_name}
    reply.update(error=error.what, durable=False, time_ns=time.time_ns())
    reply.update(exit=int(error.code), remedy=error.remedy)
    reply.update(error.extra)
    return reply


def write_json(reply: Mapping[str, object]) -> None:
    """One JSON object on one line of stdout, in UTF-8 whatever the locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(json_line(reply))
    sys.stdout.flush()


def json_line(reply: Mapping[str, object]) -> bytes:
    """A JSON object and a newline; bytes that are not UTF-8 are quoted as git quotes them."""
    try:
        return json.dumps(reply, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        from heliosfs.control.reply import encode_line

        return encode_line(reply)


def write_lines(lines: Iterable[str]) -> None:
    """Lines on stdout; bytes that are not UTF-8 leave as they came in (surrogateescape)."""
    text = "".join(f"{line}\n" for line in lines)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.flush()


def shown(path: bytes | str) -> str:
    """A path for a message: what can be decoded as it is, other bytes as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(size_bytes: int) -> str:
    """1536 -> '1.5 KiB'; at most four digits before the unit."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    value, step = size_bytes / 1024, 0
    while value >= 1000 and step < len(_UNITS) - 1:
        value /= 1024
        step += 1
    return f"{value:.1f} {_UNITS[step]}" if value < 100 else f"{value:.0f} {_UNITS[step]}"


def time_text(time_ns: int) -> str:
    """Local time to the second; '-' for 0 (unknown)."""
    if time_ns <= 0:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // 1_000_000_000))


def took_text(seconds: float) -> str:
    """0.0000123 -> '12 us', 0.0123 -> '12 ms', 3.21 -> '3.2 s'."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.1f} s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Columns aligned by their widest cell, two blanks between them, no trailing blanks.

    Args:
        head: Column titles, as many as each row has cells.
        right: Indices of columns that are flush right (numbers).
    """
    flush = frozenset(right)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = (
            cell.rjust(width) if at in flush else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return lines


def as_int(value: object) -> int:
    """A number out of a JSON reply; 0 for what is none."""
    return value if isinstance(value, int) else 0


def as_rows(value: object) -> list[dict[str, object]]:
    """A list of objects out of a JSON reply; anything else in it is left out."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def warning_lines(reply: Mapping[str, object]) -> list[str]:
    """What an import or export could not do as it should."""
    warnings = reply.get("warnings")
    return [f"warning: {text}" for text in warnings] if isinstance(warnings, list) else []


def flatten(value: object, prefix: str = "") -> list[tuple[str, str]]:
    """Nested objects as ('a.b', 'text') pairs, in their order; for status and stats."""
    if isinstance(value, dict):
        pairs: list[tuple[str, str]] = []
        for key, inner in value.items():
            pairs += flatten(inner, f"{prefix}.{key}" if prefix else str(key))
        return pairs
    if isinstance(value, bool):
        return [(prefix, "yes" if value else "no")]
    if isinstance(value, list):
        return [(prefix, ", ".join(str(item) for item in value) or "-")]
    return [(prefix, "-" if value is None else str(value))]
