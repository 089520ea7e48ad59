"""How results look."""

from __future__ import annotations

import errno
import json

import pytest

from heliosfs.cli.exits import CliError, Exit, exit_of
from heliosfs.cli.output import (
    error_reply,
    flatten,
    json_line,
    local_reply,
    size_text,
    table,
    time_text,
    took_text,
)

KEYS = ["ok", "verb", "id", "name", "errno", "error", "durable", "time_ns"]


def test_every_reply_has_the_keys_of_a_reply() -> None:
    good = local_reply("mount", store="/s")
    bad = error_reply("mount", CliError("no", "do", Exit.LOCKED, errno_name="EBUSY", extra={"path": "/p"}))
    assert list(good)[:8] == KEYS
    assert list(bad)[:8] == KEYS
    assert (good["ok"], good["store"]) == (True, "/s")
    assert (bad["ok"], bad["exit"], bad["errno"], bad["path"], bad["remedy"]) == (False, 11, "EBUSY", "/p", "do")


def test_json_is_one_line_and_quotes_bytes_that_are_not_utf8() -> None:
    line = json_line({"path": b"/\xff/\xc3\xa9".decode("utf-8", "surrogateescape"), "text": "a\nb"})
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == {"path": '"/\\377/\\303\\251"', "text": "a\nb"}
    assert json_line({"é": "ü"}) == '{"é":"ü"}\n'.encode()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (150 << 20, "150 MiB"), (1023 << 20, "1.0 GiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


def test_times() -> None:
    assert time_text(0) == "-"
    assert len(time_text(1_700_000_000_000_000_000)) == 19
    assert [took_text(s) for s in (0.0000123, 0.0123, 0.5, 3.21)] == ["12 us", "12.3 ms", "500 ms", "3.2 s"]


def test_a_table_is_aligned() -> None:
    assert table(("A", "NUM"), [("long", "1"), ("x", "12345")], right=(1,)) == [
        "A       NUM",
        "long      1",
        "x     12345",
    ]


def test_nested_objects_become_pairs() -> None:
    assert flatten({"a": {"b": 1, "c": True}, "d": ["x", "y"], "e": None, "f": []}) == [
        ("a.b", "1"),
        ("a.c", "yes"),
        ("d", "x, y"),
        ("e", "-"),
        ("f", "-"),
    ]


def test_errno_decides_the_exit_code() -> None:
    assert [exit_of(n) for n in ("EEXIST", "EBUSY", "ESTALE", "EINVAL", "ENOENT", "EIO", None)] == [
        *(Exit.CONFLICT, Exit.CONFLICT, Exit.CONFLICT, Exit.USAGE, Exit.ERROR, Exit.DAMAGED, Exit.ERROR)
    ]


def test_a_failed_system_call_is_one_line_with_its_path() -> None:
    error = CliError.from_os(OSError(errno.ENOSPC, "No space left on device", b"/a\xff"))
    assert error.line() == "heliosfs: /a\\xff: No space left on device"
    assert (error.code, error.errno_name) == (Exit.ERROR, "ENOSPC")
